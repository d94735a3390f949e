"""What a run may take of its machine, as far as it is known before anything starts. Neither torch nor ray."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

from results.errors import BenchError

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


class ResourceError(BenchError):
    """Resources that no run can use; the message is one sentence for the user."""


def usable_cores() -> int:
    """Cores that this process may use: the machine's, or fewer by affinity or by a container's quota."""
    cores = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):  # no cgroup v2, or no quota ("max")
        quota, period = CPU_QUOTA.read_text(encoding="ascii").split()
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def refuse_parts_of_gpus(workers: int | None, gpus: float | None) -> None:
    """Raises ResourceError for what a worker group cannot use, as far as it was given."""
    if gpus and gpus > 1:
        raise ResourceError(f"--gpus-per-worker {gpus:g}: must be at most 1, for a worker computes on one GPU")
    if workers and workers > 1 and gpus and gpus != 1:
        raise ResourceError(f"--gpus-per-worker {gpus:g}: must be 0 or 1 where a trial has several workers")


def stall_seconds() -> float:
    """After how long without an answer a worker is replaced: $BENCH_STALL_SECONDS, or a minute.

    Raises:
        ResourceError: it is no number above 0.
    """
    given = os.environ.get("BENCH_STALL_SECONDS", "60")
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ResourceError(f"BENCH_STALL_SECONDS={given}: must be a number of seconds above 0")
    return seconds
