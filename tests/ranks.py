"""A group of processes that train together on this machine, and ports that nobody listens on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

FORK = """
import ctypes, os, signal, sys
from pathlib import Path

before, program, said, *sys.argv[1:] = sys.argv[1:]
names = {"__name__": "__main__"}
exec(before, names)
from tests.ranks import free_ports
[os.environ["MASTER_PORT"]] = free_ports(1)  # now, lest it is another's when the group forms
ranks = []
for rank in range(2):
    if not (pid := os.fork()):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # at the end of the process that forks
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
        os.dup2(os.open(Path(said, str(rank)), os.O_WRONLY | os.O_CREAT), 1)
        exec(program, names)
        sys.exit()
    ranks.append(pid)
print(*[os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks])
"""


def free_ports(count: int) -> list[str]:
    """Different ports that are free on all addresses of this machine."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("", 0))
        return [str(probe.getsockname()[1]) for probe in probes]


def said_by_two_ranks(before: str, program: str, *arguments: str) -> list[str]:
    """What each of two processes printed that ran the program, as ranks of one group; both ended well. What comes
    before is done once for both: imports that take seconds."""
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as said:
        ended = subprocess.run(
            [sys.executable, "-c", FORK, before, program, said, *arguments],
            env={**os.environ, **group},
            cwd=Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        assert ended.stdout == "0 0\n"
        return [Path(said, str(rank)).read_text() for rank in range(2)]
