"""A worker group: the workers of one job. First they train together, then they take its shards one by one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray import ObjectRef
from ray.exceptions import RayError, RayTaskError

from cluster.devices import DeviceErrors
from cluster.running_job import RunningJob
from cluster.worker import PULSE_SECONDS, Doing, WorkerHandle, start_process


@dataclass(frozen=True)
class GroupSize:
    """Resources of every worker group."""

    workers: int
    cpus_per_worker: float
    gpus_per_worker: float


class WorkerGroup:
    """The workers of one job at a time, in the placement group of the Tune trial that calls this."""

    job: RunningJob
    """The one of now; there from the first `take_up` on."""

    def __init__(self, size: GroupSize, stalled_after: float) -> None:
        """Nothing is started yet.

        Args:
            size: workers of its own, and what each takes.
            stalled_after: seconds; a worker that does not answer for so long is killed.
        """
        self.size = size
        self.stalled_after = stalled_after
        self.workers: list[WorkerHandle] = []
        """Its own and elastic ones."""
        self.devices = DeviceErrors()
        self._next_pulse = 0.0

    def take_up(self, job: RunningJob) -> None:
        """The next job: workers that are there from the last one write to its log from now on."""
        self.job, self._next_pulse = job, 0.0
        for worker in self.workers:
            worker.actor.begin.remote(job.log_file, job.work.prepare)

    def start_all(self) -> None:
        """Start all of the group's own workers, and wait until they are there.

        Raises:
            RayError: one cannot be started, or hangs while it prepares.
            DeviceLeftOutError: for its accelerator.
        """
        while len(self.workers) < self.size.workers:
            self.start()
        while starting := self.starting():
            worker = starting[self.next(list(starting))]
            try:
                worker.meet()
            except RayError as error:
                if not worker.overdue:
                    self.devices.note(worker, error)
                    raise
                self.replace(worker)

    def starting(self) -> dict[ObjectRef, WorkerHandle]:
        """Workers whose process is not there yet, by what tells that it is."""
        return {worker.started: worker for worker in self.workers if worker.identity is None}

    def start(self, *, elastic: bool = False) -> None:
        """Start a worker: in the placement group, or an elastic one wherever there is room."""
        place = None if elastic else ray.util.get_current_placement_group()
        cpus, gpus = self.size.cpus_per_worker, self.size.gpus_per_worker
        actor = start_process(cpus, gpus, place)
        started = actor.begin.remote(self.job.log_file, self.job.work.prepare)
        self.workers.append(WorkerHandle(actor, started, actor.who.remote(), elastic))

    def replace(self, worker: WorkerHandle) -> None:
        """Stop one of the group's own workers and start another."""
        self.stop([worker])
        self.start()

    def stop(self, workers: list[WorkerHandle]) -> None:
        """Stop these workers, whatever they are at."""
        for worker in workers:
            worker.stop()
        self.workers = [worker for worker in self.workers if worker not in workers]

    def stop_all(self) -> None:
        """Stop all workers."""
        self.stop(self.workers)

    def call(self, function: Callable[[Any], Any]) -> Any:
        """What a method of the work returns for the job's task, on the first worker. Raises as `get`, and
        DeviceLeftOutError for its accelerator."""
        try:
            return self.get(self.workers[0].actor.call.remote(function, self.job.task))
        except RayTaskError as error:
            self.devices.note(self.workers[0], error)
            raise

    def get(self, ref: ObjectRef) -> Any:
        """The value behind a reference.

        Raises:
            RayTaskError: the work raised.
            RayError: the worker died.
        """
        return ray.get(self.next([ref]))

    def next(self, refs: list[ObjectRef]) -> ObjectRef:
        """Wait for the next of these that is done."""
        while True:
            done = self.done_or_pulse(refs)
            if done is not None:
                return done

    def done_or_pulse(self, refs: list[ObjectRef]) -> ObjectRef | None:
        """The next of these that is done, or None at the next pulse: then workers that have stalled are killed, and the
        job's state is noted."""
        done, _ = ray.wait(refs, timeout=max(0.0, self._next_pulse - time.monotonic()))
        if time.monotonic() >= self._next_pulse:
            for worker in self.workers:
                worker.take_pulse(self.job.work.usage, self.stalled_after)
            self._stop_still_ones()
            self.job.note(self.workers)
            self._next_pulse = time.monotonic() + PULSE_SECONDS
        return done[0] if done else None

    def _stop_still_ones(self) -> None:
        """Stop the workers whose work does not go on, although they answer. Those that train wait for one another:
        where one goes on, the others wait for that."""
        still = {id(worker): worker.still_for(self.stalled_after) for worker in self.workers}
        waiting = any(worker.doing is Doing.TRAINING and not still[id(worker)] for worker in self.workers)
        for worker in self.workers:
            if still[id(worker)] and not (waiting and worker.doing is Doing.TRAINING) and not worker.stalled:
                worker.stop_as_stalled(f"its work did not go on for {still[id(worker)]:.0f} s")

    def find_death(self) -> RayError | None:
        """The death of a worker, if one is dead by now: one that answers a question of now is not, and one that does
        not, such as on a node that was lost, is waited for until Ray knows or it counts as stalled."""
        answers = [worker.actor.pulse.remote(self.job.work.usage) for worker in self.workers]
        while answers:
            done = self.next(answers)
            answers.remove(done)
            try:
                ray.get(done)
            except RayTaskError:
                continue  # it lives, and cannot tell what it takes of its machine
            except RayError as error:
                return error
        return None
