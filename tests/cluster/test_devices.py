"""An accelerator that fails: logical ones, for no test has another."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.exceptions import RayError, RayTaskError

from cluster import GroupSize, run_jobs, schedule
from cluster.devices import DeviceErrors, DeviceLeftOutError, is_of_a_device
from cluster.worker import StalledError, WorkerHandle
from tests.cluster.local import local_cluster
from tests.cluster.toys import AcceleratorError, FailingWork, UnusableWork, job, notes, shards

ONE_GPU = GroupSize(workers=1, cpus_per_worker=1, gpus_per_worker=1)
MESSAGE = FailingWork.MESSAGE


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        with local_cluster(cpus=2, gpus=2):
            yield


def errors(folder: Path, name: str) -> int:
    log = folder / name / "errors.txt"
    return log.read_text().count("x") if log.exists() else 0


@pytest.mark.parametrize("stage", ["train", pytest.param("certify", marks=pytest.mark.slow)])
def test_an_accelerator_that_fails_twice_is_left_out_and_all_jobs_go_on(
    tmp_path: Path, stage: str, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = [job(tmp_path, name, bad=[0], fails=stage) for name in "abcd"]
    assert run_jobs(jobs, FailingWork(), ONE_GPU) == {}
    for name in "abcd":
        assert set(shards(tmp_path, name)) == {0, 1, 2, 3}
        assert not (tmp_path / name / "state.json").exists()
    assert sum(errors(tmp_path, name) for name in "abcd") == 2  # nobody was put there again
    [sentence] = json.loads((tmp_path / "devices.json").read_text())
    assert sentence.startswith("GPU 0 of ")
    assert sentence.endswith(f"it failed 2 times, at last with AcceleratorError: {MESSAGE}")
    assert sentence in caplog.messages


@pytest.mark.parametrize("hangs", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_accelerator_that_refuses_every_worker_is_left_out_and_fails_no_job(tmp_path: Path, hangs: bool) -> None:
    names, stalled_after = "abcd", 5.0 if hangs else 60.0
    jobs = [job(tmp_path, name) for name in names]
    assert run_jobs(jobs, UnusableWork(hangs=hangs), ONE_GPU, stalled_after=stalled_after) == {}
    assert all(set(shards(tmp_path, name)) == {0, 1, 2, 3} for name in names)
    [sentence] = json.loads((tmp_path / "devices.json").read_text())
    assert sentence.startswith("GPU 0 of ")
    why = r"a worker on .* was stopped: it had not prepared for its work after \d+ s" if hangs else UnusableWork.MESSAGE
    assert re.search(rf"it failed 2 times, at last with {why}$", sentence)


def test_one_error_is_tried_again_in_a_fresh_process(tmp_path: Path) -> None:
    assert run_jobs([job(tmp_path, bad=[0, 1], fails="train", times=1)], FailingWork(), ONE_GPU) == {}
    assert errors(tmp_path, "job") == 1
    assert notes(tmp_path).count("asked") == 2
    assert not (tmp_path / "devices.json").exists()


def test_where_none_is_left_what_is_left_fails_with_the_reason(tmp_path: Path) -> None:
    failed = run_jobs([job(tmp_path, name, bad=[0, 1], fails="train") for name in "abc"], FailingWork(), ONE_GPU)
    assert failed.keys() == {"a", "b", "c"}
    for name, error in failed.items():
        assert error.startswith("no room is left: GPU ")
        assert error.count(MESSAGE) == 2
        assert json.loads((tmp_path / name / "state.json").read_text()) == {"state": "failed", "error": error}


def test_a_place_that_was_kept_and_is_lost_does_not_do_its_job_again(tmp_path: Path) -> None:
    order = schedule._Order([job(tmp_path)], ONE_GPU, FailingWork(), lambda _: [])
    trial = SimpleNamespace(trial_id="first", config=order.suggest("first"))
    result = {"left_out": "GPU 0 of here is left out"}
    order.on_trial_result("first", result)
    order.starts.on_trial_result(1, [], trial, result)
    assert order.suggest("second") == {"job": trial.config["job"]}
    assert schedule._run_job(trial.config, FailingWork(), ONE_GPU, 60, reports=False) == {"succeeded": 0}
    order.on_trial_complete("first", {"succeeded": 0})
    order.on_trial_complete("second", {"succeeded": 1})
    assert (order.succeeded, order.keeping) == ({"job"}, set())
    assert not (tmp_path / "job" / "notes.txt").exists()


def test_a_place_whose_node_is_lost_takes_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither from what is left elsewhere, nor by keeping Tune waiting at the end."""
    nodes = [(1.0, 1.0), (1.0, 1.0)]
    monkeypatch.setattr(schedule, "node_resources", lambda: nodes)
    order = schedule._Order([job(tmp_path), job(tmp_path, "other")], ONE_GPU, FailingWork(), lambda _: [])
    trial = SimpleNamespace(trial_id="first", config=order.suggest("first"))
    order.starts.on_trial_start(1, [], trial)
    result = {"left_out": "GPU 0 of here is left out"}
    order.on_trial_result("first", result)
    order.starts.on_trial_result(1, [], trial, result)
    assert not order.nothing_can_go_on()
    nodes.pop()
    assert order.nothing_can_go_on()  # where the place is on the node that is left
    order.starts.on_trial_recover(1, [], trial)  # or on the other
    assert not order.nothing_can_go_on()
    for name in ("second", "third"):
        assert order.suggest(name)
        order.on_trial_complete(name, {"succeeded": 1})
    assert order.nothing_can_go_on()  # Tune still holds the first
    order.waiting.append(job(tmp_path, "later"))
    nodes.clear()  # the rest is lost before it began, and may be replaced, as what was left out was
    assert not order.nothing_can_go_on()
    assert order.succeeded == {"job", "other"}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (AcceleratorError("anything"), True),
        (RuntimeError("CUDA error: unspecified launch failure"), True),
        (ValueError("the model failed: AcceleratorError: CUDA error: device-side assert triggered"), True),
        (RuntimeError("NCCL error in: x.cpp:3, unhandled cuda error"), True),
        (RuntimeError("NCCL error in: x.cpp:3, remote process exited or there was a network error"), False),
        (RuntimeError("CUDA error: out of memory"), False),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), False),
        (ValueError("the loss became nan"), False),
    ],
)
def test_errors_of_devices_are_told_from_others(error: Exception, expected: bool) -> None:
    assert is_of_a_device(RayTaskError("train", "", error)) is expected


def test_a_gpu_on_which_work_hangs_twice_is_left_out() -> None:
    errors = DeviceErrors()
    worker = WorkerHandle(actor=None, started=None, who=None, elastic=False, asked_at=0.0)
    worker.identity = {"host": "here", "gpus": ["0"]}
    errors.note(worker, RayError("it died"))
    errors.note(worker, RayError("it died"))
    worker.stalled = "a worker on here was stopped: its work did not go on for 130 s"
    errors.note(worker, StalledError(worker.stalled))
    assert not errors.left_out(worker)
    with pytest.raises(DeviceLeftOutError, match=r"GPU 0 of here is left out .* for 130 s"):
        errors.note(worker, StalledError(worker.stalled))
    worker.identity = {"host": "here", "gpus": []}
    errors.note(worker, StalledError(worker.stalled))  # of a CPU nothing is left out
