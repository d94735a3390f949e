"""How far a run is, from its files alone."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from results.folder import RunFolder, TrialFolder, read_json
from results.shards import evenly_spaced


@dataclass(frozen=True)
class TrialProgress:
    """One trial of a run, as its files tell."""

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
    epoch_seconds: float | None
    image_seconds: float | None
    """Means of what is finished; None where nothing is."""
    error: str = ""
    log: str = ""


def read_progress(run: RunFolder) -> list[TrialProgress]:
    """Every trial of the run and every member that only an ensemble needs.

    Raises:
        FileNotFoundError: no run there.
    """
    description = read_json(run.description)
    trials, ensembles = description["trials"], description["members"]
    members = dict.fromkeys(member for names in ensembles.values() for member in names if member not in trials)
    return [
        *(_trial_progress(run.trial(name), ensemble=name in ensembles) for name in trials),
        *(_trial_progress(run.trial(name), member=True) for name in members),
    ]


def _trial_progress(folder: TrialFolder, *, ensemble: bool = False, member: bool = False) -> TrialProgress:
    settings = read_json(folder.settings)
    state = _read_state(folder)
    epoch_seconds = _column(folder.epochs, "seconds")
    image_seconds = [seconds for path in folder.shard_files() for seconds in _column(path, "seconds")]
    trained = folder.training.exists()
    wanted = 0 if member else None
    if trained and not member:
        wanted = len(evenly_spaced(int(read_json(folder.training)["test_images"]), settings["certify"]["images"]))
    label = settings["name"] + (f" seed {settings['seed']}" if settings["seed"] or member else "")
    if trained and len(image_seconds) >= (wanted or 0) and state.get("state") != "failed":
        stage = "done"
    elif state:
        stage = str(state["state"])
        if stage == "running":
            stage = "certifying" if trained or ensemble else "training"
    else:
        stage = "stopped" if epoch_seconds or trained else "waiting"
    return TrialProgress(
        label=label + (" (member)" if member else ""),
        sigma=settings["sigma"],
        stage=stage,
        epochs=len(epoch_seconds),
        epochs_wanted=0 if ensemble else settings.get("train", {"epochs": 0})["epochs"],
        images=len(image_seconds),
        images_wanted=wanted,
        epoch_seconds=sum(epoch_seconds) / len(epoch_seconds) if epoch_seconds else None,
        image_seconds=sum(image_seconds) / len(image_seconds) if image_seconds else None,
        error=state.get("error", ""),
        log=str(folder.log),
    )


def _read_state(folder: TrialFolder) -> dict[str, str]:
    """state.json, unless it is of a process that is no more."""
    try:
        state = read_json(folder.state)
    except (OSError, ValueError):
        return {}
    if state.get("state") == "running" and state.get("host") == socket.gethostname():
        try:
            os.kill(int(state["pid"]), 0)
        except ProcessLookupError:
            return {}
        except PermissionError:
            pass  # alive, and somebody else's
    return state


def _column(path: Path, name: str) -> list[float]:
    try:
        return _read_column(path, path.stat().st_mtime_ns, name)
    except (OSError, KeyError, pa.ArrowException):
        return []


@cache
def _read_column(path: Path, written: int, name: str) -> list[float]:  # noqa: ARG001  # a file written anew is read anew
    values: list[float] = pq.read_table(path, columns=[name])[name].to_pylist()
    return values


def seconds_left(trials: list[TrialProgress], workers: int) -> float | None:
    """A rough estimate from what is finished, in wall-clock seconds; None while nothing is."""
    epoch = _mean([trial.epoch_seconds for trial in trials])
    image = _mean([trial.image_seconds for trial in trials])
    images_each = max((trial.images_wanted or 0 for trial in trials), default=0)
    if epoch is None:
        return None
    left = 0.0
    for trial in trials:
        if trial.stage == "done":
            continue
        left += (trial.epochs_wanted - trial.epochs) * (trial.epoch_seconds or epoch)
        wanted = images_each if trial.images_wanted is None else trial.images_wanted
        left += (wanted - trial.images) * (trial.image_seconds or image or 0.0) / workers
    return left / max(1, sum(trial.stage in ("training", "certifying") for trial in trials))


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
