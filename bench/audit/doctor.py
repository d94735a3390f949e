"""`bench doctor`: what is right, wrong and slow on this machine, and on the nodes of a cluster, in two minutes.

This process asks and waits. What computes, or may hang, runs in a process of its own, `python -m bench.audit.doctor
CHECK ARGUMENTS`, which is killed with all that it started when its time is over.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from bench.audit import checks_machine
from bench.audit.finding import Finding, Verdict, guarded

SECONDS = 120.0
"""Of all checks of this machine together."""
LIMITS = {"devices": 40.0, "compilation": 75.0, "noise": 30.0, "ranks": 45.0, "data": 45.0, "rates": 60.0}
"""Seconds of each that runs in a process of its own; most of them are for torch's import on a slow machine."""
ERRORS_TAKE = 5.0
"""Seconds of those of ranks, for the error of one that waits in vain."""
COMPUTING = {
    "devices": ("checks_torch", "check_devices"),
    "compilation": ("checks_torch", "check_compilation"),
    "noise": ("checks_torch", "check_noise"),
    "ranks": ("checks_ranks", "join_ranks"),
    "data": ("checks_torch", "check_data"),
    "rates": ("checks_torch", "check_rates"),
}
"""The module and the function of each; torch comes with them."""
NODES_WITHIN = 60.0
"""Seconds for the answers of a cluster's nodes; to join it takes as long at most."""
LIKE_HERE = "install this program and what it needs there as here: counts depend on versions"
HERE: dict[str, Callable[[], Finding | list[Finding]]] = {
    "versions": checks_machine.check_versions,
    "processors": checks_machine.check_processors,
    "memory": checks_machine.check_memory,
    "shared memory": checks_machine.check_shared_memory,
    "disks": checks_machine.check_disks,
    "open files": checks_machine.check_open_files,
    "compiler": checks_machine.check_compiler,
}
"""What needs no other process."""


def examine_machine(data: str | None) -> list[Finding]:
    """All checks of this machine.

    Args:
        data: as `bench run --data` takes it; CIFAR-10, if it is there, where not given.
    """
    until = time.monotonic() + SECONDS
    found = [finding for name, check in HERE.items() for finding in guarded(name, check)]
    for name, limit in LIMITS.items():
        left = min(limit, until - time.monotonic())
        if left < 1:
            found.append(Finding(name, "skipped", f"not tried: {SECONDS:.0f} seconds were over"))
        else:
            ask = partial(two_ranks, left) if name == "ranks" else partial(apart, name, left)
            found += guarded(name, partial(ask, data=data) if name == "data" else ask)
    return found


def examine_cluster(address: str, *, allow_unauthenticated: bool) -> list[Finding]:
    """Whether the cluster lets us in as `bench run --address` wants it, and the cheap checks of each of its nodes."""
    arguments = {"address": address, "allow_unauthenticated": allow_unauthenticated}
    return guarded("cluster", partial(apart, "cluster", 2 * NODES_WITHIN, **arguments))


def examine_node() -> list[Finding]:
    """What a node of a cluster is asked, by a task there."""
    found = [finding for name, check in HERE.items() for finding in guarded(name, check)]
    return found + apart("devices", LIMITS["devices"])


def _ask_cluster(address: str, allow_unauthenticated: bool) -> list[Finding]:
    from cluster import ClusterError, connected
    from cluster.nodes import ask_nodes

    try:
        with connected(address, allow_unauthenticated=allow_unauthenticated):
            answers = ask_nodes(examine_node, NODES_WITHIN)
    except ClusterError as error:
        return [Finding("cluster", "wrong", str(error))]
    found = [
        Finding("cluster", "right", f"{address} lets us in, and has {len(answers)} node{'s' * (len(answers) > 1)}")
    ]
    [here] = guarded("versions", checks_machine.check_versions)
    for host, answer, why in answers:
        found += _of_node(host, answer, here) if answer else [Finding("node", "wrong", why, LIKE_HERE, host)]
    return found


def _of_node(host: str, answer: list[Finding], here: Finding) -> list[Finding]:
    """A node that is right has one line; of another there is what is not."""
    found = [replace(finding, host=host) for finding in answer if finding.verdict in ("wrong", "slow")]
    there = next(finding for finding in answer if finding.name == here.name)
    if there.verdict == "right" and there.sentence != here.sentence:
        found.append(Finding("versions", "wrong", f"{there.sentence}; here {here.sentence}", LIKE_HERE, host))
    device = answer[-1]
    return found or [Finding("node", "right", f"{len(answer)} checks; {device.name}: {device.sentence}", host=host)]


# --- in a process of its own ----------------------------------------------------------------------------------------


def apart(check: str, seconds: float, **arguments: object) -> list[Finding]:
    """What a check finds in a process of its own; one that dies, or does not end in time, has found something wrong, or
    slow."""
    with _Apart(check, arguments) as process:
        return process.findings(seconds)


def two_ranks(seconds: float) -> list[Finding]:
    """What two ranks on this machine find, or the first error of the two: the other then waits in vain."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    until = time.monotonic() + seconds
    arguments = {"address": address, "until": time.time() + seconds - ERRORS_TAKE}
    with (
        _Apart("ranks", {"rank": 0, **arguments}) as first,
        _Apart("ranks", {"rank": 1, **arguments}) as other,
    ):
        while not (first.has_ended() or other.has_ended()):
            if time.monotonic() > until:
                return [Finding("ranks", "wrong", f"two ranks have not joined within {seconds:.0f} seconds")]
            time.sleep(0.05)
        ended, waits = (first, other) if first.has_ended() else (other, first)
        found = ended.findings(1)
        return found if found[0].verdict == "wrong" else waits.findings(max(1, until - time.monotonic()))


@dataclass
class _Apart:
    """A process with a check, and all that it starts."""

    check: str
    arguments: dict[str, Any]
    _files: list[IO[bytes]] = field(default_factory=list)

    def __enter__(self) -> _Apart:
        root = str(Path(__file__).parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._files = [tempfile.TemporaryFile(), tempfile.TemporaryFile()]
        self._process = subprocess.Popen(  # noqa: S603  # this program itself
            [sys.executable, "-m", "bench.audit.doctor", self.check, json.dumps(self.arguments)],
            stdin=subprocess.DEVNULL,
            stdout=self._files[0],
            stderr=self._files[1],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):  # none of them is left
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for file in self._files:
            file.close()

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def findings(self, seconds: float) -> list[Finding]:
        """What it has printed when it ends within so many seconds."""
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            said = f"; it said: {self._last_line(1)}" if self._last_line(1) else ""
            # of data that is right but large, or on a slow disk, there may be none
            verdict: Verdict = "slow" if self.check == "data" else "wrong"
            return [Finding(self.check, verdict, f"no answer within {seconds:.0f} seconds{said}")]
        if status:
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            return [Finding(self.check, "wrong", f"its process {how}: {self._last_line(1) or 'without a word'}")]
        return [Finding(**values) for values in json.loads(self._last_line(0))]

    def _last_line(self, number: int) -> str:
        file = self._files[number]
        file.seek(0)
        lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else ""


def main() -> None:
    """A check, in the process that was started for it; the last line that it prints is what it found."""
    check, arguments = sys.argv[1], json.loads(sys.argv[2])
    found = guarded(check, lambda: _chosen(check)(**arguments))
    print(json.dumps([asdict(finding) for finding in found]), flush=True)
    sys.stdout.flush()
    os._exit(0)  # a library that hangs while it ends has done its work


def _on_a_device(
    name: str, check: Callable[..., Finding | list[Finding]], **arguments: object
) -> Finding | list[Finding]:
    """What the check finds; where there is nothing to compute on, another check has said why."""
    from bench.machine.devices import DeviceError

    try:
        return check(**arguments)
    except DeviceError:
        return Finding(name, "skipped", "there is nothing to compute on: see driver")


def _chosen(check: str) -> Callable[..., Finding | list[Finding]]:
    if check == "cluster":
        return _ask_cluster
    module, name = COMPUTING[check]
    return partial(_on_a_device, check, getattr(import_module(f"bench.audit.{module}"), name))


if __name__ == "__main__":
    main()
