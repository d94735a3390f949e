"""Every file name of a run, and the one way in which its files are written."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TrialFolder:
    """The files of one trial."""

    path: Path

    @property
    def settings(self) -> Path:
        return self.path / "trial.json"

    @property
    def checkpoint(self) -> Path:
        """Weights and optimizer state after the last finished epoch; gone once the training is done."""
        return self.path / "checkpoint.safetensors"

    @property
    def model(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def training(self) -> Path:
        """Written last: where it exists, the training is done."""
        return self.path / "training.json"

    @property
    def epochs(self) -> Path:
        return self.path / "epochs.parquet"

    @property
    def spectrum(self) -> Path:
        """Principal variances of the training images; only where the model has a linear decomposition."""
        return self.path / "spectrum.parquet"

    @property
    def shards(self) -> Path:
        return self.path / "shards"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def state(self) -> Path:
        """Who works on the trial, or why the last attempt failed; absent before the first and after success."""
        return self.path / "state.json"

    def shard(self, first: int, last: int) -> Path:
        """Certificates of the test images `first` to `last`, both included."""
        return self.shards / f"{first:05d}-{last:05d}.parquet"

    def shard_files(self) -> list[Path]:
        return sorted(self.shards.glob("*.parquet"))


@dataclass(frozen=True)
class RunFolder:
    """The files of a run."""

    path: Path

    @property
    def description(self) -> Path:
        return self.path / "run.json"

    @property
    def certificates(self) -> Path:
        return self.path / "certificates.parquet"

    @property
    def trials(self) -> Path:
        return self.path / "trials.parquet"

    @property
    def epochs(self) -> Path:
        return self.path / "epochs.parquet"

    @property
    def spectra(self) -> Path:
        return self.path / "spectra.parquet"

    @property
    def thumbnails(self) -> Path:
        return self.path / "thumbnails.parquet"

    @property
    def page(self) -> Path:
        return self.path / "report.html"

    @property
    def tables(self) -> Path:
        return self.path / "tables"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    def trial(self, trial_id: str) -> TrialFolder:
        return TrialFolder(self.path / "trials" / trial_id)

    def trial_ids(self) -> list[str]:
        """The trials of the run, in the order of its grid; members that only an ensemble needs are not among them.

        Raises:
            FileNotFoundError: no run.json.
            ValueError: it is not one.
        """
        return [str(trial_id) for trial_id in read_json(self.description, "trials")["trials"]]


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place: a reader sees all of it or nothing.

    The temporary name carries the process id, because a worker may outlive the command that started it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """A JSON object from a file, with at least those keys; ValueError, which names the file, where it holds anything
    else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: must hold a JSON object")
    for key in keys:
        if key not in value:
            raise ValueError(f"{path}: lacks {key}")
    return value


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
