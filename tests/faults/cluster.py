"""A Ray cluster of three nodes on this machine, started by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil

from tests.faults.processes import PATIENCE, ROOT, Marked, is_gone, kill, wait_for
from tests.ranks import free_ports


class ThreeNodes:
    """A head and two more nodes, each with a loopback address and a CPU of its own; the token is in its own home."""

    def __init__(self, marked: Marked, folder: Path) -> None:
        self.marked, self.folder = marked, folder
        token = folder / "home" / ".ray" / "auth_token"
        token.parent.mkdir(parents=True)
        token.write_text(os.urandom(32).hex())
        token.chmod(0o600)
        self.token = str(token)
        self.address = f"127.0.0.2:{free_ports(1)[0]}"
        self.raylets: dict[int, psutil.Process] = {}
        for number in (1, 2, 3):
            self.start(number)

    def start(self, number: int) -> None:
        """Node 1 is the head; a node that was killed may be started again."""
        here = ["--head", "--port", self.address.rpartition(":")[2], "--include-dashboard", "false"]
        there = ["--address", self.address]
        before = {process.pid for process in self._raylets()}
        result = subprocess.run(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", *(here if number == 1 else there)),
                *(
                    "--node-ip-address",
                    f"127.0.0.{number + 1}",
                    "--num-cpus",
                    "1",
                    "--object-store-memory",
                    "100000000",
                ),
                *("--disable-usage-stats", *(("--temp-dir", str(self.marked.temporary / "c")) if number == 1 else ())),
            ],
            cwd=ROOT,
            env=self.marked.environment(
                HOME=str(self.folder / "home"),
                # Nodes are known to be dead after three seconds, not fifteen.
                RAY_health_check_period_ms="1000",
                RAY_health_check_failure_threshold="3",
            ),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert result.returncode == 0, result.stdout + result.stderr
        [self.raylets[number]] = [process for process in self._raylets() if process.pid not in before]

    def _raylets(self) -> list[psutil.Process]:
        return [process for process in self.marked.processes() if process.name() == "raylet"]

    def with_workers(self) -> list[int]:
        """Nodes, other than the head, on which workers of trials are."""
        parents = {process.ppid() for process in self.marked.workers()}
        return [number for number in (2, 3) if self.raylets[number].pid in parents]

    def kill(self, number: int) -> str:
        """kill -9 the raylet of a node; all of the node's processes follow by themselves."""
        raylet = self.raylets[number]
        below = raylet.children(recursive=True)
        workers = [process.pid for process in self.marked.workers() if process in below]
        kill(raylet)
        wait_for(lambda: all(is_gone(process) for process in below), f"the end of node {number}'s processes")
        return f"node {number} (raylet {raylet.pid}, workers {workers})"
