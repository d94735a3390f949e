"""Trials on a Ray cluster: a gang of workers per trial, scheduled by Ray Tune. The only importer of ray.

It knows nothing of what it runs: the functions come by name, and what is finished is theirs to know.
"""

from cluster.gang import GangSize, Work
from cluster.schedule import ClusterError, Job, run_jobs

__all__ = ["ClusterError", "GangSize", "Job", "Work", "run_jobs"]
