"""All that touches Ray's private parts: what its documentation does not promise, and another version may lack.

Checked with the versions in `CHECKED`. With another one `warn_if_unchecked` says so once; what that version lacks is a
ClusterError where it is needed, and never left out in silence.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import ray

from cluster.errors import ClusterError

CHECKED = ("2.60",)
_REMEDY = f"this program was checked with Ray {' and '.join(CHECKED)} alone: pip install 'ray=={CHECKED[-1]}.*'"
try:
    from ray import _raylet
    from ray._common.utils import get_default_ray_temp_dir
    from ray._private import node, ray_constants, services, state, utils
    from ray._private import worker as driver
except ImportError as error:
    raise ClusterError(f"Ray {ray.__version__}: {error}; {_REMEDY}") from error

logger = logging.getLogger(__name__)
CHECK_ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"
"""The question of a head, in gRPC, that is answered with nothing, and only to whom the head lets in."""
DASHBOARD_VERSION = "/api/version"
"""Likewise of a dashboard, in HTTP; the answer has `ray_version`."""
PYTHON_OF_A_JOB = r"""
# Ray's own python on this node, whatever `python` means: an ancestor, the raylet, has it in its command.
pid=$$
python=
while [ -z "$python" ] && [ "$pid" -gt 1 ]; do
    python=$(tr '\0' '\n' <"/proc/$pid/cmdline" | sed -n 's/^--python_worker_command=\([^ ]*\) .*/\1/p')
    pid=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$pid/status")
done
"""
"""Shell commands that set `python`; empty where the raylet does not tell."""
OF_THE_AGENT = "--dashboard_agent_command"
PORT_OF_THE_AGENT = "--runtime-env-agent-port"
"""Within the command of the agent for runtime environments, which picks one for 0."""
INSTEAD = {OF_THE_AGENT: "cat", "--num_prestart_python_workers": "0"}
"""Options of a node on this machine. It wants some agent that lasts as long as itself, as `cat` does: it reads the pipe
from the node."""
_RAYS_OWN = re.compile(r"\s*$|:|\[\d{4}-")
"""Lines of a worker's log that are not the worker's."""


def warn_if_unchecked() -> None:
    """Say in the log that the installed Ray is none of the versions that were checked."""
    if ray.__version__.rpartition(".")[0] not in CHECKED:
        logger.warning("Ray %s is installed; %s", ray.__version__, _REMEDY)


def quiet_tune() -> None:
    """Tune says no more in this process: where a node dies, it prints a traceback for each trial that it starts again
    elsewhere."""
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)


def quiet_jobs() -> None:
    """Ray's client for jobs speaks of warnings and errors alone in this process."""
    for name in ("dashboard.modules.job.sdk", "dashboard.modules.dashboard_sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)


def set_authentication(mode: str) -> None:
    """RAY_AUTH_MODE ("token" or "disabled") for this process from now on; Ray read it when it was imported."""
    os.environ["RAY_AUTH_MODE"] = mode
    _part(_raylet, "Config").initialize("")


def _part(owner: Any, name: str) -> Any:
    """A part of one of Ray's modules or classes.

    Raises:
        ClusterError: the installed Ray has no such part.
    """
    if not hasattr(owner, name):
        raise ClusterError(f"Ray {ray.__version__} has no {owner.__name__}.{name}; {_REMEDY}")
    return getattr(owner, name)


@contextmanager
def _replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    """In the block this part of Ray's is another. Raises as `_part`."""
    before = _part(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def head_address(address: str) -> str | None:
    """HOST:PORT of the head that "auto" or an address means, as far as this machine knows."""
    found: str | None = _part(services, "canonicalize_bootstrap_address")(address)
    return found


@contextmanager
def without_messages() -> Iterator[None]:
    """Whoever connects in this block prints nothing: Ray else writes to this process's stdout, whatever it is told,
    when a worker or a node dies."""
    with _replaced(driver, "listen_error_messages", lambda *_: None):
        yield


@contextmanager
def ending_as_before() -> Iterator[None]:
    """Whoever connects in this block ends at SIGTERM and at Ctrl-C as it did before. Ray has ways of its own: one in
    Python, and one in C++ with a dump, which aborts the process three seconds later. An exception while its core is
    made would crash the process, so it is raised at the end of the block."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    came: list[int] = []

    def wait() -> None:
        for number in before:
            signal.signal(number, lambda number, _: came.append(number))

    def core_worker(*arguments: object) -> object:
        wait()
        kept = os.dup(2)
        try:
            with Path(os.devnull).open("w") as nowhere:
                os.dup2(nowhere.fileno(), 2)  # the dump
            return core(*arguments)
        finally:
            signal.alarm(0)
            wait()
            os.dup2(kept, 2)
            os.close(kept)

    core = _part(_raylet, "CoreWorker")
    try:
        with (
            _replaced(utils, "set_sigterm_handler", lambda _: None),
            _replaced(_raylet, "CoreWorker", core_worker),
        ):
            yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        for number in came[:1]:
            signal.raise_signal(number)


@contextmanager
def small_local_cluster(kept: ExitStack) -> Iterator[None]:
    """What is started in this block listens on loopback alone, and has no processes but those that run tasks: no
    dashboard, its agent, autoscaler or collector of logs, which take seconds to start, and of which nobody hears.
    Blanks and quotes in paths reach its workers as they are. Workers start when they are needed: for those in advance,
    of which a trial's cannot be, Ray waits, for ever where they do not start. Whether there are tokens is read again:
    ray may have been imported before this package set that.

    Args:
        kept: ends with the cluster.
    """

    def start(command: list[str], *arguments: Any, **options: Any) -> Any:
        given = dict(part.split("=", 1) for part in command if "=" in part)
        if OF_THE_AGENT in given:  # it is a node, which waits for its agents' ports, and ends where they come late
            for port in ports:  # nobody listens there
                persist_port(given["--session_dir"], given["--node_id"], port, -1)
            free = kept.enter_context(socket.socket())
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the agent does, too
            free.bind(("127.0.0.1", 0))
            persist_port(given["--session_dir"], given["--node_id"], agents_port, free.getsockname()[1])
            told = f"{PORT_OF_THE_AGENT}={free.getsockname()[1]}"
            own, command = command, [part.replace(f"{PORT_OF_THE_AGENT}=0", told) for part in command]
            if own == command:
                raise ClusterError(f"Ray {ray.__version__} has no {PORT_OF_THE_AGENT}; {_REMEDY}")
        return start_ray_process([changed(part) for part in command], *arguments, **options)

    def changed(part: str) -> str:
        name = part.partition("=")[0]
        return f"{name}={INSTEAD[name]}" if name in INSTEAD else part

    set_authentication(os.environ["RAY_AUTH_MODE"])
    start_ray_process, persist_port = _part(services, "start_ray_process"), _part(_raylet, "persist_port")
    agents_port, *ports = [
        _part(_raylet, f"{port}_PORT_NAME")
        for port in ("RUNTIME_ENV_AGENT", "METRICS_AGENT", "METRICS_EXPORT", "DASHBOARD_AGENT_LISTEN")
    ]
    with ExitStack() as patches:
        patches.enter_context(_replaced(services, "start_ray_process", start))
        # Ray else takes this machine's outward address for its own even where it is told 127.0.0.1.
        patches.enter_context(_replaced(ray_constants, "ENABLE_RAY_CLUSTER", False))
        patches.enter_context(_replaced(services, "start_api_server", lambda *_, **__: ("", None)))
        for name in ("start_monitor", "start_log_monitor"):
            patches.enter_context(_replaced(node.Node, name, lambda _: None))
        # Ray writes the workers' command as for Windows, and reads it as a shell does.
        patches.enter_context(_replaced(subprocess, "list2cmdline", shlex.join))
        yield


def temporary_folder() -> str:
    """Where Ray keeps the files and sockets of a cluster that it starts here."""
    return str(get_default_ray_temp_dir())


def starting_processes() -> set[str]:
    """Actors of this process's job that have a place on the cluster, and no process yet."""
    job = _part(driver, "global_worker").current_job_id
    return set(_part(state, "state").actor_table(None, job, "PENDING_CREATION"))


def last_words() -> tuple[Path, str]:
    """The log on this machine to which a worker wrote last, and its last line; where none did, an empty one, and the
    log that would tell where the workers are."""
    logs = Path(_part(driver, "_global_node").get_logs_dir_path())
    raylet = logs / "raylet.err"  # what a process says before Ray has given it a log
    for log in sorted([raylet, *logs.glob("worker-*.err")], key=_written, reverse=True):
        lines = [line for line in log.read_text(errors="replace").splitlines() if not _RAYS_OWN.match(line)]
        if lines:
            return log, lines[-1]
    return raylet, ""


def _written(log: Path) -> float:
    return log.stat().st_mtime if log.exists() else 0.0
