"""A gang: the workers of one trial. First they train together, then they pull its shards one by one."""

from __future__ import annotations

import os
import pkgutil
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

ATTEMPTS = 3
DEATH_IS_KNOWN_AFTER_SECONDS = 5.0


@dataclass(frozen=True)
class GangSize:
    """Resources of every gang."""

    workers: int
    cpus_per_worker: float
    gpus_per_worker: float


@dataclass(frozen=True)
class Work:
    """The functions a gang runs, as "module:function"; each takes the job's task first and may be repeated."""

    needs_training: str
    """(task) -> bool, on one worker."""
    train: str
    """(task) -> None, on all workers at once, which find RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set."""
    shards_left: str
    """(task) -> list of shards, on one worker."""
    certify: str
    """(task, shard) -> None, on one worker."""


class WorkFailed(RuntimeError):  # noqa: N818  # reads as what happened
    """A function of the work raised, or its workers kept dying; the message is one line."""


class _Worker:
    """A process of a gang. Its output goes to the trial's log."""

    def __init__(self, gpus: float) -> None:
        if not gpus:  # ray leaves every accelerator in sight of a worker that asked for none
            os.environ["CUDA_VISIBLE_DEVICES"] = ""

    def log_to(self, log_file: str) -> None:
        log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)

    def free_address(self) -> tuple[str, int]:
        """An address of this worker's node at which a group can meet."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def join(self, rank: int, size: int, address: tuple[str, int]) -> None:
        """Set the environment from which torch.distributed forms the group."""
        os.environ.update(
            RANK=str(rank),
            WORLD_SIZE=str(size),
            LOCAL_RANK="0",  # ray shows each worker its own accelerator only
            MASTER_ADDR=address[0],
            MASTER_PORT=str(address[1]),
        )

    def alive(self) -> None:
        """Answers as long as the process lives."""

    def call(self, function: str, *arguments: object) -> Any:
        return pkgutil.resolve_name(function)(*arguments)


Worker: Any = ray.remote(max_restarts=0)(_Worker)


class Gang:
    """The workers of one trial at a time, in the placement group of the Tune trial that calls this."""

    def __init__(self, size: GangSize) -> None:
        self.size = size
        self.log_file = os.devnull
        self.workers: list[ActorHandle] = []

    def run(self, work: Work, task: dict[str, Any], log_file: str) -> None:
        """Train, then certify what is left. After success the workers stay for the next trial, with all they have
        imported; after a failure they are stopped.

        Raises:
            WorkFailed: a function raised, or workers died in three attempts at the same thing.
        """
        self.log_file = log_file
        for worker in self.workers:
            worker.log_to.remote(log_file)
        try:
            self._train(work, task)
            self._certify(work, task)
        except BaseException:
            self._stop()
            raise

    def _train(self, work: Work, task: dict[str, Any]) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._start()
                if not ray.get(self.workers[0].call.remote(work.needs_training, task)):
                    return
                if self.size.workers > 1:
                    address = ray.get(self.workers[0].free_address.remote())
                    ray.get([w.join.remote(rank, len(self.workers), address) for rank, w in enumerate(self.workers)])
                # ray.get raises as soon as one rank fails, while the others would wait for it for ever
                ray.get([worker.call.remote(work.train, task) for worker in self.workers])
                return
            except (RayActorError, RayTaskError) as error:
                # Where a worker dies, the others fail too, and often first: their connection to it is gone.
                death = error if isinstance(error, RayActorError) else self._death()
                if death is None:
                    raise WorkFailed(_first_line(error.cause)) from None
                self._stop()  # the next attempt continues from the last finished epoch
                if attempt == ATTEMPTS:
                    raise WorkFailed(f"a training worker died {ATTEMPTS} times: {_first_line(death)}") from None

    def _certify(self, work: Work, task: dict[str, Any]) -> None:
        self._start()
        waiting = deque(self._call(work.shards_left, task))
        deaths: dict[int, int] = {}
        running: dict[ray.ObjectRef, tuple[int, Any]] = {}
        lost: list[str] = []
        while waiting or running:
            idle = set(range(len(self.workers))) - {place for place, _ in running.values()}
            for place in sorted(idle)[: len(waiting)]:
                shard = waiting.popleft()
                running[self.workers[place].call.remote(work.certify, task, shard)] = (place, shard)
            [done], _ = ray.wait(list(running))
            place, shard = running.pop(done)
            try:
                ray.get(done)
            except RayActorError as error:
                self.workers[place] = self._new_worker()
                deaths[shard[0]] = deaths.get(shard[0], 0) + 1
                if deaths[shard[0]] < ATTEMPTS:
                    waiting.append(shard)
                else:
                    lost.append(f"images {shard[0]} to {shard[-1]}: {_first_line(error)}")
            except RayTaskError as error:
                raise WorkFailed(_first_line(error.cause)) from None
        if lost:
            others = f", and {len(lost) - 1} more" if len(lost) > 1 else ""
            raise WorkFailed(f"a shard killed its worker {ATTEMPTS} times: {lost[0]}{others}")

    def _death(self) -> RayActorError | None:
        """The death of a worker, if one died in these seconds."""
        deadline = time.monotonic() + DEATH_IS_KNOWN_AFTER_SECONDS
        while time.monotonic() < deadline:
            for worker in self.workers:
                try:
                    ray.get(worker.alive.remote(), timeout=0.5)
                except RayActorError as error:
                    return error
                except GetTimeoutError:
                    pass  # busy, so alive
            time.sleep(0.2)
        return None

    def _call(self, function: str, task: dict[str, Any]) -> Any:
        try:
            return ray.get(self.workers[0].call.remote(function, task))
        except RayTaskError as error:
            raise WorkFailed(_first_line(error.cause)) from None

    def _start(self) -> None:
        while len(self.workers) < self.size.workers:
            self.workers.append(self._new_worker())

    def _new_worker(self) -> ActorHandle:
        worker: ActorHandle = Worker.options(
            num_cpus=self.size.cpus_per_worker,
            num_gpus=self.size.gpus_per_worker,
            scheduling_strategy=PlacementGroupSchedulingStrategy(ray.util.get_current_placement_group()),
        ).remote(self.size.gpus_per_worker)
        worker.log_to.remote(self.log_file)
        return worker

    def _stop(self) -> None:
        for worker in self.workers:
            ray.kill(worker)
        self.workers = []


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    message = text[0] if text else "no message"
    return message if isinstance(error, ValueError | RayActorError) else f"{type(error).__name__}: {message}"
