"""How far a run is, from its files alone."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from results.store.folder import AnyPath, RunFolder, TrialFolder, listing, refuse_devices
from results.store.lock import Holder, holder
from results.store.records import read_description, read_settings_record, read_state_record, read_training_record
from results.store.shards import evenly_spaced

SAMPLED_SHARDS = 4  # whose times are read, of those of a trial: a full run has thousands


@dataclass(frozen=True)
class Worker:
    """A process that works on a trial, at its last pulse."""

    host: str
    pid: int | None
    """None until the process is there."""
    doing: str
    """starting, idle, training, or the images it certifies."""
    cores: float | None
    gpu: float | None
    """Share of time in which its accelerator computes."""
    elastic: bool
    """Beyond the group's own, where there is room."""


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
    workers: list[Worker] = field(default_factory=list)
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
    trials: list[TrialProgress]
    group: int
    """Workers of a trial."""
    holder: Holder | None
    """The command that runs it; None where none does."""

    def count(self, *stages: str) -> int:
        return sum(trial.stage in stages for trial in self.trials)


def read_progress(run: RunFolder) -> RunProgress:
    """Every trial of the run and every member that only an ensemble needs.

    Raises:
        FileNotFoundError: no run there.
        ValueError: a file of it is damaged.
    """
    description = read_description(run.description)
    trials, ensembles = description["trials"], description.get("members", {})
    found = holder(run)
    running = found is not None and not found.dead
    members = dict.fromkeys(member for names in ensembles.values() for member in names if member not in trials)
    return RunProgress(
        [
            *(_trial_progress(run, name, running, ensemble=name in ensembles) for name in trials),
            *(_trial_progress(run, name, running, member=True) for name in members),
        ],
        description.get("group", {}).get("workers", 1),
        found if running else None,
    )


def _trial_progress(
    run: RunFolder, trial_id: str, running: bool, *, ensemble: bool = False, member: bool = False
) -> TrialProgress:
    folder = run.trial(trial_id)
    files = dict(listing(folder.path))
    settings = read_settings_record(folder.settings)
    state = _read_state(folder, running) if folder.state in files else {}
    epochs = _read_seconds(folder.epochs, files[folder.epochs]) if folder.epochs in files else []
    shards = folder.shard_times() if folder.shards in files else {}
    training = _or_nothing(read_training_record, folder.training) if folder.training in files else {}
    trained = bool(training)
    images, wanted = 0, 0 if member else None
    if trained and not member:
        images, wanted = _count_images(list(shards), settings["certify"], training["test_images"])
    label = settings["name"] + (f" seed {settings['seed']}" if settings["seed"] or member else "")
    failed = state.get("state") == "failed"
    if trained and images >= (wanted or 0) and not failed:
        stage = "done"
    elif state:
        stage = str(state.get("state", "stopped"))
        if stage == "running":
            stage = "certifying" if trained or ensemble else "training"
    else:
        stage = "stopped" if epochs or trained else "waiting"
    image_seconds = _sample(shards)
    workers = [_worker(found) for found in state.get("workers", ()) if isinstance(found, dict)]
    return TrialProgress(
        trial_id=trial_id,
        label=label + (" (member)" if member else ""),
        sigma=settings["sigma"],
        stage=stage,
        epochs=len(epochs),
        epochs_wanted=0 if ensemble else settings.get("train", {"epochs": 0})["epochs"],
        images=images,
        images_wanted=wanted,
        shards=len(shards),
        epoch_seconds=sum(epochs) / len(epochs) if epochs else None,
        image_seconds=sum(image_seconds) / len(image_seconds) if image_seconds else None,
        workers=[] if stage == "done" else workers,
        error=str(state.get("error", "")),
        log=str(folder.log),
    )


def _worker(found: dict[str, Any]) -> Worker:
    host, doing = (str(found.get(key, "")) for key in ("host", "doing"))
    pid, cores, gpu = (found.get(key) for key in ("pid", "cores", "gpu"))
    return Worker(host, pid, doing, cores, gpu, elastic=bool(found.get("elastic")))


def _read_state(folder: TrialFolder, running: bool) -> dict[str, Any]:
    """state.json, unless it is of a command that is no more."""
    state = _or_nothing(read_state_record, folder.state)
    return {} if state.get("state") in ("running", "waiting") and not running else state


def _or_nothing(read: Callable[[AnyPath], dict[str, Any]], path: AnyPath) -> dict[str, Any]:
    try:
        return read(path)
    except (OSError, ValueError):
        return {}


def _count_images(shards: Sequence[AnyPath], certify: dict[str, Any], test_images: int) -> tuple[int, int]:
    """Certified images, and how many there will be. A shard has no gap, so the names of the files tell."""
    if certify["estimator"] == "imported":
        return test_images, test_images
    wanted = evenly_spaced(test_images, certify["images"])
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
    """A rough estimate from what is finished, in wall-clock seconds; None while nothing is."""
    epoch = _mean([trial.epoch_seconds for trial in run.trials])
    image = _mean([trial.image_seconds for trial in run.trials])
    images_each = max((trial.images_wanted or 0 for trial in run.trials), default=0)
    if epoch is None:
        return None
    left = 0.0
    for trial in run.trials:
        if trial.stage == "done":
            continue
        left += (trial.epochs_wanted - trial.epochs) * (trial.epoch_seconds or epoch)
        wanted = images_each if trial.images_wanted is None else trial.images_wanted
        left += (wanted - trial.images) * (trial.image_seconds or image or 0.0) / run.group
    return left / max(1, run.count("training", "certifying"))


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
