"""A large run in small: shards that sleep, on as many workers as are asked for, and what scheduling them costs.

python -m tests.cluster.scale --shards 100000 --workers 64 --seconds 0.3
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from cluster import GroupSize, Job, connected, run_jobs


class Sleep:
    """Shards that sleep."""

    def prepare(self, cpus: float, gpus: float) -> None:
        pass

    def epochs_left(self, task: dict[str, Any]) -> int:  # noqa: ARG002
        return 0

    def train(self, task: dict[str, Any]) -> None:
        raise NotImplementedError

    def shards_left(self, task: dict[str, Any]) -> list[list[int]]:
        """Shards of 16 images, as of a run."""
        return [list(range(first, first + 16)) for first in range(0, 16 * task["shards"], 16)]

    def certify(self, task: dict[str, Any], shard: list[int]) -> None:  # noqa: ARG002
        time.sleep(task["seconds"])

    def note(self, task: dict[str, Any], state: dict[str, Any] | None) -> None:
        """At the end, what the trial's own process has cost."""
        if state is None:
            Path(task["cost"]).write_text(json.dumps(cost()))

    def note_devices(self, task: dict[str, Any], left_out: list[str]) -> None:
        raise NotImplementedError

    def metrics(self, task: dict[str, Any]) -> dict[str, float]:
        raise NotImplementedError

    def usage(self) -> dict[str, Any]:
        return {"cores": 0.0}


def cost() -> dict[str, float]:
    """CPU seconds of this process and its peak memory in bytes."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024
    return {"seconds": time.process_time(), "bytes": peak}


def simulate(shards: int, workers: int, seconds: float) -> dict[str, float]:
    """Run so many shards, which sleep for so long each, in one trial.

    Returns:
        `wall` seconds; `ideal`, what they would be if scheduling cost nothing; CPU `driver_ms` per shard and
        `driver_bytes` of the two processes that schedule: the command's and the trial's.
    """
    before = cost()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "cost.json")
        job = Job("job", {"shards": shards, "seconds": seconds, "cost": str(place)}, str(Path(folder, "log.txt")))
        started = time.perf_counter()
        assert run_jobs([job], Sleep(), GroupSize(workers, 1, 0)) == {}
        wall = time.perf_counter() - started
        trial, command = json.loads(place.read_text()), cost()
    busy = trial["seconds"] + command["seconds"] - before["seconds"]
    return {
        "wall": wall,
        "ideal": shards * seconds / workers,
        "driver_ms": 1000 * busy / shards,
        "driver_bytes": max(trial["bytes"], command["bytes"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=0.3)
    options = parser.parse_args()
    with connected(None, cores=options.workers):
        print(json.dumps(simulate(options.shards, options.workers, options.seconds), indent=2))


if __name__ == "__main__":
    from tests.cluster import scale  # workers find `Sleep` by this name, and not in __main__

    scale.main()
