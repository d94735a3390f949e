"""What a worker group does when its cluster grows, shrinks and stalls: nodes come and die, processes stop answering."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster import GroupSize, run_jobs  # before ray, whose environment it sets
from cluster.authentication import ensure_token
from tests.cluster.toys import ToyWork, job, notes, shards

import ray  # isort: skip
from ray.cluster_utils import Cluster  # isort: skip

pytestmark = pytest.mark.slow
LONG = 120.0  # seconds; the machine may be busy


@pytest.fixture
def nodes() -> Iterator[Cluster]:
    """A cluster whose head has no room for workers; tests add nodes."""
    ensure_token()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 80 * 2**20})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def add(cluster: Cluster, cpus: int) -> Any:
    node = cluster.add_node(num_cpus=cpus, object_store_memory=80 * 2**20)
    cluster.wait_for_nodes()
    return node


class Run:
    """Jobs that run in a thread, while the test disturbs them."""

    def __init__(self, jobs: list[Any], size: GroupSize) -> None:
        self.failed: dict[str, str] | None = None
        self.thread = threading.Thread(target=self._run, args=(jobs, size))
        self.thread.start()

    def _run(self, jobs: list[Any], size: GroupSize) -> None:
        self.failed = run_jobs(jobs, ToyWork(), size, stalled_after=10)

    def result(self) -> dict[str, str] | None:
        self.thread.join(LONG)
        assert not self.thread.is_alive(), "the run did not end"
        return self.failed


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + LONG
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def workers(folder: Path, name: str = "job") -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = json.loads((folder / name / "state.json").read_text()).get("workers", [])
    except (FileNotFoundError, ValueError):
        return []
    return found


def done(folder: Path) -> list[int]:
    return shards(folder) if (folder / "job" / "notes.txt").exists() else []


def raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


def parents(pid: int) -> set[int]:
    return {process.pid for process in psutil.Process(pid).parents()}


def test_workers_that_come_late_take_shards_and_leave_again(nodes: Cluster, tmp_path: Path) -> None:
    add(nodes, 1)
    run = Run([job(tmp_path, shards=60, seconds=0.5)], GroupSize(1, 1, 0))
    until(lambda: done(tmp_path))
    add(nodes, 1)
    until(lambda: any(worker["elastic"] and worker["doing"].startswith("images") for worker in workers(tmp_path)))
    assert run.result() == {}
    assert sorted(done(tmp_path)) == list(range(60))
    by = [note.split()[-1] for note in notes(tmp_path) if note.startswith("shard")]
    assert len(set(by)) == 2
    until(lambda: ray.available_resources().get("CPU") == 2)


@pytest.mark.sample
def test_a_dead_node_costs_its_shards_only(nodes: Cluster, tmp_path: Path) -> None:
    both = [add(nodes, 1), add(nodes, 1)]
    run = Run([job(tmp_path, shards=30, seconds=0.4)], GroupSize(2, 1, 0))
    until(lambda: len(done(tmp_path)) > 4 and workers(tmp_path))
    before = done(tmp_path)
    trial = json.loads((tmp_path / "job" / "state.json").read_text())["pid"]
    [other] = [node for node in both if raylet(node) not in parents(trial)]
    nodes.remove_node(other, allow_graceful=False)
    until(lambda: len(done(tmp_path)) > len(before) + 4)  # the other node goes on meanwhile
    add(nodes, 1)
    assert run.result() == {}
    assert sorted(done(tmp_path)) == list(range(30))


def test_a_node_that_takes_the_trials_own_process_with_it_does_not_end_the_trial(
    nodes: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.schedule.ROOM_IS_LOOKED_FOR_EVERY", 0.5)
    node = add(nodes, 1)
    run = Run([job(tmp_path, shards=12, seconds=0.3)], GroupSize(1, 1, 0))
    until(lambda: done(tmp_path))
    assert "not fit" not in caplog.text
    nodes.remove_node(node, allow_graceful=False)
    until(lambda: "1 worker with 1 CPU does not fit on the cluster, which has 0 CPU, 0 GPU now" in caplog.text)
    add(nodes, 1)
    assert run.result() == {}
    assert set(done(tmp_path)) == set(range(12))
    assert not (tmp_path / "job" / "state.json").exists()


@pytest.mark.parametrize("stage", ["training", "images"])
def test_a_stalled_worker_is_replaced(nodes: Cluster, tmp_path: Path, stage: str) -> None:
    add(nodes, 2)
    run = Run([job(tmp_path, shards=10, seconds=0.5, train_seconds=8.0)], GroupSize(2, 1, 0))
    victim = until(lambda: [w["pid"] for w in workers(tmp_path) if w["doing"].startswith(stage) and "cpu" in w])[-1]
    os.kill(victim, signal.SIGSTOP)
    until(lambda: not psutil.pid_exists(victim) or psutil.Process(victim).status() == psutil.STATUS_ZOMBIE)
    assert run.result() == {}
    assert set(done(tmp_path)) == set(range(10))
    assert len(done(tmp_path)) == 10
