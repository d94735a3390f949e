"""A grid, run: trials become jobs, jobs run on a cluster."""

from __future__ import annotations

import shutil
from dataclasses import asdict

import torch

from bench.grid import Grid
from bench.hardware import usable_cores
from bench.settings import Trial
from bench.thumbnails import keep_thumbnails
from bench.trial import is_certified, is_trained
from bench.work import Task
from cluster import GangSize, Job, Work, run_jobs
from results.description import RunError, add_trials
from results.folder import RunFolder, write_json

WORK = Work(
    needs_training="bench.work:needs_training",
    train="bench.work:train_trial",
    shards_left="bench.work:shards_left",
    certify="bench.work:certify",
)


def default_gang(workers: int | None, cpus: float | None, gpus: float | None) -> GangSize:
    """The gang of every trial: by default one worker per GPU of this machine, or two that share its cores.

    A worker's CPUs are by default its share of the cores, such that workers of other gangs find theirs too.

    Raises:
        RunError: several workers on parts of GPUs, between which there is no DDP.
    """
    accelerators, cores = torch.cuda.device_count(), usable_cores()
    workers = workers or accelerators or min(2, cores)
    if gpus is None:
        gpus = float(accelerators > 0)
    if workers > 1 and gpus != int(gpus):
        raise RunError(f"--gpus-per-worker {gpus:g}: must be a whole number where a gang has several workers")
    sharers = max(workers, int(accelerators / gpus)) if gpus else workers
    return GangSize(workers, cpus if cpus is not None else max(1, cores // sharers), gpus)


def prepare(grid: Grid, dataset: str, run: RunFolder, size: GangSize, *, fresh: bool) -> list[Trial]:
    """The trials of a grid, written into the folder of the run.

    Raises:
        RunError: the folder holds something else.
    """
    if fresh and run.path.exists():
        if any(run.path.iterdir()) and not run.description.exists():
            raise RunError(f"{run.path} holds no run.json: --fresh deletes runs only")
        shutil.rmtree(run.path)
    trials = grid.trials(dataset)
    add_trials(run, trials, grid=grid.model_dump(), gang=asdict(size))
    keep_thumbnails(run, trials)
    return trials


def run_grid(trials: list[Trial], run: RunFolder, size: GangSize, *, shard_size: int, address: str | None) -> list[str]:
    """Bring every trial to its end; what is finished is not done again. Returns the ids of those that failed."""
    jobs = plan_jobs(trials, run, shard_size)
    return run_jobs(jobs, WORK, size, address=address) if jobs else []


def plan_jobs(trials: list[Trial], run: RunFolder, shard_size: int) -> list[Job]:
    """A job for every unfinished trial, and one for every untrained member that no trial of the grid trains."""
    wanted = {trial.trial_id: (trial, True) for trial in trials}
    for trial in trials:
        for member in trial.members:
            wanted.setdefault(member.trial_id, (member, False))
    unfinished = {}
    for name, (trial, certify) in wanted.items():
        if is_certified(trial, run) if certify else is_trained(trial, run):
            # A command that was killed right after the last shard leaves a state that says otherwise.
            run.trial(name).state.unlink(missing_ok=True)
        else:
            write_json(run.trial(name).state, {"state": "waiting"})
            unfinished[name] = (trial, certify)
    jobs = []
    for name, (trial, certify) in unfinished.items():
        task = Task(settings=trial.model_dump_json(), run=str(run.path), certify=certify, shard_size=shard_size)
        after = [member.trial_id for member in trial.members if member.trial_id in unfinished]
        folder = run.trial(name)
        jobs.append(Job(name, {**task}, str(folder.log), str(folder.state), after))
    # Members first: an ensemble waits for them, and nothing else should have to wait for the ensemble.
    return sorted(jobs, key=lambda job: len(job.after))
