"""The harness's own processes: found by a mark in their environment, so that nobody else's are ever touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
PATIENCE = 240.0
"""Seconds after which what is waited for will not happen, however loaded the machine is."""


class NotHappened(AssertionError):  # noqa: N818  # reads as what happened
    """What was waited for did not come about."""


def wait_for(condition: Callable[[], T], what: str, limit: float = PATIENCE) -> T:
    """The first true value of the condition, asked twenty times a second.

    Raises:
        NotHappened: none within the limit, in seconds.
    """
    deadline = time.monotonic() + limit
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise NotHappened(f"{what} did not happen within {limit:.0f} s")
        time.sleep(0.05)
    return value


def is_gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def kill(process: psutil.Process) -> None:
    """kill -9 one process that lives, and see it gone."""
    if is_gone(process):
        raise NotHappened(f"process {process.pid} was gone before it was killed")
    process.kill()
    wait_for(lambda: is_gone(process), f"the end of process {process.pid}")


def stop(process: psutil.Process) -> None:
    """SIGSTOP one process that lives, and see it stopped."""
    process.send_signal(signal.SIGSTOP)
    wait_for(lambda: _status(process) == psutil.STATUS_STOPPED, f"the stop of process {process.pid}")


def _status(process: psutil.Process) -> str:
    try:
        return str(process.status())
    except psutil.NoSuchProcess as error:
        raise NotHappened(f"process {process.pid} ended before it was stopped") from error


class Marked:
    """All processes that were started with this object's environment, and their descendants."""

    def __init__(self, temporary: Path) -> None:
        """temporary: a folder with a short name, for Ray's sessions and all else that is gone afterwards."""
        self.mark = f"FAULTS_MARK={uuid.uuid4().hex}".encode()
        self.temporary = temporary

    def environment(self, **more: str) -> dict[str, str]:
        name, _, value = self.mark.decode().partition("=")
        own = {
            name: value,
            "BENCH_STALL_SECONDS": "15",
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_TMPDIR": str(self.temporary),
            "TMPDIR": str(self.temporary),
        }
        return {**os.environ, **own, **more}

    def processes(self) -> list[psutil.Process]:
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                if self.mark in (entry / "environ").read_bytes().split(b"\0"):
                    process = psutil.Process(int(entry.name))
                    if not is_gone(process):
                        found.append(process)
            except (OSError, psutil.NoSuchProcess):  # gone meanwhile, or somebody else's
                continue
        return found

    def workers(self) -> list[psutil.Process]:
        """Workers of trials, by the names that Ray gives their processes."""
        return [process for process in self.processes() if _title(process).startswith("ray::_Worker")]

    def end_all(self) -> None:
        """kill -9 whatever is left."""

        def ended() -> bool:
            left = self.processes()
            for process in left:
                process.kill()
            return not left

        wait_for(ended, "the end of all processes of the harness")


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


class Command:
    """`bench` with some arguments, in the background; its output goes to files."""

    def __init__(self, marked: Marked, log: Path, *arguments: str, **environment: str) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.stdout, self.stderr = log.with_suffix(".out"), log.with_suffix(".err")
        self.started = time.time()
        with self.stdout.open("wb") as stdout, self.stderr.open("wb") as stderr:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "bench", *arguments],
                cwd=ROOT,
                env=marked.environment(**environment),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )
        self.process = psutil.Process(self.popen.pid)

    def alive(self) -> bool:
        return self.popen.poll() is None

    def wait(self) -> int:
        try:
            return self.popen.wait(timeout=2 * PATIENCE)
        except subprocess.TimeoutExpired:
            raise NotHappened(f"the command did not end within {2 * PATIENCE:.0f} s: {self.complaint()}") from None

    def complaint(self) -> str:
        return self.stderr.read_text(errors="replace").strip()
