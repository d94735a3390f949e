"""How far a run is, from its files alone."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from results.errors import StoreError
from results.store.folder import AnyPath, RunFolder, TrialFolder, listing, refuse_devices
from results.store.lock import Holder, holder
from results.store.record import FileRecord
from results.store.records import (
    DevicesRecord,
    DivergedRecord,
    ForecastRecord,
    RunRecord,
    StateRecord,
    TrainingRecord,
    WorkerRecord,
)
from results.store.settings import AnyTrial, ImportedTrial, NativeTrial, read_trial_settings
from results.store.shards import evenly_spaced

AT_WORK = ("training", "certifying")
"""Stages of trials on which somebody works."""
Found = TypeVar("Found", bound=FileRecord)
SAMPLED_SHARDS = 4  # whose times are read, of those of a trial: a full run has thousands


@dataclass(frozen=True)
class TrialProgress:
    """One trial of a run, as its files tell."""

    trial_id: str
    label: str
    """Method, and seed or membership where that is not obvious."""
    sigma: float
    stage: str
    """waiting, training, certifying, stopped (half-way, and nobody works on it), done, failed."""
    epochs: int
    epochs_wanted: int
    images: int
    images_wanted: int | None
    """None: not known before the training is done; 0: a member that is not certified."""
    shards: int
    epoch_seconds: float | None
    image_seconds: float | None
    """Of one worker. Means of what is finished, the images' from a sample; None where nothing is."""
    workers: list[WorkerRecord] = field(default_factory=list)
    error: str = ""
    log: str = ""

    @property
    def images_per_second(self) -> float | None:
        """Of all who certify now."""
        busy = sum(worker.doing.startswith("images") for worker in self.workers)
        return busy / self.image_seconds if busy and self.image_seconds else None

    @property
    def seconds_left(self) -> float | None:
        """A rough estimate of the stage that runs; None where that cannot be told."""
        if self.stage == "training" and self.epoch_seconds:
            return (self.epochs_wanted - self.epochs) * self.epoch_seconds
        if self.stage == "certifying" and self.images_per_second and self.images_wanted:
            return (self.images_wanted - self.images) / self.images_per_second
        return None


@dataclass(frozen=True)
class RunProgress:
    """All trials of a run."""

    trials: list[TrialProgress]
    group: int
    """Workers of a trial."""
    holder: Holder | None
    """The command that runs it; None where none does."""
    left_out: list[str] = field(default_factory=list)
    """Accelerators that it, or the last one, left out: a sentence of each."""
    search: bool = False
    """Whether the trials are those of a search, which more may follow."""
    forecast: ForecastRecord | None = None
    """What it was expected to cost, where that was asked."""

    def count(self, *stages: str) -> int:
        """How many trials are in one of these stages."""
        return sum(trial.stage in stages for trial in self.trials)


def read_progress(run: RunFolder) -> RunProgress:
    """Every trial of the run, and every member and teacher that only others need.

    Raises:
        FileNotFoundError: no run there.
        StoreError: a file of it is damaged.
    """
    description = RunRecord.read(run.description)
    trials, ensembles = description.trials, description.members
    found = holder(run)
    running = found is not None and not found.dead
    left_out = _or_none(DevicesRecord, run.devices)
    parts = dict.fromkeys((member for names in ensembles.values() for member in names), "member")
    for trial, teacher in description.teachers.items():
        # not needed any more once the trial is trained: it may be a training that was taken over
        if run.trial(teacher).training.exists() or not run.trial(trial).training.exists():
            parts[teacher] = "teacher"
    return RunProgress(
        [
            *(_trial_progress(run, name, running, ensemble=name in ensembles) for name in trials),
            *(_trial_progress(run, name, running, part=part) for name, part in parts.items() if name not in trials),
        ],
        description.group.workers if description.group else 1,
        found if running else None,
        left_out.left_out if left_out else [],
        run.search.exists(),
        _or_none(ForecastRecord, run.forecast),
    )


def _trial_progress(
    run: RunFolder, trial_id: str, running: bool, *, ensemble: bool = False, part: str = ""
) -> TrialProgress:
    folder = run.trial(trial_id)
    files = dict(listing(folder.path))
    settings = read_trial_settings(folder.settings)
    state = _read_state(folder, running) if {folder.state, folder.diverged} & files.keys() else None
    epochs = _read_seconds(folder.epochs, files[folder.epochs]) if folder.epochs in files else []
    shards = folder.shard_times() if folder.shards in files else {}
    training = _or_none(TrainingRecord, folder.training) if folder.training in files else None
    images, wanted = 0, 0 if part else None
    if training and not part:
        images, wanted = _count_images(list(shards), settings, training.test_images)
    label = settings.name + (f" seed {settings.seed}" if settings.seed or part == "member" else "")
    stage = _stage(state, complete=training is not None and images >= (wanted or 0), begun=bool(epochs or training))
    if stage == "running":
        stage = "certifying" if training or ensemble else "training"
    image_seconds = _sample(shards)
    return TrialProgress(
        trial_id=trial_id,
        label=label + (f" ({part})" if part else ""),
        sigma=settings.sigma,
        stage=stage,
        epochs=len(epochs),
        epochs_wanted=settings.train.epochs if isinstance(settings, NativeTrial) and not ensemble else 0,
        images=images,
        images_wanted=wanted,
        shards=len(shards),
        epoch_seconds=sum(epochs) / len(epochs) if epochs else None,
        image_seconds=sum(image_seconds) / len(image_seconds) if image_seconds else None,
        workers=state.workers if state and stage != "done" else [],
        error=state.error if state else "",
        log=str(folder.log),
    )


def _stage(state: StateRecord | None, *, complete: bool, begun: bool) -> str:
    """As `TrialProgress.stage`, or "running" where training and certifying are not told apart yet."""
    if complete and not (state and state.state == "failed"):
        return "done"
    if state:
        return state.state
    return "stopped" if begun else "waiting"


def _read_state(folder: TrialFolder, running: bool) -> StateRecord | None:
    """state.json, unless it is of a command that is no more; of a training that cannot go on, that it failed."""
    if diverged := _or_none(DivergedRecord, folder.diverged):
        return StateRecord(state="failed", error=diverged.reason)
    state = _or_none(StateRecord, folder.state)
    return None if state and state.state in ("running", "waiting") and not running else state


def _or_none(kind: type[Found], path: AnyPath) -> Found | None:
    try:
        return kind.read(path)
    except (OSError, StoreError):
        return None


def _count_images(shards: Sequence[AnyPath], settings: AnyTrial, test_images: int) -> tuple[int, int]:
    """Certified images, and how many there will be. A shard has no gap, so the names of the files tell."""
    if isinstance(settings, ImportedTrial):
        return test_images, test_images
    wanted = evenly_spaced(test_images, settings.certify.images)
    place = {index: position for position, index in enumerate(wanted)}
    certified: set[int] = set()
    for path in shards:
        name = re.fullmatch(r"(\d+)-(\d+)", path.stem)
        if name and {int(name[1]), int(name[2])} <= place.keys():
            certified.update(range(place[int(name[1])], place[int(name[2])] + 1))
    return len(certified), len(wanted)


def _sample(shards: dict[AnyPath, int]) -> list[float]:
    """Seconds of the images of some shards, spread evenly."""
    paths = list(shards)
    chosen = evenly_spaced(len(paths), min(len(paths), SAMPLED_SHARDS))
    return [seconds for place in chosen for seconds in _read_seconds(paths[place], shards[paths[place]])]


@cache
def _read_seconds(path: AnyPath, written: int) -> list[float]:  # noqa: ARG001  # a file written anew is read anew
    try:
        refuse_devices(path)
        # From memory: threads of Arrow that still read a Python file when the process ends abort it.
        file = pq.ParquetFile(pa.BufferReader(path.read_bytes()))
        values: list[float] = file.read(columns=["seconds"], use_threads=False)["seconds"].to_pylist()
    except (OSError, KeyError, ValueError, pa.ArrowException):
        return []
    return [value for value in values if isinstance(value, float) and 0 <= value < math.inf]  # it may be damaged


def seconds_left(run: RunProgress) -> float | None:
    """An estimate in wall-clock seconds; None where nothing is finished and nothing was expected, and in a search.

    What is finished tells how many times as long the epochs and images of a method take as was expected; what is left
    of it is expected to take as many times as long, and that of a method of which nothing is finished, as many times as
    all that is. Where nothing was expected, all methods are taken for alike.
    """
    if run.search or (not run.forecast and not any(trial.epoch_seconds for trial in run.trials)):
        return None
    both = [(trial, _cost(trial, run)) for trial in run.trials]
    # Before anything is finished: as expected, but for what others took of the machine.
    usual = 1 / (1 - min(0.9, run.forecast.others or 0.0)) if run.forecast else 0.0
    epochs = _Times([(t, cost.epochs_done, t.epochs, t.epoch_seconds) for t, cost in both], usual)
    # What slows training down slows certification down.
    usual = epochs.of_all if run.forecast else 0.0
    images = _Times([(t, run.group * cost.images_done, t.images, t.image_seconds) for t, cost in both], usual)
    slower = max(1.0, epochs.of_all)  # what is not training or certification is so, too
    # What has failed is tried again by the next command, and not by the one that runs.
    ended = ("done", "failed") if run.holder else ("done",)
    # Between two trials fewer are at work than will be.
    beside = min(run.forecast.at_once if run.forecast else 1, len(run.trials) - run.count(*ended))
    left = sum(
        slower * cost.besides + cost.epochs_left * epochs.of(trial) + cost.images_left * images.of(trial)
        for trial, cost in both
        if trial.stage not in ended
    ) / max(1, beside, run.count(*AT_WORK))
    if run.forecast and run.count("done") < len(run.trials):
        left += slower * run.forecast.report_seconds
    return left


class _Times:
    """How many times as long things took as was expected of them, for each method."""

    def __init__(self, found: Sequence[tuple[TrialProgress, float, int, float | None]], usual: float) -> None:
        """
        Args:
            found: of each trial: expected seconds of what is finished, how many that is, and their mean seconds.
            usual: where nothing is finished.
        """
        expected: dict[str, float] = {}
        took: dict[str, float] = {}
        for trial, seconds, count, mean in found:
            if seconds and count and mean:
                name = _row(trial)
                expected[name] = expected.get(name, 0.0) + seconds
                took[name] = took.get(name, 0.0) + count * mean
        self._of = {name: took[name] / expected[name] for name in took}
        self.of_all = sum(took.values()) / sum(expected.values()) if took else usual

    def of(self, trial: TrialProgress) -> float:
        """Of the trial's method; of all methods where none of its own is known."""
        return self._of.get(_row(trial), self.of_all)


def _row(trial: TrialProgress) -> str:
    return trial.label.split(" ")[0]


@dataclass(frozen=True)
class _Cost:
    """What was expected of a trial, in seconds of its group; where nothing was, in epochs and images."""

    epochs_done: float
    epochs_left: float
    images_done: float
    images_left: float
    besides: float


def _cost(trial: TrialProgress, run: RunProgress) -> _Cost:
    wanted = trial.images_wanted
    if wanted is None:
        wanted = max((other.images_wanted or 0 for other in run.trials), default=0)
    epoch, image, besides = 1.0, 1.0 / run.group, 0.0
    if run.forecast:
        known = run.forecast.trials.get(trial.trial_id)
        train, certify = (known.train_seconds, known.certify_seconds) if known else (0.0, 0.0)
        epoch, image = train / max(1, trial.epochs_wanted), certify / max(1, wanted)
        besides = run.forecast.trial_seconds
        if not wanted:  # nobody knows yet how many
            return _Cost(trial.epochs * epoch, train - trial.epochs * epoch, 0.0, certify, besides)
    return _Cost(
        trial.epochs * epoch,
        (trial.epochs_wanted - trial.epochs) * epoch,
        trial.images * image,
        (wanted - trial.images) * image,
        besides,
    )
