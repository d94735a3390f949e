"""What Ray must find in the environment, in the one place of this package that changes something by being imported."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

WANTED = {
    "RAY_AUTH_MODE": "token",  # a cluster runs whatever it is sent; read when ray is imported
    "RAY_USAGE_STATS_ENABLED": "0",  # read when a cluster starts
    "RAY_agent_register_timeout_ms": "300000",  # likewise: a node that is busy takes longer than the usual 30 s
    "RAY_AIR_NEW_OUTPUT": "0",  # this one and those below: read when Tune runs
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}


def set_environment() -> None:
    """Set what Ray and Tune read, where the user has not; `cluster/__init__.py` calls this before anything imports ray.

    All of it is set there, although only the first has to be, since Ray's own processes inherit it.
    """
    for name, value in WANTED.items():
        os.environ.setdefault(name, value)
    try:
        Path.home()
    except RuntimeError:  # a user whom the machine does not know, as in some containers: Ray wants a home, for as long
        os.environ["HOME"] = tempfile.mkdtemp(prefix="bench-home-")
        atexit.register(shutil.rmtree, os.environ["HOME"], ignore_errors=True)
