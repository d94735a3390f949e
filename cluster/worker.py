"""A worker: a process of a group, and the group's handle of it."""

from __future__ import annotations

import gc
import io
import os
import socket
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil
import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.work import Work, shard_name

PULSE_SECONDS = 2.0
UNMASKED = "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"
"""With this Ray shows every worker all accelerators of its node, whatever it was given."""
START_PULSES = 5
"""How many times longer a process may take to start than to answer."""
STEP_PULSES = 2
"""And how many times longer a step of its work may take,"""
STEP_MEDIANS = 20
"""or than its steps usually do; the longer of both."""
KNOWN_STEPS = 101


class StalledError(RayError):  # type: ignore[misc]  # ray is untyped
    """A worker was stopped, because it did not answer or its work did not go on; the message is one line."""


class _Worker:
    """The process. Its output goes to the trial's log; one thread works, another answers the pulse."""

    def __init__(self, cpus: float, gpus: float) -> None:
        self.cpus, self.gpus = cpus, gpus
        if not gpus:  # ray leaves every accelerator in sight of a worker that asked for none
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        elif os.environ.get(UNMASKED):  # and then of every worker
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, ray.get_gpu_ids()))

    def begin(self, log_file: str, prepare: Callable[[float, float], None]) -> None:
        """Send all output to the file, and prepare for the work."""
        place = Path(log_file).expanduser()
        place.parent.mkdir(parents=True, exist_ok=True)
        # A link in a run that somebody else made might lead anywhere.
        log = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # the log is a file, not a terminal
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        prepare(self.cpus, self.gpus)
        if not gc.get_freeze_count():  # once: what a trial leaves must still be collected after it
            gc.collect()
            gc.freeze()  # what is imported by now stays, and a collection between trials need not look at it

    @ray.method(concurrency_group="pulse")  # type: ignore[untyped-decorator]
    def who(self) -> dict[str, Any]:
        """This process, and Ray's ids of its accelerators; also while it prepares."""
        gpus = [str(number) for number in ray.get_gpu_ids()]
        return {"host": socket.gethostname(), "pid": os.getpid(), "gpus": gpus}

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
        # Left alone, gloo takes the interface of the host's name, which is often the loopback one.
        interface = interface_of(ray.util.get_node_ip_address())
        if interface and interface != "lo":
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={interface}")

    def call(self, function: Callable[..., Any], *arguments: object) -> Any:
        return function(*arguments)

    @ray.method(concurrency_group="pulse")  # type: ignore[untyped-decorator]
    def pulse(self, usage: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Answers at once, however busy the worker is."""
        return usage()


Worker: Any = ray.remote(max_restarts=0, concurrency_groups={"pulse": 1})(_Worker)


def interface_of(address: str) -> str | None:
    """The network interface that has the IPv4 address."""
    for name, entries in psutil.net_if_addrs().items():
        if any(entry.family == socket.AF_INET and entry.address == address for entry in entries):
            return str(name)
    return None


class Doing(StrEnum):
    """What a worker is at."""

    STARTING = "starting"
    IDLE = "idle"
    TRAINING = "training"
    CERTIFYING = "certifying"


@dataclass
class WorkerHandle:
    """A worker as its group sees it."""

    actor: ActorHandle
    started: ObjectRef
    """Done once the process has prepared for its work."""
    who: ObjectRef
    """Host, pid and accelerators: done once the process is there."""
    elastic: bool
    """Beyond the group's own workers, for certification alone."""
    identity: dict[str, Any] | None = None
    """The same, once it has prepared or failed to."""
    doing: Doing = Doing.STARTING
    shard: list[int] = field(default_factory=list)
    """Its images, while the worker certifies it; empty at other times."""
    pulse: ObjectRef | None = None
    asked_at: float = field(default_factory=time.monotonic)
    """When the pulse that is awaited was asked for, or before that, the process (monotonic seconds)."""
    overdue: bool = False
    """It was stopped because its process was not there in time."""
    usage: dict[str, Any] = field(default_factory=dict)
    set_to_work_at: float = 0.0
    """When its training or shard began (monotonic seconds)."""
    went_on_at: float = 0.0
    """When its work began, or had gone on at a pulse."""
    seen_at: float = 0.0
    """When the last answer was asked for."""
    start_seconds: float = 0.0
    """What its start took, once it is there."""
    step_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=KNOWN_STEPS))
    """Of its last steps, each a mean between two pulses."""
    stalled: str = ""
    """Why it was stopped as stalled."""

    def meet(self) -> None:
        """Note that the process is there and ready.

        Raises:
            RayError: it is not, and will not be; StalledError: it hung while it prepared.
        """
        try:
            self.result(self.started)
        except (RayTaskError, StalledError):  # it is there, and cannot prepare for its work
            self.identity = ray.get(self.who)
            raise
        self.identity = ray.get(self.who)
        self.start_seconds = time.monotonic() - self.asked_at
        self.rest()

    def train(self, work: Work, task: dict[str, Any]) -> ObjectRef:
        """Set it to the training, as one of the group; what tells its end."""
        self.doing = Doing.TRAINING
        self.set_to_work_at = self.went_on_at = time.monotonic()
        return self.actor.call.remote(work.train, task)

    def certify(self, work: Work, task: dict[str, Any], shard: list[int]) -> ObjectRef:
        """Set it to a shard; what tells its end."""
        self.doing, self.shard = Doing.CERTIFYING, shard
        self.set_to_work_at = self.went_on_at = time.monotonic()
        return self.actor.call.remote(work.certify, task, shard)

    def result(self, ref: ObjectRef) -> Any:
        """What it did, once that is done.

        Raises:
            RayTaskError: the work raised.
            RayError: the worker died; StalledError: it was stopped as stalled.
        """
        try:
            return ray.get(ref)
        except RayTaskError:
            raise
        except RayError:
            if self.stalled:
                raise StalledError(self.stalled) from None
            raise

    def rest(self) -> None:
        """Note that it has nothing to do."""
        self.doing, self.shard = Doing.IDLE, []

    def stop(self) -> None:
        """Kill the process, or give up its place where it has not started."""
        ray.kill(self.actor)

    def take_pulse(self, usage: Callable[[], dict[str, Any]], stalled_after: float) -> None:
        """Ask, or look for the answer. A process that has not answered for `stalled_after` seconds is killed."""
        now = time.monotonic()
        if self.identity is None:
            if now - self.asked_at > START_PULSES * stalled_after and not (self.overdue or self.stalled):
                if self._process():  # its accelerator hangs, say
                    self.stop_as_stalled(f"it had not prepared for its work after {now - self.asked_at:.0f} s")
                else:  # no room for it, say: its successor waits in its place
                    self.overdue = True
                    self.stop()
        elif self.pulse is None:
            self.pulse, self.asked_at = self.actor.pulse.remote(usage), now
        elif ray.wait([self.pulse], timeout=0)[0]:
            before = self.usage
            try:
                self.usage = ray.get(self.pulse)
            except RayError:  # dead: whoever waits for its work learns of it
                self.usage = {}
            self._compare_steps(before)
            self.pulse, self.asked_at = self.actor.pulse.remote(usage), now
        elif now - self.asked_at > stalled_after:
            self.stop_as_stalled(f"it did not answer for {now - self.asked_at:.0f} s")

    def _process(self) -> dict[str, Any] | None:
        """Who it is, if its process is there by now."""
        try:
            return dict(ray.get(self.who, timeout=0))
        except RayError:  # it is not yet, or no longer
            return None

    def _compare_steps(self, before: dict[str, Any]) -> None:
        # The answer is of when it was asked for: whoever asks may have been kept from looking at it.
        self.seen_at = max(self.asked_at, self.went_on_at)
        steps = self.usage.get("steps", 0) - before.get("steps", 0)
        if steps and not self.usage.get("apart"):
            self.step_seconds.append((self.seen_at - self.went_on_at) / steps)
        if steps or self.usage.get("apart"):
            self.went_on_at = self.seen_at

    def still_for(self, stalled_after: float) -> float:
        """For how many seconds the work that it is at has not gone on; 0 while that is nothing unusual."""
        if self.doing not in (Doing.TRAINING, Doing.CERTIFYING) or "steps" not in self.usage:
            return 0.0
        usual = statistics.median(self.step_seconds) if self.step_seconds else 0.0
        still = self.seen_at - self.went_on_at
        return still if still > max(STEP_PULSES * stalled_after, STEP_MEDIANS * usual) else 0.0

    def stop_as_stalled(self, why: str) -> None:
        """Kill the process; whoever waits for its work learns why."""
        self.stalled = f"a worker on {(self.identity or self._process() or {}).get('host')} was stopped: {why}"
        self.stop()

    def note(self) -> dict[str, Any]:
        """What `bench status` shows of it, as JSON values."""
        doing = shard_name(self.shard) if self.shard else self.doing
        return {**(self.identity or {}), "doing": doing, "elastic": self.elastic, **self.usage}


def start_process(cpus: float, gpus: float, place: PlacementGroup | None) -> ActorHandle:
    """The process of a worker, on its way: in a placement group, or wherever there is room."""
    strategy = PlacementGroupSchedulingStrategy(place) if place else "DEFAULT"
    return Worker.options(num_cpus=cpus, num_gpus=gpus, scheduling_strategy=strategy).remote(cpus, gpus)
