"""Jobs in order of need, each in a gang of its own, by Ray Tune."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError
from ray.tune.search import Searcher

from cluster.gang import Gang, GangSize, Work, WorkFailed

OBJECT_STORE_BYTES = 200 * 2**20  # nothing large goes through it


class ClusterError(RuntimeError):
    """The cluster cannot be reached or has not the resources; the message is one sentence."""


@dataclass(frozen=True)
class Job:
    """One trial."""

    name: str
    task: dict[str, Any]
    """Handed to the functions; JSON values."""
    log_file: str
    state_file: str
    """Says who runs the job or why it failed, as JSON; absent before the job starts and after it succeeds."""
    after: list[str] = field(default_factory=list)
    """Names of the jobs that must have ended before this one starts."""


def run_jobs(jobs: list[Job], work: Work, size: GangSize, *, address: str | None = None) -> list[str]:
    """Run every job, as many at once as the cluster has room for; a failing job does not stop the others.

    Args:
        jobs: in the order in which they should start, except where one must wait for another.
        work: what a gang does for a job.
        size: resources of each gang.
        address: of a running cluster; where not given, one is started on this machine and stopped at the end. A
            process that is connected already keeps its cluster.

    Returns:
        The names of the jobs that failed.

    Raises:
        ClusterError: no cluster at the address, or one on which a gang never fits.
    """
    with _connected(address), tempfile.TemporaryDirectory(prefix="bench-tune-") as storage:
        _check_room(size)
        bundles = [{"CPU": size.cpus_per_worker, "GPU": size.gpus_per_worker}] * size.workers
        # The first bundle is the trial's own process, which only waits.
        resources = tune.PlacementGroupFactory([{"CPU": 0}, *bundles])
        trainable = tune.with_resources(tune.with_parameters(_run_job, work=work, size=size), resources)
        order = _Order(jobs)
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(search_alg=order, num_samples=len(jobs), reuse_actors=True),
            run_config=tune.RunConfig(name="run", storage_path=storage, verbose=0),
        )
        tuner.fit()
        failed = [job for job in jobs if job.name not in order.succeeded]
        for job in failed:
            _explain_failure(Path(job.state_file))
        return [job.name for job in failed]


class _Order(Searcher):  # type: ignore[misc]  # ray is untyped
    """Gives Tune the jobs, each once those it comes after have ended."""

    def __init__(self, jobs: list[Job]) -> None:
        super().__init__(metric="succeeded", mode="max")
        self.waiting = list(jobs)
        self.running: dict[str, str] = {}
        self.ended: set[str] = set()
        self.succeeded: set[str] = set()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if not self.waiting:
            return str(Searcher.FINISHED)
        for job in self.waiting:
            if self.ended.issuperset(job.after):
                self.waiting.remove(job)
                self.running[trial_id] = job.name
                return {"job": asdict(job)}
        return None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        name = self.running.pop(trial_id)
        self.ended.add(name)
        if not error and result and result.get("succeeded"):
            self.succeeded.add(name)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a run resumes from its own files."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a run resumes from its own files."""


def _run_job(config: dict[str, Any], work: Work, size: GangSize) -> dict[str, int]:
    """The Tune trial: a gang for one job. Errors become a file and a status, so Tune neither prints nor retries."""
    job = Job(**config["job"])
    state = Path(job.state_file)
    state.parent.mkdir(parents=True, exist_ok=True)
    _write(state, {"state": "running", "host": socket.gethostname(), "pid": os.getpid(), "since": time.time()})
    try:
        _gang_of_this_process(size).run(work, job.task, job.log_file)
    except Exception as error:
        with Path(job.log_file).open("a", encoding="utf-8") as log:
            traceback.print_exc(file=log)
        message = str(error) if isinstance(error, WorkFailed) else f"{type(error).__name__}: {error}"
        _write(state, {"state": "failed", "error": message})
        return {"succeeded": 0}
    state.unlink(missing_ok=True)
    return {"succeeded": 1}


def _explain_failure(state: Path) -> None:
    """A trial whose own process died could not say so itself."""
    if json.loads(state.read_text(encoding="utf-8"))["state"] != "failed":
        _write(state, {"state": "failed", "error": "the process that ran the trial died"})


@lru_cache(maxsize=1)
def _gang_of_this_process(size: GangSize) -> Gang:
    """Tune runs one trial after another in the same process and placement group; so can their workers."""
    return Gang(size)


def _write(state: Path, value: dict[str, Any]) -> None:
    temporary = state.with_name(f".{state.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    temporary.replace(state)


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    if ray.is_initialized():  # by whoever calls: theirs to end
        yield
        return
    _check_reachable(address)
    try:
        ray.init(
            address=address or "local",
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=None if address else OBJECT_STORE_BYTES,
        )
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        what = f"no Ray cluster at {address}" if address else "Ray cannot be started"
        raise ClusterError(f"{what}: {str(error).splitlines()[0]}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str | None) -> None:
    """Ray itself tries for minutes to reach an address at which nobody listens."""
    host, _, port = (address or "").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(f"no Ray cluster at {address}: {error}") from None


def _check_room(size: GangSize) -> None:
    """Refuse a gang that no state of the cluster has room for: Tune would wait for it for ever."""
    wanted = {"CPU": size.cpus_per_worker, "GPU": size.gpus_per_worker}
    room = 0
    for node in ray.nodes():
        if node["Alive"]:
            have = node["Resources"]
            room += min(int(have.get(name, 0) / each) for name, each in wanted.items() if each)
    if room < size.workers:
        each = " and ".join(f"{amount:g} {name}" for name, amount in wanted.items() if amount)
        have = ", ".join(f"{ray.cluster_resources().get(name, 0):g} {name}" for name in wanted)
        raise ClusterError(f"{size.workers} workers with {each} each do not fit on the cluster, which has {have}")
