"""A grid, run: trials become jobs, jobs run on a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bench.grid import Grid
from bench.resources import refuse_parts_of_gpus, stall_seconds
from bench.settings import Trial
from bench.state import trial_task
from bench.thumbnails import keep_thumbnails
from bench.trial import images_left, is_trained
from cluster import GangSize, Job, Work, run_jobs
from results.description import add_trials
from results.folder import RunFolder, refresh, write_json

WORK = Work(
    epochs_left="bench.work:epochs_left",
    train="bench.work:train_trial",
    shards_left="bench.work:shards_left",
    certify="bench.work:certify",
    note="bench.state:note",
    metrics="bench.state:metrics",
    usage="bench.usage:usage",
)


def default_gang(
    workers: int | None, cpus: float | None, gpus: float | None, nodes: Sequence[tuple[float, float]]
) -> GangSize:
    """The gang of every trial: by default one worker per GPU of the largest node, or two that share its cores.

    A worker's CPUs are by default its share of the cores, such that workers of other gangs find theirs too.

    Args:
        nodes: CPUs and GPUs of every node.

    Raises:
        ResourceError: several workers on parts of GPUs, between which there is no DDP.
    """
    accelerators, cores = max((int(gpus), int(cpus)) for cpus, gpus in nodes)
    if gpus is None:
        gpus = float(accelerators > 0)
    if workers is None:
        # On a part of a GPU trials are alone, side by side.
        workers = max(1, accelerators) if gpus == 1 else 1 if gpus else max(1, min(2, cores))
    refuse_parts_of_gpus(workers, gpus)
    # A gang of more workers than the node has GPUs goes over several nodes.
    sharers = max(1, int(accelerators / gpus)) if gpus else min(workers, max(1, cores))
    return GangSize(workers, cpus if cpus is not None else max(1, cores // sharers), gpus)


def prepare(grid: Grid, dataset: str, run: RunFolder, size: GangSize) -> list[Trial]:
    """The trials of a grid, written into the folder of the run, which the caller has locked.

    Raises:
        RunError: the folder holds something else.
    """
    trials = grid.trials(dataset)
    add_trials(run, trials, grid=grid.model_dump(), gang=asdict(size))
    keep_thumbnails(run, trials)
    return trials


def run_grid(
    trials: list[Trial], run: RunFolder, size: GangSize, *, shard_size: int, tensorboard: bool = False
) -> dict[str, str]:
    """Bring every trial to its end on the cluster to which this process is connected; what is finished is not done
    again. Returns the ids of those that failed, each with the reason."""
    jobs = plan_jobs(trials, run, shard_size)
    place = Path(str(run.path), "tensorboard") if tensorboard else None
    if not jobs:
        return {}
    failed = run_jobs(jobs, WORK, size, stalled_after=stall_seconds(), tensorboard=place)
    for job in jobs:
        refresh(run.trial(job.name))
    return failed


def plan_jobs(trials: list[Trial], run: RunFolder, shard_size: int) -> list[Job]:
    """A job for every unfinished trial, and one for every untrained member that no trial of the grid trains."""
    wanted = {trial.trial_id: (trial, True) for trial in trials}
    for trial in trials:
        for member in trial.members:
            wanted.setdefault(member.trial_id, (member, False))
    unfinished = {}
    for name, (trial, certify) in wanted.items():
        trained = is_trained(trial, run)
        if trained:
            from bench.resume import set_aside_if_damaged  # with torch, which a new run does without

            set_aside_if_damaged(trial, run.trial(name))
        if trained and not (certify and images_left(trial, run)):
            # A command that was killed right after the last shard leaves a state that says otherwise.
            run.trial(name).state.unlink(missing_ok=True)
        else:
            write_json(run.trial(name).state, {"state": "waiting"})
            unfinished[name] = (trial, certify)
    jobs = []
    for name, (trial, certify) in unfinished.items():
        task = trial_task(trial, run, certify=certify, shard_size=shard_size)
        after = [member.trial_id for member in trial.members if member.trial_id in unfinished]
        jobs.append(Job(name, {**task}, task["log"], after))
    # Members first: an ensemble waits for them, and nothing else should have to wait for the ensemble. What needs no
    # spectrum before shows its first epoch sooner.
    return sorted(jobs, key=lambda job: (len(job.after), unfinished[job.name][0].decomposition_ratio is not None))
