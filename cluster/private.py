"""All that touches Ray's private parts; tried with Ray 2.60."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ray import _raylet
from ray._common.utils import get_default_ray_temp_dir
from ray._private import node, ray_constants, services, state, utils
from ray._private import worker as driver

IN_ADVANCE = "--num_prestart_python_workers="
_RAYS_OWN = re.compile(r"\s*$|:|\[\d{4}-")
"""Lines of a worker's log that are not the worker's."""


def head_address(address: str) -> str | None:
    """HOST:PORT of the head that "auto" or an address means, as far as this machine knows."""
    found: str | None = services.canonicalize_bootstrap_address(address)
    return found


@contextmanager
def without_messages() -> Iterator[None]:
    """Whoever connects in this block prints nothing: Ray else writes to this process's stdout, whatever it is told,
    when a worker or a node dies."""
    with patch.object(driver, "listen_error_messages", lambda *_: None):
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

    core = _raylet.CoreWorker  # type: ignore[attr-defined]
    try:
        with (
            patch.object(utils, "set_sigterm_handler", lambda _: None),
            patch.object(_raylet, "CoreWorker", core_worker),
        ):
            yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        for number in came[:1]:
            signal.raise_signal(number)


@contextmanager
def small_local_cluster() -> Iterator[None]:
    """What is started in this block listens on loopback alone, and has no processes but those that run tasks: no
    dashboard, autoscaler or collector of logs, which take two seconds to start, and of which nobody hears. Blanks and
    quotes in paths reach its workers as they are. Workers start when they are needed: for those in advance, of which a
    trial's cannot be, Ray waits, for ever where they do not start."""

    def start(command: list[str], *arguments: Any, **options: Any) -> Any:
        return start_ray_process(
            [f"{IN_ADVANCE}0" if part.startswith(IN_ADVANCE) else part for part in command], *arguments, **options
        )

    start_ray_process = services.start_ray_process
    with ExitStack() as patches:
        patches.enter_context(patch.object(services, "start_ray_process", start))
        # Ray else takes this machine's outward address for its own even where it is told 127.0.0.1.
        patches.enter_context(patch.object(ray_constants, "ENABLE_RAY_CLUSTER", False))
        patches.enter_context(patch.object(services, "start_api_server", lambda *_, **__: ("", None)))
        for name in ("start_monitor", "start_log_monitor"):
            patches.enter_context(patch.object(node.Node, name, lambda _: None))
        # Ray writes the workers' command as for Windows, and reads it as a shell does.
        patches.enter_context(patch.object(subprocess, "list2cmdline", shlex.join))
        yield


def temporary_folder() -> str:
    """Where Ray keeps the files and sockets of a cluster that it starts here."""
    return str(get_default_ray_temp_dir())


def starting_processes() -> set[str]:
    """Actors of this process's job that have a place on the cluster, and no process yet."""
    return set(state.state.actor_table(None, driver.global_worker.current_job_id, "PENDING_CREATION"))


def last_words() -> tuple[Path, str]:
    """The log on this machine to which a worker wrote last, and its last line; where none did, an empty one, and the
    log that would tell where the workers are."""
    logs = Path(driver._global_node.get_logs_dir_path())
    raylet = logs / "raylet.err"  # what a process says before Ray has given it a log
    for log in sorted([raylet, *logs.glob("worker-*.err")], key=_written, reverse=True):
        lines = [line for line in log.read_text(errors="replace").splitlines() if not _RAYS_OWN.match(line)]
        if lines:
            return log, lines[-1]
    return raylet, ""


def _written(log: Path) -> float:
    return log.stat().st_mtime if log.exists() else 0.0
