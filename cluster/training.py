"""The training of a job, on all workers of its group at once, and again where workers die."""

from __future__ import annotations

import time

from ray import ObjectRef
from ray.exceptions import RayError, RayTaskError

from cluster.devices import is_of_a_device
from cluster.group import WorkerGroup
from cluster.retry import TrainingRetries, is_of_a_peer, may_pass, reason
from cluster.work import WorkFailed
from cluster.worker import WorkerHandle

ERRORS_COME_WITHIN_SECONDS = 5.0  # of all ranks, once one has failed


def train(group: WorkerGroup) -> None:
    """Train the group's job to its end; each attempt continues from the last finished epoch.

    Raises:
        DeviceLeftOutError: an accelerator of the group failed too often.
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
                if not (may_pass(error) or is_of_a_device(error)):
                    raise WorkFailed(reason(error)) from error
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
            cause, failed = _first_cause(group, error, worker, refs)
            group.devices.note(failed, cause)
            raise cause from None
        except RayError as error:
            if len(group.workers) == 1:  # of several that hang together nobody knows which one began
                group.devices.note(worker, error)
            raise
        worker.rest()


def _first_cause(
    group: WorkerGroup, error: RayTaskError, worker: WorkerHandle, others: dict[ObjectRef, WorkerHandle]
) -> tuple[RayTaskError, WorkerHandle]:
    """What went wrong first, and where: an error that only tells of another rank's often comes before that.

    Raises:
        RayError: the other rank died.
    """
    deadline = time.monotonic() + ERRORS_COME_WITHIN_SECONDS
    while is_of_a_peer(error) and others and time.monotonic() < deadline:
        done = group.done_or_pulse(list(others))
        if done is None:
            continue
        other = others.pop(done)
        try:
            other.result(done)
        except RayTaskError as cause:
            error, worker = cause, other
    return error, worker
