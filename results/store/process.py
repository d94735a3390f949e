"""Which process of which machine this is, so that files can tell whether who wrote them still lives. Linux's /proc."""

from __future__ import annotations

import hashlib
import os
import socket
import uuid
from functools import cache
from pathlib import Path


@cache
def machine() -> str:
    """Twelve hexadecimal digits that two processes share if and only if each can see the other's process id."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        seen = f"{socket.gethostname()} {boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux: every process for itself
        seen = uuid.uuid4().hex
    return hashlib.sha256(seen.encode()).hexdigest()[:12]


def is_hidden(pid: int) -> bool:
    """Whether there is such a process on this machine, of another user, of which /proc may then tell nothing."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def started(pid: int) -> int | None:
    """When a process of this machine began, in clock ticks since it booted; None: there is no such process, or
    it `is_hidden`."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if fields[0] in ("Z", "X") else int(fields[19])
