"""What a worker group does for a trial, as `cluster` wants it."""

from __future__ import annotations

import os
from typing import Any

from bench.machine.usage import usage
from bench.runner.task import Task, metrics, note, note_devices

COMPILE_PROCESSES = "TORCHINDUCTOR_COMPILE_THREADS"
"""Of inductor; else it starts as many as the machine has cores, up to 32, for every worker."""


class TrialWork:
    """The functions of `bench.runner.work` and `task`. The former comes with torch, so the workers alone import it: a
    trial's own process has this object too, and only waits."""

    def prepare(self, cpus: float, gpus: float) -> None:
        """Import what the work takes, and see that the worker's accelerator can be used.

        Raises:
            DeviceError: it cannot.
        """
        os.environ.setdefault(COMPILE_PROCESSES, str(max(1, int(cpus))))  # which torch reads when it is imported
        from bench.machine.devices import refuse_unusable
        from bench.runner import work  # noqa: F401

        refuse_unusable(gpus)

    def epochs_left(self, task: Task) -> int:
        """As `bench.runner.work.epochs_left`."""
        from bench.runner import work

        return work.epochs_left(task)

    def train(self, task: Task) -> None:
        """As `bench.runner.work.train_trial`."""
        from bench.runner import work

        work.train_trial(task)

    def shards_left(self, task: Task) -> list[list[int]]:
        """As `bench.runner.work.shards_left`."""
        from bench.runner import work

        return work.shards_left(task)

    def certify(self, task: Task, shard: list[int]) -> None:
        """As `bench.runner.work.certify`."""
        from bench.runner import work

        work.certify(task, shard)

    def note(self, task: Task, state: dict[str, Any] | None) -> None:
        """As `bench.runner.task.note`."""
        note(task, state)

    def note_devices(self, task: Task, left_out: list[str]) -> None:
        """As `bench.runner.task.note_devices`."""
        note_devices(task, left_out)

    def metrics(self, task: Task) -> dict[str, float]:
        """As `bench.runner.task.metrics`."""
        return metrics(task)

    def usage(self) -> dict[str, Any]:
        """As `bench.machine.usage.usage`."""
        return usage()


class RungWork(TrialWork):
    """The same for a rung of a search: it goes on where the rung below ended, and a training that cannot go on is a
    result like others."""

    def prepare(self, cpus: float, gpus: float) -> None:
        """As `TrialWork.prepare`."""
        super().prepare(cpus, gpus)
        from bench.runner import rungs  # noqa: F401

    def epochs_left(self, task: Task) -> int:
        """As `bench.runner.rungs.epochs_left`."""
        from bench.runner import rungs

        return rungs.epochs_left(task)

    def train(self, task: Task) -> None:
        """As `bench.runner.rungs.train_rung`."""
        from bench.runner import rungs

        rungs.train_rung(task)

    def shards_left(self, task: Task) -> list[list[int]]:
        """As `bench.runner.rungs.shards_left`."""
        from bench.runner import rungs

        return rungs.shards_left(task)
