"""What a worker group does for a trial.

Each takes a `Task` as plain JSON values, and each is safe to repeat: what is finished on disk is not done again.
"""

from __future__ import annotations

import logging
from functools import partial

from bench.certify.shard import certify_shard, last_model, settle_engine
from bench.machine.advance import advance
from bench.machine.hardware import release_memory
from bench.machine.processes import leaving_group
from bench.runner.stages import epochs_finished, is_trained, repair, trial_shards_left
from bench.runner.task import Task, keep_log
from bench.runner.votes import teacher_votes
from bench.settings.plugins import Plugin
from bench.settings.trial import Trial
from bench.train.loop import train
from results.store.folder import RunFolder, location


def epochs_left(task: Task) -> int:
    """Epochs still to be trained; at least 1 until the training is done, and 0 then."""
    trial, run = open_task(task)
    if repair(trial, run):
        return 0
    if trial.members:
        raise RuntimeError("the ensemble's members are not trained")
    if trial.teacher and not is_trained(trial.teacher, run):
        raise RuntimeError("the teacher is not trained")
    return max(1, trial.train.epochs - epochs_finished(run.trial(trial.trial_id)))


def train_trial(task: Task) -> None:
    """Train the trial's model as one rank of a group; every rank calls this."""
    try:
        with leaving_group():
            train_model(*open_task(task))
    finally:
        with advance.without_steps("writing"):
            keep_log(task, at_once=True)


def train_model(trial: Trial, run: RunFolder) -> None:
    """As `bench.train.loop.train`, with the votes of a teacher. What it holds of the device's memory goes back at the
    end: whoever shares the device may need it while this process certifies."""
    last_model.forget()
    _write_to_log()
    train(trial, run, partial(teacher_votes, trial, run) if trial.teacher else None)
    release_memory()


def shards_left(task: Task) -> list[list[int]]:
    """The shards still to be certified, as lists of test indices; how is decided here, by one worker for all."""
    if not task["certify"]:
        return []
    trial, run = open_task(task)
    left = trial_shards_left(trial, run, task["shard_size"])
    if left:
        _write_to_log()
        settle_engine(trial, run)
    return left


def certify(task: Task, shard: list[int]) -> None:
    """Certify one shard and write its file."""
    _write_to_log()
    try:
        certify_shard(*open_task(task), shard)
    finally:
        with advance.without_steps("writing"):
            keep_log(task)


def _write_to_log() -> None:
    """What training and certification say goes into the trial's log."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("bench").setLevel(logging.INFO)


def open_task(task: Task) -> tuple[Trial, RunFolder]:
    """The trial of a task and its run, once the plugins are loaded."""
    for plugin in task["plugins"]:
        Plugin(**plugin).load()  # type: ignore[arg-type]  # JSON values
    return Trial.model_validate_json(task["settings"]), RunFolder(location(task["run"]))
