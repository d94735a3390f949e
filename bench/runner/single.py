"""One trial, or one model from elsewhere, without Ray: in this process, or in all of an `accelerate launch`."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

import torch
from accelerate import PartialState
from rich.progress import track

from bench.certify.composed import kind_of_trial, smoothed_source
from bench.certify.examine import examine_trial, refuse_other_answers
from bench.certify.shard import OpenedModel, agreement, certify_images, settle_engine_of
from bench.data import ImageSet, dataset_name, load_images, resolve_data
from bench.data.imageset import other_images
from bench.data.thumbnails import keep_thumbnails
from bench.machine.devices import own_device
from bench.machine.hardware import resolve_precision
from bench.machine.processes import agreed, first_process_first, join_group, leaving_group, wait_for_all
from bench.models.classifier import count_bytes, count_parameters
from bench.models.external import ModelError, allowed_precision
from bench.models.sources import Source, SourceError
from bench.runner import work
from bench.runner.stages import repair, trial_shards_left
from bench.runner.task import trial_task
from bench.settings.trial import Trial
from results.errors import StoreError
from results.store.description import add_trials
from results.store.folder import RunFolder, TrialFolder
from results.store.lock import RunLock, end_command
from results.store.records import StateRecord, TrainingRecord
from results.store.schema import CERTIFICATES, read_table
from results.store.settings import ComposedTrial, ExternalTrial, Precision
from results.store.shards import evenly_spaced


def run_single(trial: Trial, run: RunFolder, shard_size: int) -> bool:
    """Train and certify a trial, finishing what is missing.

    Under `accelerate launch` every process calls this: they train together, and each certifies its part.

    Returns:
        Whether this is the first process, which merges and reports.

    Raises:
        DataError: the data is not to be had, or not the same for every process.
        LockedError: another process works on the run.
    """
    with leaving_group():
        state = join_group()
        with first_process_first():  # which downloads the data, if it must
            data = resolve_data(trial.data)
            trial = trial.model_copy(update={"data": data, "dataset": dataset_name(data)})
        _refuse_other_data(trial)
        with _locked(run, state):
            _train_and_certify(trial, run, shard_size, state)
        return bool(state.is_main_process)


def _train_and_certify(trial: Trial, run: RunFolder, shard_size: int, state: PartialState) -> None:
    if state.is_main_process:
        add_trials(run, [trial])
        keep_thumbnails(run, [trial])
    with _unfinished(run.trial(trial.trial_id), state):
        _finish(trial, run, shard_size, state)


def _finish(trial: Trial, run: RunFolder, shard_size: int, state: PartialState) -> None:
    needed = agreed(lambda: () if repair(trial, run) else trial.needed)
    for part in [*needed, trial]:
        task = trial_task(part, run, certify=part is trial, shard_size=shard_size)
        if agreed(lambda task=task: work.epochs_left(task)):  # type: ignore[misc]
            work.train_model(part, run)
    for shard in agreed(lambda: work.shards_left(task))[state.process_index :: state.num_processes]:
        work.certify(task, shard)
    wait_for_all()


def certify_source(
    source: Source,
    settings: ExternalTrial | ComposedTrial,
    run: RunFolder,
    shard_size: int,
    *,
    batch: int | None = None,
) -> bool:
    """Certify a model that is not trained here, or several that are composed, finishing what is missing; the rows
    become a trial of the run.

    Args:
        batch: images of a forward pass, for a model that does not take as many as usual.

    Returns:
        Whether this is the first process, which merges and reports.

    Raises:
        DataError: as `run_single`.
        SourceError: the model does not fit the data, or answers otherwise than when it was certified before.
        ModelError: it cannot be computed in the precision that is asked for, or that its certificates have.
        RunError: the run has another trial in its place.
        LockedError: another process works on the run.
    """
    with leaving_group():
        state = join_group()
        _refuse_other_data(settings)
        if agreed(lambda: settings.trial_id) != settings.trial_id:
            raise SourceError(
                f"{source.name}: has other weights in each process of the launch: they must be loaded, or drawn from a "
                "seed"
            )
        images = load_images(settings.data, "test", settings.dataset)
        num_classes, answers = examine_trial(source, settings, images)
        evenly_spaced(len(images), settings.certify.images)
        model = _opened(source, settings, run, num_classes)
        with _locked(run, state):
            if state.is_main_process:
                add_trials(run, [settings], replace=False)
                keep_thumbnails(run, [settings])
                if (known := run.trial(settings.trial_id).training).exists():
                    refuse_other_answers(source, settings.trial_id, TrainingRecord.read(known), answers)
                if batch is not None:
                    _keep_batch(settings, run, batch)
            with _unfinished(run.trial(settings.trial_id), state):
                if state.is_main_process:
                    _keep_record(source, settings, run, answers, num_classes, images)
                _certify_all(model, settings, run, shard_size, state)
        return bool(state.is_main_process)


def _opened(source: Source, settings: ExternalTrial | ComposedTrial, run: RunFolder, num_classes: int) -> OpenedModel:
    """The model in one precision on all machines that certify the trial, whatever "auto" would be on each."""
    allowed = allowed_precision(source.model, settings.certify.precision)
    precision = agreed(
        lambda: _precision_of_rows(run.trial(settings.trial_id)) or resolve_precision(allowed, own_device())
    )
    certify = settings.certify.model_copy(update={"precision": precision})
    smoothed = smoothed_source(source, settings.model_copy(update={"certify": certify}), num_classes)
    return OpenedModel(smoothed, kind_of_trial(source, settings), settings.weights)


def _precision_of_rows(folder: TrialFolder) -> Precision | None:
    """Of the certificates that a trial has already; None: it has none."""
    for path in folder.shard_files():
        with suppress(StoreError, IndexError):  # what is damaged, or empty, is set aside later
            precision: Precision = read_table(path, CERTIFICATES)["precision"][0].as_py()
            return precision
    return None


def _refuse_other_data(settings: Trial | ExternalTrial | ComposedTrial) -> None:
    first = agreed(lambda: settings.dataset)
    if settings.dataset != first:
        raise other_images(settings.data, first, settings.dataset)


def _certify_all(
    model: OpenedModel, settings: ExternalTrial | ComposedTrial, run: RunFolder, shard_size: int, state: PartialState
) -> None:
    def decide() -> list[list[int]]:
        left = trial_shards_left(settings, run, shard_size)
        if left:
            settle_engine_of(model, settings, run)
        return left

    shards = agreed(decide)
    mine = shards[state.process_index :: state.num_processes]
    for shard in track(mine, f"certifying {settings.name}", disable=not state.is_main_process):
        certify_images(model, settings, run, shard)
    wait_for_all()


def _locked(run: RunFolder, state: PartialState) -> AbstractContextManager[object]:
    """A block in which no other command works on the run; the first process holds the lock for all."""
    return RunLock(run, on_lost=end_command) if state.is_main_process else nullcontext()


def _keep_record(
    source: Source,
    settings: ExternalTrial | ComposedTrial,
    run: RunFolder,
    answers: list[list[float]],
    num_classes: int,
    data: ImageSet,
) -> None:
    """Write training.json of a model that was not trained in this run: what is known of its training, where it is, and
    what tells it from another with the same weights. That of an earlier command stays."""
    path = run.trial(settings.trial_id).training
    if path.exists():
        return
    same_row = source.trial is not None and settings.name == source.trial.name
    known = TrainingRecord(
        title=source.training.title if source.training and same_row else settings.name,
        checkpoint_sha256=settings.weights,
        num_classes=num_classes,
        classes=None if data.classes is None else list(data.classes),
        test_images=len(data),
        torch_version=str(torch.__version__),
        source=None if source.parts else source.where,
        sources=[part.where for part in source.parts],
        answers=answers,
    )
    if source.training:
        record = source.training.model_copy(update=known.model_dump(include=known.model_fields_set))
    else:  # a frozen program has constants in place of parameters and buffers
        size = {"parameters": count_parameters(source.model) or None, "model_bytes": count_bytes(source.model) or None}
        record = known.model_copy(update=size)
    record.write(path)


def _keep_batch(settings: ExternalTrial | ComposedTrial, run: RunFolder, batch: int) -> None:
    """Note that passes are to be of `batch` images at most, unless certificates of smaller ones are there.

    Raises:
        ModelError: the trial has certificates of larger passes already.
    """
    folder = run.trial(settings.trial_id)
    used = [number for path in folder.shard_files() for number in read_table(path, CERTIFICATES)["batch"].to_pylist()]
    if used and batch < max(used):
        raise ModelError(
            f"--batch = {batch}: the certificates that {settings.trial_id} has are of passes of {max(used)}, whose "
            "roundings differ: leave it out, or give another --out"
        )
    if not used:
        agreement(folder).model_copy(update={"batch": batch}).write(folder.batch)


@contextmanager
def _unfinished(folder: TrialFolder, state: PartialState) -> Iterator[None]:
    """Until the block ends without an error, state.json keeps the trial out of the tables and says why."""
    if not state.is_main_process:
        yield
        return
    StateRecord(state="running", pid=os.getpid(), host=socket.gethostname()).write(folder.state)
    try:
        yield
    except Exception as error:
        StateRecord(state="failed", error=str(error) or type(error).__name__).write(folder.state)
        raise
    folder.state.unlink(missing_ok=True)
