"""Jobs in order of need, each in a worker group of its own, by Ray Tune."""

from __future__ import annotations

import logging
import os
import re
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.logger import TBXLoggerCallback
from ray.tune.search import Searcher

from cluster.certification import certify
from cluster.devices import DeviceLeftOutError
from cluster.errors import ClusterError
from cluster.group import GroupSize, WorkerGroup
from cluster.private import last_words, quiet_tune, starting_processes
from cluster.running_job import RunningJob
from cluster.training import train
from cluster.work import Job, JobState, Work, WorkFailed

logger = logging.getLogger(__name__)
LOST_PROCESSES = 10  # of a trial; one goes only where its node does
ROOM_IS_LOOKED_FOR_EVERY = 30.0  # seconds
STARTS_ARE_LOOKED_AT_EVERY = 5.0  # seconds
STARTS_WITHIN = 55.0  # seconds; with the above, what takes a minute is said within it
PLACE_IS_KEPT_FOR = 1.0  # seconds, and again
LOST = f"the process that ran the trial died {LOST_PROCESSES + 1} times"


def run_jobs(
    jobs: list[Job],
    work: Work,
    size: GroupSize,
    *,
    stalled_after: float = 60.0,
    tensorboard: Path | None = None,
    more: Callable[[str], list[Job]] = lambda _: [],
) -> dict[str, str]:
    """Run every job on the cluster to which this process is connected, as many at once as it has room for; a failing
    job does not stop the others. Where nodes are lost later, a warning says which room the jobs wait for.

    A group one of whose accelerators fails again and again keeps its place to the end, so that nobody is put there, and
    its job goes on elsewhere; where there is no elsewhere, what is left fails.

    Args:
        jobs: in the order in which they should start, except where one must wait for another.
        work: what is done for a job.
        size: resources of each job's worker group.
        stalled_after: seconds; a worker that does not answer for so long is replaced.
        tensorboard: folder for Tune's files, with the metrics of every trial.
        more: gives the jobs that are to follow a job which has ended, well or not, by the name of that one; called in
            this process, and quick.

    Returns:
        The jobs that failed, by name, each with the reason in one line.

    Raises:
        ClusterError: a worker group never fits.
        Exception: what `more` raised, once what ran then has ended.
    """
    if missing := missing_room(size):  # Tune would wait for it for ever
        raise ClusterError(missing)
    with tempfile.TemporaryDirectory(prefix="bench-tune-") as temporary:
        bundles = [{"CPU": size.cpus_per_worker, "GPU": size.gpus_per_worker}] * size.workers
        quiet_tune()
        # The first bundle is the trial's own process, which only waits.
        resources = tune.PlacementGroupFactory([{"CPU": 0}, *bundles])
        known = tune.with_parameters(
            _run_job, work=work, size=size, stalled_after=stalled_after, reports=tensorboard is not None
        )
        order = _Order(jobs, size, work, more)
        tuner = tune.Tuner(
            tune.with_resources(known, resources),
            tune_config=tune.TuneConfig(
                search_alg=order, num_samples=-1, reuse_actors=True, trial_dirname_creator=_trial_name
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(tensorboard or temporary),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=LOST_PROCESSES),
                stop=_NothingLeft(order),
                callbacks=[
                    order.starts,
                    _RoomWatch(order),
                    _StartWatch(),
                    *([TBXLoggerCallback()] if tensorboard else []),
                ],
            ),
        )
        tuner.fit()
    silent = f"no room is left: {'; '.join(order.left_out)}" if order.left_out else LOST
    if order.fault:
        raise order.fault
    known = list(order.jobs.values())
    failed = {job.name: order.errors.get(job.name, silent) for job in known if job.name not in order.succeeded}
    for job in known:
        if job.name in failed.keys() - order.errors.keys():  # its own process could not say so itself
            work.note(job.task, {"state": JobState.FAILED, "error": silent})
    return failed


class _Order(Searcher):  # type: ignore[misc]  # ray is untyped
    """Gives Tune the jobs, each once those it comes after have ended, and again where its group gave it back."""

    def __init__(self, jobs: list[Job], size: GroupSize, work: Work, more: Callable[[str], list[Job]]) -> None:
        super().__init__(metric="succeeded", mode="max")
        self.more = more
        self.fault: Exception | None = None
        """Of `more`; what Tune does not hold by then is not begun."""
        self.size = size
        self.work = work
        self.keeping: set[str] = set()
        """Trials that do nothing but keep their place."""
        self.starts = _Starts(self.keeping)
        self.waiting = list(jobs)
        self.jobs = {job.name: job for job in jobs}
        self.left_out: list[str] = []
        """Accelerators, a sentence of each."""
        self.running: dict[str, str] = {}
        self.ended: set[str] = set()
        self.succeeded: set[str] = set()
        self.errors: dict[str, str] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if not self.waiting and not self.running:  # what runs may be given back
            return str(Searcher.FINISHED)
        for job in self.waiting:
            if self.ended.issuperset(job.after):
                self.waiting.remove(job)
                self.running[trial_id] = job.name
                return {"job": asdict(job)}
        return None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if "left_out" not in result or trial_id not in self.running:
            return
        self.waiting.insert(0, self.jobs[self.running.pop(trial_id)])
        self.keeping.add(trial_id)
        self.left_out.append(str(result["left_out"]))
        logger.warning("%s", self.left_out[-1])
        with suppress(OSError):
            self.work.note_devices(self.waiting[0].task, self.left_out)

    def nothing_can_go_on(self) -> bool:
        """Whether groups that only keep their places, or kept them, are all there are, and nothing waits, or what waits
        has no room beside them."""
        if not self.left_out or not self.starts.seen.isdisjoint(self.running):
            return False
        if not (self.waiting or self.running):
            return True
        return bool(self.keeping) and bool(missing_room(self.size, kept=len(self.keeping)))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.keeping.discard(trial_id)
        if trial_id not in self.running:  # its job was given back, and whoever has it now tells its end
            return
        name = self.running.pop(trial_id)
        self.ended.add(name)
        if not error and result and result.get("succeeded"):
            self.succeeded.add(name)
        elif not error and result and "error" in result:
            self.errors[name] = str(result["error"])
        try:
            following = self.more(name)
        except Exception as fault:  # Tune would make an error of its own of it
            self.fault = self.fault or fault
            self.waiting.clear()
        else:
            self.waiting += following
            self.jobs |= {job.name: job for job in following}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a run resumes from its own files."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a run resumes from its own files."""


class _Starts(tune.Callback):  # type: ignore[misc]  # ray is untyped
    """Knows which trials have found room, and tells those that gave their job back, should they be started again."""

    def __init__(self, keeping: set[str]) -> None:
        self.seen: set[str] = set()
        self.keeping = keeping

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        self.seen.add(trial.trial_id)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:  # noqa: ARG002
        if "left_out" in result:
            trial.config["given_back"] = True

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        self.keeping.discard(trial.trial_id)  # its node is gone, and the place with it


class _NothingLeft(tune.Stopper):  # type: ignore[misc]  # ray is untyped
    """Ends the groups that keep their places, once there is nothing else."""

    def __init__(self, order: _Order) -> None:
        self.order = order

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
        return False

    def stop_all(self) -> bool:
        return self.order.nothing_can_go_on()


class _RoomWatch(tune.Callback):  # type: ignore[misc]  # ray is untyped
    """Says that the cluster has no room for a worker group any more: jobs then wait, and nothing else tells why."""

    def __init__(self, order: _Order) -> None:
        self.order = order
        self.next_look = 0.0
        self.told = ""

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:  # noqa: ARG002
        if time.monotonic() < self.next_look:
            return
        self.next_look = time.monotonic() + ROOM_IS_LOOKED_FOR_EVERY
        missing = missing_room(self.order.size, kept=len(self.order.keeping))
        if missing and missing != self.told:
            logger.warning("%s now: what does not fit waits for a node to come (back)", missing)
        self.told = missing


class _StartWatch(tune.Callback):  # type: ignore[misc]  # ray is untyped
    """Says once that a worker does not start, and what its machine says to it: Ray tries for ever without a word."""

    def __init__(self) -> None:
        self.next_look = 0.0
        self.since: dict[str, float] = {}
        self.told = False

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:  # noqa: ARG002
        now = time.monotonic()
        if self.told or now < self.next_look:
            return
        self.next_look = now + STARTS_ARE_LOOKED_AT_EVERY
        self.since = {actor: self.since.get(actor, now) for actor in starting_processes()}
        if any(now - since > STARTS_WITHIN for since in self.since.values()):
            self.told = True
            log, line = last_words()
            said = f"{log} ends: {line}" if line else f"{log} on its machine may say why"
            logger.warning("a worker has not started for a minute (%s); it is tried on until Ctrl-C", said)


def _trial_name(trial: Any) -> str:
    return str(trial.config["job"]["name"])


def _run_job(
    config: dict[str, Any], work: Work, size: GroupSize, stalled_after: float, reports: bool
) -> dict[str, Any]:
    """The Tune trial: a worker group for one job. An error becomes a note and a result, so Tune neither prints nor
    retries."""
    if config.get("given_back"):  # the node of the place that was kept is gone
        return {"succeeded": 0}
    job = Job(**config["job"])
    running = RunningJob(work, job.task, job.log_file, _report if reports else None)
    try:
        _bring_to_end(running, _this_process.group(size, stalled_after))
        return {"succeeded": 1}
    except DeviceLeftOutError as left_out:
        _log_traceback(Path(job.log_file).expanduser())
        with suppress(OSError):
            work.note(job.task, {"state": JobState.WAITING})
        while True:  # until Tune ends this: the job is given back, and nobody else comes to this place
            tune.report({"succeeded": 0, "left_out": str(left_out)})
            time.sleep(PLACE_IS_KEPT_FOR)
    except Exception as error:
        _log_traceback(Path(job.log_file).expanduser())
        message = str(error) if isinstance(error, WorkFailed) else f"{type(error).__name__}: {error}"
        with suppress(OSError):  # a full disk, perhaps: the result tells too
            work.note(job.task, {"state": JobState.FAILED, "error": message})
        return {"succeeded": 0, "error": message}


def _bring_to_end(running: RunningJob, group: WorkerGroup) -> None:
    """Train, then certify what is left. After success the group's workers stay for the next job, with all they have
    imported; after a failure they are stopped."""
    running.note(group.workers, full_is_fatal=True)
    group.take_up(running)
    try:
        train(group)
        certify(group)
        running.note_end()
    except BaseException:
        group.stop_all()
        raise


def _report(metrics: dict[str, float]) -> None:
    tune.report({"succeeded": 0, **metrics})  # Tune wants to know of what it orders by at every report


class _TrialProcess:
    """What a process keeps while Tune runs one trial after another in it, in the same placement group: its workers."""

    def __init__(self) -> None:
        self._group: WorkerGroup | None = None

    def group(self, size: GroupSize, stalled_after: float) -> WorkerGroup:
        """The group of this process; all its trials are of one run, with the same size and patience."""
        if self._group is None:
            self._group = WorkerGroup(size, stalled_after)
        return self._group


_this_process = _TrialProcess()


def _log_traceback(log: Path) -> None:
    with suppress(OSError):
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        with os.fdopen(os.open(log, flags, 0o644), "a", encoding="utf-8") as file:
            file.write(re.sub(r"\x1b\[[0-9;]*m", "", traceback.format_exc()))  # Ray colours the worker's own


def node_resources() -> list[tuple[float, float]]:
    """CPUs and GPUs of every node of the cluster that is alive."""
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(resources.get("CPU", 0.0), resources.get("GPU", 0.0)) for resources in found]


def missing_room(size: GroupSize, *, kept: int = 0) -> str:
    """Why a worker group does not fit on the cluster of now, even without anything else there but groups that only keep
    their places; empty where it does."""
    nodes = node_resources()
    wanted = {"CPU": size.cpus_per_worker, "GPU": size.gpus_per_worker}
    room = sum(
        min(int(have / each) for have, each in zip(node, wanted.values(), strict=True) if each) for node in nodes
    )
    if room >= size.workers * (1 + kept):
        return ""
    each = " and ".join(f"{amount:g} {name}" for name, amount in wanted.items() if amount)
    have = ", ".join(f"{sum(amounts):g} {name}" for name, amounts in zip(wanted, zip(*nodes, strict=True), strict=True))
    group = f"1 worker with {each} does" if size.workers == 1 else f"{size.workers} workers with {each} each do"
    return f"{group} not fit on the cluster, which has {have}"
