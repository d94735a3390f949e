"""Work for a group that leaves traces in a folder: task = {"folder", "shards", and what should go wrong}."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any


class ToyWork:
    def prepare(self) -> None:
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


def _note(task: dict[str, Any], line: str) -> None:
    with (Path(task["folder"]) / "notes.txt").open("a") as file:
        file.write(line + "\n")


def _once(task: dict[str, Any], name: str) -> bool:
    """Whether this was asked before."""
    marker = Path(task["folder"]) / name
    seen = marker.exists()
    marker.touch()
    return seen
