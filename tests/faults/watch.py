"""What a run has finished, seen from its files, and what of it was done a second time."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Identity = tuple[int, int, int]
Place = tuple[str, int]
"""Trial, and epoch or test image."""


@dataclass
class Ledger:
    """Finished epochs and images of a run, told apart by how long they took: one that is finished and has another time
    now was done again."""

    run: Path
    epochs: dict[Place, float] = field(default_factory=dict)
    images: dict[Place, float] = field(default_factory=dict)
    epochs_again: Counter[str] = field(default_factory=Counter)
    """By trial."""
    images_again: Counter[str] = field(default_factory=Counter)
    _seen: dict[Path, Identity | None] = field(default_factory=dict)

    def look(self) -> None:
        for path in self.run.glob("trials/*/epochs.parquet"):
            self._note(path, path.parent.name, "epoch", self.epochs, self.epochs_again)
        for path in self.run.glob("trials/*/shards/*.parquet"):
            self._note(path, path.parts[-3], "index", self.images, self.images_again)

    def forget_shard(self, path: Path) -> list[int]:
        """A shard that is about to be damaged: its images have to be certified again. Returns them."""
        images = list(_times(path, "index"))
        for index in images:
            self.images.pop((path.parts[-3], index), None)
        return images

    def pass_over(self, path: Path) -> None:
        """A file that has been damaged: what still can be read of it is no finished work."""
        self._seen[path] = _identity(path)

    def _note(self, path: Path, trial: str, key: str, known: dict[Place, float], again: Counter[str]) -> None:
        identity = _identity(path)
        if identity is None or self._seen.get(path) == identity:
            return
        self._seen[path] = identity
        for place, seconds in _times(path, key).items():
            again[trial] += known.get((trial, place), seconds) != seconds
            known[trial, place] = seconds


def _identity(path: Path) -> Identity | None:
    try:
        stat = path.stat()
    except FileNotFoundError:  # set aside meanwhile
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _times(path: Path, key: str) -> dict[int, float]:
    """Seconds by epoch or image; nothing where the file is damaged."""
    try:
        table = pq.read_table(path, columns=[key, "seconds"])
    except (OSError, ValueError, KeyError, pa.ArrowException):
        return {}
    return dict(zip(table[key].to_pylist(), table["seconds"].to_pylist(), strict=True))


def states(run: Path) -> dict[str, dict[str, Any]]:
    """state.json of every trial that has one."""
    found = {}
    for path in run.glob("trials/*/state.json"):
        try:
            found[path.parent.name] = dict(json.loads(path.read_text()))
        except (OSError, ValueError):  # gone meanwhile
            continue
    return found


def working_on(run: Path, since: float) -> tuple[str, str] | None:
    """The trial that a command which began at `since` (seconds since 1970) works on, and the stage of it: training or
    certification."""
    for trial, state in states(run).items():
        if state.get("state") == "running" and state.get("since", 0.0) > since:
            folder = run / "trials" / trial
            settings = json.loads((folder / "trial.json").read_text())
            trains = settings["method"] != "ensemble" and not (folder / "training.json").exists()
            return trial, "training" if trains else "certification"
    return None
