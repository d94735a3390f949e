"""Trials on a Ray cluster: a group of workers per trial, scheduled by Ray Tune. The only importer of ray.

It knows nothing of what it runs: that is an object with the methods of `Work`, and what is finished is for it to know.
"""

from typing import TYPE_CHECKING

from cluster.environment import set_environment

set_environment()  # Ray reads some of it when it is imported, so this comes before everything that imports ray

from cluster.connect import connected  # noqa: E402
from cluster.errors import ClusterError  # noqa: E402
from cluster.group import GroupSize  # noqa: E402
from cluster.work import Job, JobState, Work  # noqa: E402

if TYPE_CHECKING:
    from cluster.schedule import missing_room, node_resources, run_jobs

__all__ = [
    "ClusterError",
    "GroupSize",
    "Job",
    "JobState",
    "Work",
    "connected",
    "missing_room",
    "node_resources",
    "run_jobs",
]


def __getattr__(name: str) -> object:
    """Tune takes longer to import than Ray, and workers, which import this package, have nothing to do with it."""
    if name not in ("missing_room", "node_resources", "run_jobs"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cluster import schedule

    return getattr(schedule, name)
