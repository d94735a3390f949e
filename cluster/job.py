"""One job, from its first epoch to its last shard."""

from __future__ import annotations

from cluster.certification import certify
from cluster.group import WorkerGroup
from cluster.running import RunningJob
from cluster.training import train


def run_job(running: RunningJob, group: WorkerGroup) -> None:
    """Train, then certify what is left. After success the group's workers stay for the next job, with all they have
    imported; after a failure they are stopped.

    Raises:
        WorkFailed: the work raised, or workers died in three attempts at the same thing.
    """
    running.note(group.workers, full_is_fatal=True)
    group.take_up(running)
    try:
        train(group)
        certify(group)
        running.note_end()
    except BaseException:
        group.stop_all()
        raise
