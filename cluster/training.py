"""The training of a job, on all workers of its group at once, and again where workers die."""

from __future__ import annotations

import time

import ray
from ray import ObjectRef
from ray.exceptions import RayError, RayTaskError

from cluster.group import WorkerGroup
from cluster.retry import TrainingRetries, is_of_a_peer, may_pass, reason
from cluster.work import WorkFailed

ERRORS_COME_WITHIN_SECONDS = 5.0  # of all ranks, once one has failed


def train(group: WorkerGroup) -> None:
    """Train the group's job to its end; each attempt continues from the last finished epoch.

    Raises:
        WorkFailed: the work raised, or workers died in three attempts without an epoch in between.
    """
    retries = TrainingRetries()
    while True:
        try:
            group.start_all()
            left = group.call(group.job.work.epochs_left)
            if not left:
                return
            retries.begin(left)
            _train_together(group)
            return
        except RayError as error:
            # Where a worker dies, the others fail too, and often first: their connection to it is gone.
            death = group.find_death() if isinstance(error, RayTaskError) else error
            if death is None:
                if not may_pass(error):
                    raise WorkFailed(reason(error)) from None
                death = error
            group.stop_all()
            retries.failed(death)


def _train_together(group: WorkerGroup) -> None:
    actors = [worker.actor for worker in group.workers]
    if len(actors) > 1:
        address = group.get(actors[0].free_address.remote())
        for joined in [actor.join.remote(rank, len(actors), address) for rank, actor in enumerate(actors)]:
            group.get(joined)
    refs = {worker.train(group.job.work, group.job.task): worker for worker in group.workers}
    while refs:  # an error is raised as soon as one rank fails: the others would wait for it for ever
        done = group.next(list(refs))
        worker = refs.pop(done)
        try:
            worker.result(done)
        except RayTaskError as error:
            raise _first_cause(group, error, list(refs)) from None
        worker.rest()


def _first_cause(group: WorkerGroup, error: RayTaskError, others: list[ObjectRef]) -> RayError:
    """What went wrong first: an error that only tells of another rank's comes often before that."""
    deadline = time.monotonic() + ERRORS_COME_WITHIN_SECONDS
    while is_of_a_peer(error) and others and time.monotonic() < deadline:
        done = group.done_or_pulse(others)
        if done is None:
            continue
        others.remove(done)
        try:
            ray.get(done)
        except RayTaskError as other:
            error = other
        except RayError as death:
            return death
    return error
