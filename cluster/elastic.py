"""Elastic workers: beyond a group's own, in certification, while the cluster has room that nobody else waits for."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import ray

from cluster.worker import PULSE_SECONDS, Doing, WorkerHandle

if TYPE_CHECKING:
    from cluster.group import GroupSize, WorkerGroup

AT_ONCE = 4
STARTS_WITHIN_SECONDS = 45.0  # nothing is said of it then (schedule.STARTS_WITHIN)


class ShardTimes:
    """How long a job's shards take, and what a worker takes before its first."""

    def __init__(self, opened_in: float) -> None:
        """opened_in: seconds that the first worker took to open what is certified."""
        self._opened_in = opened_in
        self._first: dict[str, float] = {}
        self._later: list[float] = []

    def note(self, worker: WorkerHandle) -> None:
        """A worker has certified its shard."""
        seconds = time.monotonic() - worker.set_to_work_at
        identity = worker.identity or {}
        process = f"{identity.get('host')} {identity.get('pid')}"
        if process in self._first:
            self._later.append(seconds)
        else:
            self._first[process] = seconds

    def worth_a_start(self, waiting: int, workers: list[WorkerHandle]) -> bool:
        """Whether these workers need longer for the shards that wait than another one to start; not known, and so not
        worth it, before a shard is certified."""
        there = [worker for worker in workers if worker.identity is not None]
        if not (self._first and there):
            return False
        first = statistics.median(self._first.values())
        usual = statistics.median(self._later) if self._later else first
        start = statistics.median(worker.start_seconds for worker in there) + max(self._opened_in, first - usual)
        return waiting * usual / len(there) > start


class ElasticWorkers:
    """The elastic workers of a group, while it certifies one job."""

    def __init__(self, group: WorkerGroup, times: ShardTimes) -> None:
        self.group = group
        self.times = times
        self.next_look = 0.0
        self.contested = False
        """Whether another job waits for room."""

    def adjust(self, waiting: int) -> None:
        """Every two seconds: start some while shards wait, for longer than a start takes, and stop those that are idle
        while another job waits for room. Those at work go once their shard is done."""
        now = time.monotonic()
        if now < self.next_look:
            return
        self.next_look = now + PULSE_SECONDS
        self.contested = _somebody_waits()
        starting = [worker for worker in self._workers() if worker.doing is Doing.STARTING]
        if not waiting or self.contested:
            self.group.stop([worker for worker in self._workers() if worker.doing in (Doing.IDLE, Doing.STARTING)])
        elif any(now - worker.asked_at > STARTS_WITHIN_SECONDS for worker in starting):
            self.group.stop(starting)  # others were faster, or no single node has the room
            self._pause()
        elif not starting and self.times.worth_a_start(waiting, self.group.workers):
            for _ in range(min(waiting, _room(self.group.size), AT_ONCE)):
                self.group.start(elastic=True)

    def may_work(self, worker: WorkerHandle) -> bool:
        """Whether a worker of the group, elastic or not, may take a shard."""
        return not (worker.elastic and self.contested)

    def lose(self, worker: WorkerHandle) -> None:
        """Stop an elastic worker that failed or died, and start none for a while."""
        self.group.stop([worker])
        self._pause()

    def dismiss(self) -> None:
        """Stop all of them."""
        self.group.stop(self._workers())

    def _workers(self) -> list[WorkerHandle]:
        return [worker for worker in self.group.workers if worker.elastic]

    def _pause(self) -> None:
        self.next_look = time.monotonic() + STARTS_WITHIN_SECONDS


def _somebody_waits() -> bool:
    """Whether a job waits for room on the cluster."""
    return any(group["state"] in ("PENDING", "RESCHEDULING") for group in ray.util.placement_group_table().values())


def _room(size: GroupSize) -> int:
    """How many more workers the cluster has room for now, nodes aside."""
    free = ray.available_resources()
    wanted = {"CPU": size.cpus_per_worker, "GPU": size.gpus_per_worker}
    return min(int(free.get(name, 0) / each) for name, each in wanted.items() if each)
