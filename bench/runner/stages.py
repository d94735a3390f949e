"""The stages of one trial, as files: what is finished and what is left."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import pyarrow as pa

from bench.models.digests import is_whole_checkpoint
from bench.settings.trial import Trial
from results.errors import StoreError
from results.store.folder import (
    NO_FILE,
    AnyPath,
    RunFolder,
    TrialFolder,
    remove_leftovers,
    set_aside,
    sha256_of,
    write_whole,
)
from results.store.records import StateRecord, TrainingRecord
from results.store.schema import EPOCHS, SPECTRA, read_table, write_table
from results.store.settings import CertifiedTrial
from results.store.shards import evenly_spaced, repair_shards


def repair(trial: Trial, run: RunFolder) -> bool:
    """Put a trial's training in order before anybody asks how far it is; whether it is done, as `is_trained`.

    What a killed process left is removed, and so is the record of a training whose files are not whole. The same
    training under another trial of the run (other certification settings) is taken over. An ensemble whose members are
    trained gets its record. Of what is trained, checkpoints that do not read back as they were written are set aside,
    that nobody who needs them later has to look.
    """
    members = [repair(member, run) for member in trial.members]
    folder = run.trial(trial.trial_id)
    remove_leftovers(folder.path)
    remove_leftovers(folder.votes)
    if trial.members:
        if all(members) and _record(folder) != (joined := _joined(trial, run)):
            joined.write(folder.training)
        return all(members)
    there = folder.training.exists()  # one that comes meanwhile is of a job that has just ended
    if _holds_training(trial, folder) or _take_over(trial, run):
        _set_aside_damaged(trial, folder)
        return True
    if there:
        folder.training.unlink(missing_ok=True)  # it is to be trained
    return False


def is_trained(trial: Trial, run: RunFolder) -> bool:
    """Whether the trial's training is done: its record is of these settings, and all its files read back as they were
    written; of an ensemble, that its record is of its members as they are."""
    folder = run.trial(trial.trial_id)
    if trial.members:
        return all(is_trained(member, run) for member in trial.members) and _record(folder) == _joined(trial, run)
    return _holds_training(trial, folder)


def unfinished(trials: Sequence[Trial], run: RunFolder) -> dict[str, tuple[Trial, bool]]:
    """By id, what of the trials is still to be trained or certified, and of the members and teachers that they need and
    none of them trains; whether it is to be certified, too. All are repaired first.

    Of what is finished the state is removed, which a command leaves that is killed right after the last shard. What is
    trained waits from here on: a training that was taken over has no shards yet, and others may have been set aside, so
    no report may take it for finished before its job begins.
    """
    trained = {trial.trial_id: repair(trial, run) for trial in trials}
    found = {}
    for name, (trial, certify) in everything(trials, trained).items():
        done = trained[name] if name in trained else repair(trial, run)
        folder = run.trial(name)
        if done and not (certify and images_left(trial, run)):
            folder.state.unlink(missing_ok=True)
            continue
        if done and not folder.state.exists():
            StateRecord(state="waiting").write(folder.state)
        found[name] = (trial, certify)
    return found


def everything(trials: Sequence[Trial], trained: Mapping[str, bool]) -> dict[str, tuple[Trial, bool]]:
    """By id, the trials, and the members and teachers that they need and none of them trains; whether it is to be
    certified, too.

    Args:
        trained: by id, whether a trial's training is done; those of a run that has nothing yet need not be named.
    """
    wanted = {trial.trial_id: (trial, True) for trial in trials}
    for trial in trials:
        # a teacher is not needed any more once the trial is trained
        for needed in trial.members if trained.get(trial.trial_id) else trial.needed:
            wanted.setdefault(needed.trial_id, (needed, False))
    return wanted


def images_left(trial: CertifiedTrial, run: RunFolder) -> list[int]:
    """Test images of a trial with a model that no shard holds after `repair_shards`, in order."""
    folder = run.trial(trial.trial_id)
    training = TrainingRecord.read(folder.training)
    finished = repair_shards(folder, trial_id=trial.trial_id, checkpoint_sha256=training.checkpoint_sha256)
    wanted = evenly_spaced(training.test_images, trial.certify.images)
    return [index for index in wanted if index not in finished]


def trial_shards_left(trial: CertifiedTrial, run: RunFolder, size: int) -> list[list[int]]:
    """Shards of at most `size` images for what is left. A shard has no gap in what the trial certifies, so that the
    name of its file tells how many images it holds."""
    left = set(images_left(trial, run))
    shards: list[list[int]] = [[]]
    test_images = TrainingRecord.read(run.trial(trial.trial_id).training).test_images
    for index in evenly_spaced(test_images, trial.certify.images):
        if index in left:
            if len(shards[-1]) == size:
                shards.append([])
            shards[-1].append(index)
        elif shards[-1]:
            shards.append([])
    return [shard for shard in shards if shard]


def _set_aside_damaged(trial: Trial, folder: TrialFolder) -> None:
    for path in (folder.checkpoint, folder.previous_checkpoint):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            continue
        if not is_whole_checkpoint(content, trial.training_id):
            set_aside(path)


def epochs_finished(folder: TrialFolder) -> int:
    """Of a training that may not be done yet."""
    try:
        return int(read_table(folder.epochs, EPOCHS).num_rows)
    except (OSError, StoreError):
        return 0


def _holds_training(trial: Trial, folder: TrialFolder) -> bool:
    training = _record(folder)
    if training is None or training.training_id != trial.training_id:
        return False
    try:
        return bool(
            read_table(folder.epochs, EPOCHS).num_rows == trial.train.epochs
            and (trial.decomposition_ratio is None or read_table(folder.spectrum, SPECTRA).num_rows > 0)
            and sha256_of(folder.model) == training.checkpoint_sha256
        )
    except (*NO_FILE, StoreError):
        return False


def _record(folder: TrialFolder) -> TrainingRecord | None:
    """training.json; None where there is none that reads back as it was written."""
    try:
        return TrainingRecord.read(folder.training)
    except (*NO_FILE, StoreError):
        return None


def _take_over(trial: Trial, run: RunFolder) -> bool:
    """Copy the same training from another trial of the run; whether one has it."""
    folder = run.trial(trial.trial_id)
    others: list[AnyPath] = sorted(run.path.glob(f"trials/*/{folder.training.name}"))
    for other in others:
        source = TrialFolder(other.parent)
        if source.path != folder.path and _holds_training(trial, source):
            rows = read_table(source.epochs, EPOCHS).to_pylist()
            named = [row | {"trial_id": trial.trial_id, "method": trial.name} for row in rows]
            write_table(folder.epochs, pa.Table.from_pylist(named, EPOCHS))
            if source.spectrum.exists():
                _copy(source.spectrum, folder.spectrum)
            _copy(source.model, folder.model)
            _copy(source.training, folder.training)
            return True
    return False


def _copy(source: AnyPath, target: AnyPath) -> None:
    content = source.read_bytes()
    write_whole(target, lambda temporary: temporary.write_bytes(content))


def _joined(trial: Trial, run: RunFolder) -> TrainingRecord:
    """An ensemble's training record, from those of its members; Table 5.2 charges it with their sum."""
    records = [TrainingRecord.read(run.trial(member.trial_id).training) for member in trial.members]
    hashes = "\n".join(record.checkpoint_sha256 for record in records)
    seconds = _sum([record.train_seconds for record in records])
    copies = [(record.train_seconds or 0.0) * (record.train_samples_per_second or 0.0) for record in records]
    memory = [record.memory_bytes or 0 for record in records]
    return records[0].model_copy(
        update={
            "training_id": trial.training_id,
            "title": trial.objective.title,
            "variant_of": trial.objective.variant_of,
            "colour_group": trial.objective.colour_group,
            "checkpoint_sha256": hashlib.sha256(hashes.encode()).hexdigest(),
            "members": [member.trial_id for member in trial.members],
            "parameters": _sum([record.parameters for record in records]),
            "model_bytes": _sum([record.model_bytes for record in records]),
            "train_seconds": seconds,
            "train_samples_per_second": sum(copies) / seconds if seconds else None,
            "train_joules": _sum([record.train_joules for record in records]),
            "memory_bytes": sum(memory),
            "member_memory_bytes": max(memory),
            "reserved_bytes": _sum([record.reserved_bytes for record in records]),
            "driver_bytes": _sum([record.driver_bytes for record in records]),
        }
    )


def _sum(values: Sequence[float | None]) -> float | None:
    """None where one of them is not known."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None
