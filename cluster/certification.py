"""The shards of a job on their way through the workers of its group."""

from __future__ import annotations

import time
from collections import deque

from ray import ObjectRef
from ray.exceptions import RayError, RayTaskError

from cluster.devices import is_of_a_device
from cluster.elastic import ElasticWorkers, ShardTimes
from cluster.group import WorkerGroup
from cluster.retry import ATTEMPTS, ShardRetries, may_pass, reason
from cluster.work import WorkFailed
from cluster.worker import Doing, WorkerHandle


def certify(group: WorkerGroup) -> None:
    """Certify what is left of the group's job: workers, and elastic ones, take shard after shard.

    Raises:
        DeviceLeftOutError: an accelerator of the group failed too often.
        WorkFailed: a shard failed three times (the others are certified before), hardly any came through, or no worker
            starts.
    """
    asked = time.monotonic()
    left = _shards_left(group)
    _Shards(group, left, ShardTimes(time.monotonic() - asked)).certify()


def _shards_left(group: WorkerGroup) -> list[list[int]]:
    for _ in range(ATTEMPTS):
        try:
            group.start_all()
            return list(group.call(group.job.work.shards_left))
        except RayError as error:
            if isinstance(error, RayTaskError) and not (may_pass(error) or is_of_a_device(error)):
                raise WorkFailed(reason(error)) from error
            failure = error
            group.stop_all()
    raise WorkFailed(f"a worker failed {ATTEMPTS} times before the first shard: {reason(failure)}")


class _Shards:
    """The shards that wait and those that workers are at."""

    def __init__(self, group: WorkerGroup, shards: list[list[int]], times: ShardTimes) -> None:
        self.group = group
        self.times = times
        self.waiting = deque(shards)
        self.running: dict[ObjectRef, WorkerHandle] = {}
        self.retries = ShardRetries()
        self.elastic = ElasticWorkers(group, times)
        self.failed_starts = 0

    def certify(self) -> None:
        while self.waiting or self.running:
            self.elastic.adjust(len(self.waiting))
            self._hand_out()
            starting = self.group.starting()
            done = self.group.done_or_pulse([*self.running, *starting])
            if done in starting:
                self._welcome(starting[done])
            elif done is not None:
                self._take_back(done)
        self.elastic.dismiss()
        self.retries.raise_if_given_up()

    def _hand_out(self) -> None:
        for worker in self.group.workers:
            if self.waiting and worker.doing is Doing.IDLE and self.elastic.may_work(worker):
                ref = worker.certify(self.group.job.work, self.group.job.task, self.waiting.popleft())
                self.running[ref] = worker

    def _welcome(self, worker: WorkerHandle) -> None:
        try:
            worker.meet()
            self.failed_starts = 0
            if self.group.devices.left_out(worker):  # an elastic one's, which may be anywhere
                self._replace(worker)
        except RayError as error:
            self.group.devices.note(worker, error)
            self._replace(worker)
            self.failed_starts += not worker.overdue and not worker.elastic
            if self.failed_starts == ATTEMPTS:
                raise WorkFailed(f"a worker does not start: {reason(error)}") from None

    def _take_back(self, done: ObjectRef) -> None:
        """A shard is certified, or failed and is retried where `ShardRetries` says so."""
        worker = self.running.pop(done)
        shard = worker.shard
        try:
            worker.result(done)
            self.retries.came_through()
            self.times.note(worker)
            worker.rest()
        except RayError as error:
            self.group.devices.note(worker, error)
            if worker.elastic or self.retries.again(shard, error):  # an elastic one's node may lack what a shard takes
                self.waiting.append(shard)
            # Also where it lives: an accelerator that failed once may fail every shard from now on, and fast.
            self._replace(worker)

    def _replace(self, worker: WorkerHandle) -> None:
        if worker.elastic:
            self.elastic.lose(worker)
        else:
            self.group.replace(worker)
