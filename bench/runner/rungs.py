"""What a worker group does for one rung of a search. As in `bench.runner.work`, each is safe to repeat."""

from __future__ import annotations

from bench.runner import work
from bench.runner.task import Task
from bench.settings.trial import Trial
from bench.train.loop import DivergedError
from bench.train.resume import carry_over
from results.store.records import DivergedRecord


def epochs_left(task: Task) -> int:
    """Epochs still to be trained, once the rung below is carried over; 0 also where the training cannot go on, or that
    of a member or teacher could not."""
    trial, run = work.open_task(task)
    folder = run.trial(trial.trial_id)
    if folder.diverged.exists():
        return 0
    for needed in trial.needed:
        place = run.trial(needed.trial_id).diverged
        if place.exists():
            DivergedRecord.read(place).write(folder.diverged)
            return 0
    if task["before"]:
        carry_over(Trial.model_validate_json(task["before"]), trial, run)
    return work.epochs_left(task)


def train_rung(task: Task) -> None:
    """As `bench.runner.work.train_trial`; a training that cannot go on is noted, and not tried again."""
    try:
        work.train_trial(task)
    except DivergedError as error:
        trial, run = work.open_task(task)
        DivergedRecord(reason=str(error)).write(run.trial(trial.trial_id).diverged)


def shards_left(task: Task) -> list[list[int]]:
    """As `bench.runner.work.shards_left`; none where the training could not go on."""
    trial, run = work.open_task(task)
    return [] if run.trial(trial.trial_id).diverged.exists() else work.shards_left(task)
