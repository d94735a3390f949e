"""Work for a group that leaves traces in a folder: task = {"folder", "shards", and what should go wrong}.

Every process of a cluster imports this anew, so it imports nothing that takes long and that workers do without.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from cluster import Job


def job(folder: Path, name: str = "job", *, after: list[str] | None = None, **task: Any) -> Job:
    place = folder / name
    place.mkdir()
    return Job(name, {"folder": str(place), "shards": 4, **task}, str(place / "log.txt"), after or [])


def notes(folder: Path, name: str = "job") -> list[str]:
    return (folder / name / "notes.txt").read_text().splitlines()


def shards(folder: Path, name: str = "job") -> list[int]:
    return sorted(int(note.split()[1]) for note in notes(folder, name) if note.startswith("shard"))


class ToyWork:
    def prepare(self, cpus: float, gpus: float) -> None:
        pass

    def epochs_left(self, task: dict[str, Any]) -> int:
        _note(task, "asked")
        return 0 if task.get("trained") else 2

    def note(self, task: dict[str, Any], state: dict[str, Any] | None) -> None:
        place = Path(task["folder"], "state.json")
        if state is None:
            place.unlink(missing_ok=True)
        else:
            place.with_suffix(".new").write_text(json.dumps(state))
            place.with_suffix(".new").replace(place)

    def note_devices(self, task: dict[str, Any], left_out: list[str]) -> None:
        Path(task["folder"]).with_name("devices.json").write_text(json.dumps(left_out))

    def metrics(self, task: dict[str, Any]) -> dict[str, float]:
        return {"shards": len(task)}

    def usage(self) -> dict[str, Any]:
        return {"cpu": 0.5}

    def train(self, task: dict[str, Any]) -> None:
        _note(task, f"train rank {os.environ.get('RANK', '0')} of {os.environ.get('WORLD_SIZE', '1')}")
        time.sleep(task.get("train_seconds", 0))
        if task.get("train_raises"):
            raise ValueError("the loss became nan")
        if task.get("a_peer_complains_first") and os.environ["RANK"] == "0":
            raise RuntimeError("[pair.cc:534] Connection closed by peer [127.0.0.1]:4321")
        if task.get("a_peer_complains_first"):
            time.sleep(1)
            raise ValueError("the loss became nan")
        if task.get("connection_breaks") and not _once(task, f"broken for {os.environ['RANK']}"):
            raise RuntimeError("NCCL error: unhandled system error")
        if task.get("one_dies_and_the_others_fail") and not Path(task["folder"], "died").exists():
            if os.environ["RANK"] == "0":
                time.sleep(0.5)
                raise RuntimeError("connection closed by peer")
            Path(task["folder"], "died").touch()
            os._exit(1)
        if task.get("train_dies") and not _once(task, "died"):
            os._exit(1)

    def shards_left(self, task: dict[str, Any]) -> list[list[int]]:
        return [[shard] for shard in range(task["shards"])]

    def certify(self, task: dict[str, Any], shard: list[int]) -> None:
        if shard[0] == task.get("poison"):
            _note(task, f"poisoned {shard[0]}")
            os._exit(1)
        if shard[0] == task.get("certify_dies") and not _once(task, "died"):
            os._exit(1)
        time.sleep(task.get("seconds", 0.05))
        _note(task, f"shard {shard[0]} by {os.getpid()}")


class SteppingWork(ToyWork):
    """Counts its steps, one a second, while it answers. The first time, rank 1 waits for rank 0 and then both hang; a
    worker hangs in shard 0, and takes long for shards 1 and 2."""

    steps = 0
    apart = ""

    def usage(self) -> dict[str, Any]:
        return {"cpu": 0.5, "steps": SteppingWork.steps, "apart": SteppingWork.apart}

    def train(self, task: dict[str, Any]) -> None:
        rank, came = os.environ["RANK"], Path(task["folder"], "came")
        _note(task, f"train rank {rank}")
        if _once(task, f"rank {rank}"):
            return
        if rank == "0":
            _go_on(task["long"])
            came.touch()
        while not came.exists():
            time.sleep(0.1)
        _note(task, f"hang rank {rank}")
        time.sleep(1000)

    def certify(self, task: dict[str, Any], shard: list[int]) -> None:
        _note(task, f"begin {shard[0]}")
        if shard[0] == 0 and not _once(task, "hung"):
            _go_on(1)
            time.sleep(1000)
        if shard[0] == 1:
            _go_on(task["long"])
        if shard[0] == 2:
            SteppingWork.apart = "loading"
            time.sleep(task["long"])
            SteppingWork.apart = ""
        _note(task, f"shard {shard[0]} by {os.getpid()}")


class MaskedWork(ToyWork):
    """Leaves what each worker sees."""

    def prepare(self, cpus: float, gpus: float) -> None:
        assert (cpus, gpus) == (1, 1)

    def train(self, task: dict[str, Any]) -> None:
        mask = os.environ["CUDA_VISIBLE_DEVICES"]
        Path(task["folder"], f"rank-{os.environ['RANK']}").write_text(mask)


class AcceleratorError(RuntimeError):
    """As torch's."""


class FailingWork(ToyWork):
    """Fails on the accelerators of `bad` in the stage `fails`, the first `times` times of a job. On others it waits
    until one is left out: there may be none, and then all are of `bad`."""

    MESSAGE = "CUDA error: an illegal memory access was encountered"

    def train(self, task: dict[str, Any]) -> None:
        self._compute(task, "train")

    def certify(self, task: dict[str, Any], shard: list[int]) -> None:
        self._compute(task, "certify")
        super().certify(task, shard)

    def _compute(self, task: dict[str, Any], stage: str) -> None:
        import ray

        log = Path(task["folder"], "errors.txt")
        failed = log.read_text().count("x") if log.exists() else 0
        if ray.get_gpu_ids()[0] not in task["bad"]:
            _until_one_is_left_out(task)
        elif stage == task["fails"] and failed < task.get("times", 1000):
            with log.open("a") as file:
                file.write("x")
            raise AcceleratorError(self.MESSAGE)


class DeviceError(ValueError):
    """As `bench.machine.devices` has it."""


class UnusableWork(ToyWork):
    """Its first accelerator cannot be used: a worker there is refused before any work, or hangs in its first kernel.
    On others it waits until that one is left out."""

    MESSAGE = "torch finds no CUDA device"

    def __init__(self, *, hangs: bool) -> None:
        self.hangs = hangs

    def prepare(self, cpus: float, gpus: float) -> None:
        import ray

        assert (cpus, gpus) == (1, 1)
        if ray.get_gpu_ids()[0] == 0:
            time.sleep(1000 * self.hangs)
            raise DeviceError(self.MESSAGE)

    def train(self, task: dict[str, Any]) -> None:
        _until_one_is_left_out(task)
        super().train(task)


def _until_one_is_left_out(task: dict[str, Any]) -> None:
    while not Path(task["folder"]).with_name("devices.json").exists():
        time.sleep(0.1)


def _go_on(seconds: int) -> None:
    for _ in range(seconds):
        time.sleep(1)
        SteppingWork.steps += 1


def _note(task: dict[str, Any], line: str) -> None:
    with (Path(task["folder"]) / "notes.txt").open("a") as file:
        file.write(line + "\n")


def _once(task: dict[str, Any], name: str) -> bool:
    """Whether this was asked before."""
    marker = Path(task["folder"]) / name
    seen = marker.exists()
    marker.touch()
    return seen
