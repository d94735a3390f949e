"""A grid, run: trials become jobs, jobs run on a cluster, shards become Parquet, Parquet becomes a report."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

from bench.grid import Grid
from bench.settings import Trial
from bench.trial import is_certified, is_trained
from bench.work import Task
from cluster import GangSize, Job, Work, run_jobs
from results.folder import RunFolder, write_json, write_text

WORK = Work(
    needs_training="bench.work:needs_training",
    train="bench.work:train_trial",
    shards_left="bench.work:shards_left",
    certify="bench.work:certify",
)
PACKAGES = ("torch", "torchvision", "accelerate", "ray", "numpy", "scipy", "statsmodels", "pandas", "pyarrow")


class RunError(ValueError):
    """A run that cannot start; the message is one sentence for the user."""


def default_gang(workers: int | None, cpus: float | None, gpus: float | None) -> GangSize:
    """The gang of every trial: by default one worker per GPU of this machine, or two that share its cores."""
    accelerators = torch.cuda.device_count()
    cores = os.cpu_count() or 1
    workers = workers or accelerators or min(2, cores)
    gpus = gpus if gpus is not None else float(accelerators > 0)
    return GangSize(workers, cpus if cpus is not None else max(1, cores // workers), gpus)


def prepare(grid: Grid, dataset: str, run: RunFolder, *, fresh: bool) -> list[Trial]:
    """Write run.json and every trial.json. What an earlier command left in the folder stays part of the run, except
    for trials that the grid replaces (same method, σ and seed, other settings).

    Returns:
        The trials of the grid.

    Raises:
        RunError: the folder holds something else.
    """
    if fresh:
        _clear(run)
    trials = grid.trials(dataset)
    cells = {(trial.name, trial.sigma, trial.seed) for trial in trials}
    kept = [trial for trial in _earlier_trials(run) if (trial.name, trial.sigma, trial.seed) not in cells]
    everything = [*kept, *trials]
    ids = [trial.trial_id for trial in everything]
    members = {trial.trial_id: [member.trial_id for member in trial.members] for trial in everything if trial.members}
    for trial in trials:
        for part in [trial, *trial.members]:
            write_text(run.trial(part.trial_id).settings, part.model_dump_json(indent=2) + "\n")
    write_json(
        run.description,
        {
            "trials": ids,
            "members": members,
            "grid": grid.model_dump(),
            "command": sys.argv,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "git_commit": _git_commit(),
            "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
        },
    )
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
    jobs = []
    unfinished = {
        name: (trial, certify)
        for name, (trial, certify) in wanted.items()
        if not (is_certified(trial, run) if certify else is_trained(trial, run))
    }
    for name, (trial, certify) in unfinished.items():
        folder = run.trial(name)
        write_json(folder.state, {"state": "waiting"})
        task = Task(settings=trial.model_dump_json(), run=str(run.path), certify=certify, shard_size=shard_size)
        after = [member.trial_id for member in trial.members if member.trial_id in unfinished]
        jobs.append(Job(name, {**task}, str(folder.log), str(folder.state), after))
    # Members first: an ensemble waits for them, and nothing else should have to wait for the ensemble.
    return sorted(jobs, key=lambda job: len(job.after))


def _earlier_trials(run: RunFolder) -> list[Trial]:
    if not run.description.exists():
        if run.path.is_dir() and any(run.path.iterdir()):
            raise RunError(f"{run.path} is not empty and holds no run.json: give --out another folder")
        return []
    return [Trial.model_validate_json(run.trial(name).settings.read_text()) for name in run.trial_ids()]


def _clear(run: RunFolder) -> None:
    if not run.path.exists():
        return
    if any(run.path.iterdir()) and not run.description.exists():
        raise RunError(f"{run.path} holds no run.json: --fresh deletes runs only")
    shutil.rmtree(run.path)


def _git_commit() -> str | None:
    """Commit of the program's own checkout, with + where it has changes; None for an installed package."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip()
