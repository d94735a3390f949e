"""Trials on a Ray cluster: a gang of workers per trial, scheduled by Ray Tune. The only importer of ray.

It knows nothing of what it runs: the functions come by name, and what is finished is theirs to know.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

# Ray reads these when it is imported, so they come before everything else.
os.environ.setdefault("RAY_AUTH_MODE", "token")  # a cluster runs whatever it is sent
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
try:
    Path.home()
except RuntimeError:  # a user whom the machine does not know, as in some containers: Ray wants a home, for as long
    os.environ["HOME"] = tempfile.mkdtemp(prefix="bench-home-")
    atexit.register(shutil.rmtree, os.environ["HOME"], ignore_errors=True)

from cluster.authentication import ClusterError
from cluster.connect import connected
from cluster.gang import GangSize, Work
from cluster.schedule import Job, node_resources, run_jobs

__all__ = ["ClusterError", "GangSize", "Job", "Work", "connected", "node_resources", "run_jobs"]
