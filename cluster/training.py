"""The training of a job, on all workers of its group at once, and again where workers die."""

from __future__ import annotations

import ray
from ray.exceptions import RayError, RayTaskError

from cluster.group import WorkerGroup
from cluster.retry import TrainingRetries, may_pass, reason
from cluster.work import WorkFailed


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
            death = group.find_death() if isinstance(error, RayTaskError) and not may_pass(error) else error
            if death is None:
                raise WorkFailed(reason(error)) from None
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
        ray.get(done)
        refs.pop(done).rest()
