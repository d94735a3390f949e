"""What a caller hands to the cluster: jobs, and the work that is done for each of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol


class JobState(StrEnum):
    """The "state" of what is noted of a job."""

    WAITING = "waiting"
    RUNNING = "running"
    FAILED = "failed"


@dataclass(frozen=True)
class Job:
    """One trial."""

    name: str
    task: dict[str, Any]
    """Handed to the work as it is; JSON values."""
    log_file: str
    """Where its processes write what they print, on whatever node they are."""
    after: list[str] = field(default_factory=list)
    """Names of the jobs that must have ended before this one starts."""


class Work(Protocol):
    """What is done for a job; `task` is the job's. Whatever was done may be asked for again: it is then not repeated.

    The object is pickled to every process. One of these is the job's own, which only waits: what its methods need
    there, `note` and `metrics`, should be little, and what the others need be imported in `prepare`.
    """

    def prepare(self, cpus: float, gpus: float) -> None:
        """Import what a worker needs, while it starts, and see that it can be used; `cpus` and `gpus` are the
        worker's."""

    def epochs_left(self, task: Any) -> int:
        """Epochs still to be trained, or 0 once the training is done; on one worker."""

    def train(self, task: Any) -> None:
        """Train, on all workers at once; where they are several, RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are
        set."""

    def shards_left(self, task: Any) -> list[list[int]]:
        """Shards still to be certified, as the indices of their images; on one worker, before any is certified."""

    def certify(self, task: Any, shard: list[int]) -> None:
        """Certify a shard, on one worker."""

    def note(self, task: Any, state: dict[str, Any] | None) -> None:
        """Keep what the job is doing, JSON values, or None once it has ended well; in the job's own process.

        Raises:
            OSError: it cannot be kept now.
        """

    def note_devices(self, task: Any, left_out: list[str]) -> None:
        """Keep which accelerators are left out for the rest of `run_jobs`, a sentence of each, in its process; the task
        is that of any job.

        Raises:
            OSError: it cannot be kept now.
        """

    def metrics(self, task: Any) -> dict[str, float]:
        """Numbers for TensorBoard, in the job's own process; may raise OSError, ValueError and LookupError."""

    def usage(self) -> dict[str, Any]:
        """What a worker takes of its machine, JSON values; called while it works. `steps`, if given, is a number that
        grows while it trains or certifies, and `apart` what it does that has no steps: one that trains or certifies
        without either is replaced."""


class WorkFailed(RuntimeError):  # noqa: N818  # reads as what happened
    """A method of the work raised, or its workers kept dying; the message is one line."""


def shard_name(shard: list[int]) -> str:
    """A shard as users see it."""
    return f"images {shard[0]} to {shard[-1]}"
