"""Trials become jobs, and jobs run on a cluster."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.machine.driver import MASK, driver_version
from bench.machine.resources import refuse_parts_of_gpus, stall_seconds
from bench.runner.task import trial_task
from bench.runner.trial_work import TrialWork
from bench.settings.options import RunOptions
from bench.settings.plugins import Plugin
from bench.settings.trial import Trial
from cluster import ClusterError, GroupSize, Job, missing_room, node_resources, run_jobs
from results.store.folder import SHARED_FOLDER_SECONDS, RunFolder, TrialFolder, refresh
from results.store.records import RunRecord, StateRecord

LOOKED_AT_EVERY = 0.5
"""Seconds, for what another machine has written."""

logger = logging.getLogger("bench")


def group_of(options: RunOptions, run: RunFolder, trials: int, *, trains: bool) -> GroupSize:
    """The worker group of every trial of a run, on the cluster to which this process is connected.

    Where `workers` are not given and the run had a group before, it is of as many workers again, if there is room:
    weights depend on their number, and what was interrupted is to become what it would have been.

    Args:
        trials: how many are left to run.
        trains: whether any of them is to be trained.

    Raises:
        ClusterError: it does not fit on the cluster.
        ResourceError: as `default_group`.
    """
    asked, nodes = (options.cpus_per_worker, options.gpus_per_worker), node_resources()
    size = default_group(options.workers, *asked, nodes, trials)
    known = trains and options.workers is None and not options.fresh and run.description.exists()
    record = RunRecord.read(run.description) if known else None
    before = record and (record.trained_by or (record.group and record.group.workers))
    if before and before != size.workers and size.gpus_per_worker in (0, 1):
        again = default_group(before, *asked, nodes, trials)
        if not (missing := missing_room(again)):
            numbers = before, size.workers
            logger.warning("trials train on %d workers each, as before, and not on %d: --workers changes it", *numbers)
            return again
        numbers = size.workers, before
        logger.warning("trials train on %d workers now, and on %d before, which changes weights: %s", *numbers, missing)
    if missing := missing_room(size):
        raise ClusterError(missing)
    return size


def default_group(
    workers: int | None, cpus: float | None, gpus: float | None, nodes: Sequence[tuple[float, float]], trials: int
) -> GroupSize:
    """The worker group of every trial: by default one GPU where there are as many trials as GPUs, else as many as each
    may have, of one node; without GPUs two workers that share the cores of the largest node.

    Trials side by side never wait for one another, the GPUs of a trial do, many times a step. A worker's CPUs are by
    default its share of the cores, such that workers of other groups find theirs too.

    Args:
        nodes: CPUs and GPUs of every node.
        trials: how many are left to run.

    Raises:
        ResourceError: several workers on parts of GPUs, between which there is no DDP.
    """
    accelerators, cores = max((int(gpus), int(cpus)) for cpus, gpus in nodes)
    if gpus is None:
        gpus = float(accelerators > 0)
        if not accelerators and MASK not in os.environ and (driver := driver_version()):
            logger.warning("computing on CPUs: this machine has NVIDIA's driver %s, but Ray finds no GPU", driver)
    if workers is None:
        # On a part of a GPU trials are alone, side by side.
        each = sum(int(gpus) for _, gpus in nodes) // max(1, trials)
        workers = max(1, min(accelerators, each)) if gpus == 1 else 1 if gpus else max(1, min(2, cores))
    refuse_parts_of_gpus(workers, gpus)
    # A group of more workers than the node has GPUs goes over several nodes.
    sharers = max(1, int(accelerators / gpus)) if gpus else min(workers, max(1, cores))
    return GroupSize(workers, cpus if cpus is not None else max(1, cores // sharers), gpus)


def run_trials(
    left: Mapping[str, tuple[Trial, bool]],
    run: RunFolder,
    size: GroupSize,
    *,
    shard_size: int,
    tensorboard: bool = False,
    plugins: Sequence[Plugin] = (),
) -> dict[str, str]:
    """Bring to its end what is left, as `bench.runner.stages.unfinished` finds it, on the cluster to which this
    process is connected. Returns the ids of those that failed, each with the reason."""
    jobs = plan_jobs(left, run, shard_size, plugins)
    place = Path(str(run.path), "tensorboard") if tensorboard else None
    failed = run_jobs(jobs, TrialWork(), size, stalled_after=stall_seconds(), tensorboard=place)
    deadline = time.monotonic() + SHARED_FOLDER_SECONDS
    for job in jobs:
        folder = run.trial(job.name)
        refresh(folder)
        while job.name not in failed and not _has_ended(folder):
            if time.monotonic() > deadline:
                failed[job.name] = ended_elsewhere(run)
                break
            time.sleep(LOOKED_AT_EVERY)
            refresh(folder)
    return failed


def ended_elsewhere(run: RunFolder) -> str:
    """Why a trial whose job succeeded counts as failed: nothing of it is here."""
    return f"it ended where {run.path} is another folder: all nodes must share that of --out"


def _has_ended(folder: TrialFolder) -> bool:
    """Whether what a job that succeeded wrote, and that it removed its state, is seen here."""
    return folder.training.exists() and not folder.state.exists()


def plan_jobs(
    left: Mapping[str, tuple[Trial, bool]], run: RunFolder, shard_size: int, plugins: Sequence[Plugin] = ()
) -> list[Job]:
    """A job for everything that is left, as `bench.runner.stages.unfinished` finds it."""
    run.devices.unlink(missing_ok=True)  # what the last command left out may be mended
    for name in left:
        StateRecord(state="waiting").write(run.trial(name).state)
    jobs = []
    for name, (trial, certify) in left.items():
        task = trial_task(trial, run, certify=certify, shard_size=shard_size, plugins=plugins)
        after = [needed.trial_id for needed in trial.needed if needed.trial_id in left]
        jobs.append(Job(name, {**task}, task["log"], after))
    # First what others wait for: nothing should have to wait for these. What needs no spectrum before shows its first
    # epoch sooner.
    return sorted(jobs, key=lambda job: (len(job.after), left[job.name][0].decomposition_ratio is not None))
