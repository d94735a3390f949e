"""A gang: the workers of one trial. First they train together, then they pull its shards one by one."""

from __future__ import annotations

import errno
import os
import pkgutil
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import ObjectRef
from ray.exceptions import RayError, RayTaskError

from cluster.worker import Member, start_member

ATTEMPTS = 3
ERRORS_IN_A_ROW = 10
DEATH_IS_KNOWN_AFTER_SECONDS = 5.0
PULSE_SECONDS = 2.0
SPARES_AT_ONCE = 4
SPARE_STARTS_WITHIN_SECONDS = 45.0  # nothing is said of it then (schedule.STARTS_WITHIN)
PASSING = frozenset([errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, None])
"""Errors of a file system or store that may be over when it is tried again; a store's have no number."""
FULL = frozenset([errno.ENOSPC, errno.EDQUOT, errno.EROFS])
"""Errors that every other shard would meet as well."""


@dataclass(frozen=True)
class GangSize:
    """Resources of every gang."""

    workers: int
    cpus_per_worker: float
    gpus_per_worker: float


@dataclass(frozen=True)
class Work:
    """The functions a gang runs, as "module:function". They may be repeated; those of a job take its task first."""

    epochs_left: str
    """(task) -> int, on one worker: what is still to be trained; 0 once the training is done."""
    train: str
    """(task) -> None, on all workers at once, which find RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set."""
    shards_left: str
    """(task) -> list of shards, on one worker."""
    certify: str
    """(task, shard) -> None, on one worker."""
    note: str
    """(task, state) -> None, in the trial's own process: keep what it is doing, JSON values; None once it has ended
    well."""
    metrics: str
    """(task) -> dict of numbers, in the trial's own process, for TensorBoard."""
    usage: str
    """() -> dict of JSON values, on a worker, while it works: what it takes of its machine."""


class WorkFailed(RuntimeError):  # noqa: N818  # reads as what happened
    """A function of the work raised, or its workers kept dying; the message is one line."""


@dataclass
class Losses:
    """Shards of a trial that went wrong."""

    failures: dict[int, int] = field(default_factory=dict)
    """By a shard's first image."""
    in_a_row: int = 0
    """Functions that raised since one came through: after many, what is wrong is not the shards."""
    given_up: list[str] = field(default_factory=list)

    def add(self, shard: list[int], error: RayError) -> bool:
        """Whether the shard shall be tried again.

        Raises:
            WorkFailed: hardly anything comes through.
        """
        if isinstance(error, RayTaskError):
            self.in_a_row += 1
            full = isinstance(error.cause, OSError) and error.cause.errno in FULL
            if full or self.in_a_row >= ERRORS_IN_A_ROW:
                raise WorkFailed(_reason(error))
        self.failures[shard[0]] = self.failures.get(shard[0], 0) + 1
        if self.failures[shard[0]] < ATTEMPTS:
            return True
        self.given_up.append(f"{_images(shard)}: {_reason(error)}")
        return False


class Gang:
    """The workers of one trial at a time, in the placement group of the Tune trial that calls this."""

    def __init__(
        self, size: GangSize, stalled_after: float, tell: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        """
        Args:
            stalled_after: seconds; a worker that does not answer for so long is killed.
            tell: is given the metrics of the trial every few seconds.
        """
        self.size = size
        self.stalled_after = stalled_after
        self.tell = tell
        self.members: list[Member] = []

    def run(self, work: Work, task: dict[str, Any], log_file: str) -> None:
        """Train, then certify what is left. After success the workers stay for the next trial, with all they have
        imported; after a failure they are stopped.

        Raises:
            WorkFailed: a function raised, or workers died in three attempts at the same thing.
        """
        self.work, self.task, self.log_file = work, task, log_file
        self.since, self.next_pulse, self.next_look = time.time(), 0.0, 0.0
        self.contested = False
        self._note(full_is_fatal=True)
        for member in self.members:
            member.actor.begin.remote(log_file, work.train)
        try:
            self._train()
            self._certify()
            self._note_end()
        except BaseException:
            self._stop_all()
            raise

    def _train(self) -> None:
        attempt, left_before = 1, -1
        while True:
            try:
                self._start_all()
                left = self._call(self.work.epochs_left)
                if not left:
                    return
                if left_before > left:  # epochs were finished since: the attempts start anew
                    attempt = 1
                left_before = left
                self._train_together()
                return
            except RayError as error:
                # Where a worker dies, the others fail too, and often first: their connection to it is gone.
                death = self._death() if isinstance(error, RayTaskError) and not _may_pass(error) else error
                if death is None:
                    raise WorkFailed(_reason(error)) from None
                self._stop_all()  # the next attempt continues from the last finished epoch
                if attempt == ATTEMPTS:
                    raise WorkFailed(f"the training was interrupted {ATTEMPTS} times: {_reason(death)}") from None
                attempt += 1

    def _train_together(self) -> None:
        actors = [member.actor for member in self.members]
        if len(actors) > 1:
            address = self._get(actors[0].free_address.remote())
            for joined in [actor.join.remote(rank, len(actors), address) for rank, actor in enumerate(actors)]:
                self._get(joined)
        refs = {member.actor.call.remote(self.work.train, self.task): member for member in self.members}
        for member in self.members:
            member.doing = "training"
        while refs:  # an error is raised as soon as one rank fails: the others would wait for it for ever
            done = self._next(list(refs))
            ray.get(done)
            refs.pop(done).doing = "idle"

    def _certify(self) -> None:
        waiting: deque[list[int]] = deque(self._first_call(self.work.shards_left))
        running: dict[ObjectRef, tuple[Member, list[int]]] = {}
        losses, failed_starts = Losses(), 0
        while waiting or running:
            self._share_spare_room(len(waiting))
            for member in [member for member in self.members if member.doing == "idle"]:
                if waiting and not (member.spare and self.contested):
                    shard = waiting.popleft()
                    member.doing = _images(shard)
                    running[member.actor.call.remote(self.work.certify, self.task, shard)] = member, shard
            starting = {member.started: member for member in self.members if member.identity is None}
            done = self._done_or_pulse([*running, *starting])
            if done is None:
                continue
            if done in starting:
                member = starting[done]
                try:
                    member.meet()
                    failed_starts = 0
                except RayError as error:
                    self._replace(member)
                    failed_starts += not member.overdue and not member.spare
                    if failed_starts == ATTEMPTS:
                        raise WorkFailed(f"a worker does not start: {_reason(error)}") from None
                continue
            member, shard = running.pop(done)
            try:
                ray.get(done)
                losses.in_a_row = 0
                member.doing = "idle"
            except RayError as error:
                if member.spare or losses.add(shard, error):  # a spare's node may lack what a shard takes
                    waiting.append(shard)
                # Also where it lives: an accelerator that failed once may fail every shard from now on, and fast.
                self._replace(member)
        self._stop([member for member in self.members if member.spare])
        if losses.given_up:
            others = f", and {len(losses.given_up) - 1} more" if len(losses.given_up) > 1 else ""
            raise WorkFailed(f"a shard failed {ATTEMPTS} times: {losses.given_up[0]}{others}")

    def _share_spare_room(self, waiting: int) -> None:
        """Let workers beyond the gang's own take shards while no other trial waits for the room. Those at work go once
        their shard is done."""
        now = time.monotonic()
        if now < self.next_look:
            return
        self.next_look = now + PULSE_SECONDS
        self.contested = _somebody_waits()
        spares = [member for member in self.members if member.spare]
        starting = [member for member in spares if member.doing == "starting"]
        if not waiting or self.contested:
            self._stop([member for member in spares if member.doing in ("idle", "starting")])
        elif any(now - member.asked_at > SPARE_STARTS_WITHIN_SECONDS for member in starting):
            self._stop(starting)  # others were faster, or no single node has the room
            self._pause_spares()
        elif not starting:
            for _ in range(min(waiting, _room(self.size), SPARES_AT_ONCE)):
                self._start(spare=True)

    def _pause_spares(self) -> None:
        self.next_look = time.monotonic() + SPARE_STARTS_WITHIN_SECONDS

    def _next(self, refs: list[ObjectRef]) -> ObjectRef:
        """The next of these that is done."""
        while True:
            done = self._done_or_pulse(refs)
            if done is not None:
                return done

    def _done_or_pulse(self, refs: list[ObjectRef]) -> ObjectRef | None:
        """The next of these that is done, or None at the next pulse: then workers that have stalled are killed, and the
        state is noted."""
        done, _ = ray.wait(refs, timeout=max(0.0, self.next_pulse - time.monotonic()))
        if time.monotonic() >= self.next_pulse:
            for member in self.members:
                member.take_pulse(self.work.usage, self.stalled_after)
            self._note()
            self.next_pulse = time.monotonic() + PULSE_SECONDS
        return done[0] if done else None

    def _note(self, *, full_is_fatal: bool = False) -> None:
        state = {
            "state": "running",
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": self.since,
            "at": time.time(),
            "workers": [member.note() for member in self.members],
        }
        try:
            pkgutil.resolve_name(self.work.note)(self.task, state)
        except OSError as error:  # or else the work itself will tell
            if full_is_fatal and error.errno in FULL:
                raise WorkFailed(_reason(error)) from None
        if self.tell:
            with suppress(OSError, ValueError, LookupError):  # a damaged file, which the work makes anew
                self.tell(pkgutil.resolve_name(self.work.metrics)(self.task))

    def _note_end(self) -> None:
        """That all is done; without it the trial would be taken for unfinished."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                pkgutil.resolve_name(self.work.note)(self.task, None)
                return
            except OSError:
                if attempt == ATTEMPTS:
                    raise
                time.sleep(PULSE_SECONDS)

    def _death(self) -> RayError | None:
        """The death of a worker, if one died in these seconds."""
        deadline = time.monotonic() + DEATH_IS_KNOWN_AFTER_SECONDS
        while time.monotonic() < deadline:
            for member in self.members:
                answer = member.actor.pulse.remote(self.work.usage)
                try:
                    if ray.wait([answer], timeout=0.5)[0]:
                        ray.get(answer)
                except RayTaskError:
                    continue  # it lives, and cannot tell what it takes of its machine
                except RayError as error:
                    return error
            time.sleep(0.2)
        return None

    def _first_call(self, function: str) -> Any:
        """As `_call`, with what the function raises as a failure, and again where the worker dies."""
        for _ in range(ATTEMPTS):
            try:
                self._start_all()
                return self._call(function)
            except RayTaskError as error:
                raise WorkFailed(_reason(error)) from None
            except RayError as error:
                death = error
                self._stop_all()
        raise WorkFailed(f"a worker died {ATTEMPTS} times: {_reason(death)}")

    def _call(self, function: str) -> Any:
        """On the first worker."""
        return self._get(self.members[0].actor.call.remote(function, self.task))

    def _get(self, ref: ObjectRef) -> Any:
        return ray.get(self._next([ref]))

    def _start_all(self) -> None:
        """All of the gang's own workers, there."""
        while len(self.members) < self.size.workers:
            self._start()
        while starting := {member.started: member for member in self.members if member.identity is None}:
            member = starting[self._next(list(starting))]
            try:
                member.meet()
            except RayError:
                if not member.overdue:
                    raise
                self._replace(member)

    def _start(self, *, spare: bool = False) -> None:
        group = None if spare else ray.util.get_current_placement_group()
        cpus, gpus = self.size.cpus_per_worker, self.size.gpus_per_worker
        self.members.append(start_member(cpus, gpus, self.log_file, self.work.train, group, spare=spare))

    def _replace(self, member: Member) -> None:
        self._stop([member])
        if member.spare:
            self._pause_spares()
        else:
            self._start()

    def _stop(self, members: list[Member]) -> None:
        for member in members:
            member.stop()
        self.members = [member for member in self.members if member not in members]

    def _stop_all(self) -> None:
        self._stop(self.members)


def _somebody_waits() -> bool:
    """Whether a trial waits for room on the cluster."""
    return any(group["state"] in ("PENDING", "RESCHEDULING") for group in ray.util.placement_group_table().values())


def _room(size: GangSize) -> int:
    """How many more workers the cluster has room for now, nodes aside."""
    free = ray.available_resources()
    wanted = {"CPU": size.cpus_per_worker, "GPU": size.gpus_per_worker}
    return min(int(free.get(name, 0) / each) for name, each in wanted.items() if each)


def _may_pass(error: RayTaskError) -> bool:
    return isinstance(error.cause, OSError) and error.cause.errno in PASSING


def _images(shard: list[int]) -> str:
    return f"images {shard[0]} to {shard[-1]}"


def _reason(error: BaseException) -> str:
    """One line. A ValueError of the work is a sentence for the user already."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    text = str(cause).strip().splitlines()
    message = text[0] if text else "no message"
    return message if isinstance(cause, ValueError | RayError) else f"{type(cause).__name__}: {message}"
