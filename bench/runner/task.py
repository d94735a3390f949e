"""A trial as its workers are given it; what its own process keeps for those who watch a run: state, log, metrics.

Without torch: that process only waits.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from results.store.folder import RunFolder, TrialFolder, location
from results.store.record import validated
from results.store.records import DevicesRecord, StateRecord
from results.store.remote import RemotePath
from results.store.schema import EPOCHS, read_table

if TYPE_CHECKING:
    from bench.settings.plugins import Plugin
    from bench.settings.trial import Trial

LOG_SECONDS = 30.0  # a store takes whole files
LONGEST_LOG = 2**20


class Task(TypedDict):
    """One trial of a run, for a worker."""

    trial_id: str
    settings: str
    """The trial, as JSON."""
    run: str
    """Absolute path or URL of the run's folder."""
    log: str
    """Where processes write what they print."""
    certify: bool
    """False for a member that only an ensemble needs."""
    shard_size: int
    plugins: list[dict[str, str | None]]
    """Fields of `bench.settings.plugins.Plugin`, of those that a worker loads first."""
    before: str | None
    """In a search the same training on the rung below, as JSON, from whose last epoch this one goes on; None: from the
    start."""


def trial_task(
    trial: Trial,
    run: RunFolder,
    *,
    certify: bool,
    shard_size: int,
    plugins: Sequence[Plugin] = (),
    before: Trial | None = None,
) -> Task:
    """What a worker needs to know of a trial."""
    return Task(
        trial_id=trial.trial_id,
        settings=trial.model_dump_json(),
        run=str(run.path),
        log=local_log(run.trial(trial.trial_id)),
        certify=certify,
        shard_size=shard_size,
        plugins=[asdict(plugin) for plugin in plugins],
        before=before.model_dump_json() if before else None,
    )


def trial_folder(task: Task) -> TrialFolder:
    """The files of the task's trial."""
    return RunFolder(location(task["run"])).trial(task["trial_id"])


def local_log(folder: TrialFolder) -> str:
    """Where processes write what they print: the trial's log, or where that is in a store, a file of each node."""
    if isinstance(folder.log, RemotePath):
        return f"~/.cache/smoothing-bench/logs/{sha256(str(folder.path).encode()).hexdigest()[:16]}.txt"
    return str(folder.log)


def note(task: Task, state: dict[str, Any] | None) -> None:
    """Write the trial's state.json, whose values the cluster gives; None: it has ended well."""
    folder = trial_folder(task)
    record = None if state is None else validated(StateRecord, state, folder.state)
    keep_log(task, at_once=record is None or record.state != "running")
    if record is None:
        folder.state.unlink(missing_ok=True)
    else:
        record.write(folder.state)


def note_devices(task: Task, left_out: list[str]) -> None:
    """Write into the task's run which accelerators are left out, a sentence of each."""
    DevicesRecord(left_out=left_out).write(RunFolder(location(task["run"])).devices)


def keep_log(task: Task, *, at_once: bool = False) -> None:
    """Copy what this node's processes printed last beside the trial's log in a store, every half minute at most."""
    folder = trial_folder(task)
    if not isinstance(folder.log, RemotePath):
        return
    try:
        log = Path(task["log"]).expanduser()
    except RuntimeError:  # this process's user has no home, and so no log
        return
    if log.exists() and (at_once or _last_copies.is_due(task["trial_id"], time.monotonic())):
        with suppress(OSError), log.open("rb") as file:  # a log is not worth a trial
            file.seek(max(0, log.stat().st_size - LONGEST_LOG))
            (folder.path / f"log-{socket.gethostname()}.txt").write_bytes(file.read())


def metrics(task: Task) -> dict[str, float]:
    """For TensorBoard: of the last finished epoch, and the number of shards."""
    folder = trial_folder(task)
    found = {"shards": float(len(folder.shard_files()))}
    if folder.epochs.exists():
        last = read_table(folder.epochs, EPOCHS).to_pylist()[-1]
        found |= {name: last[name] for name in ("epoch", "learning_rate", "loss", "noisy_test_accuracy", "seconds")}
    return found


class _LastCopies:
    """When this process last copied the log of each trial."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}

    def is_due(self, trial_id: str, now: float) -> bool:
        """Whether a copy is to be made now, which then is the last one."""
        if now - self._at.get(trial_id, -LOG_SECONDS) < LOG_SECONDS:
            return False
        self._at[trial_id] = now
        return True


_last_copies = _LastCopies()
