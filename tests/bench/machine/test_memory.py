"""Whose memory a training is charged with, and that it goes back: accelerator and driver are of our own making."""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench.certify.shard import last_model
from bench.machine.driver import driver_bytes
from bench.machine.hardware import reserved_bytes, restart_peak_memory
from bench.runner import work
from bench.runner.task import trial_task
from bench.train import loop
from results.store.folder import RunFolder
from results.store.records import TrainingRecord
from tests.bench.machine.test_energy import NVMLError
from tests.conftest import small_trial

CUDA = torch.device("cuda", 0)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of the accelerator, in order."""
    made: list[str] = []

    def note(name: str, value: object = None) -> Callable[..., object]:
        def called(*_: object) -> object:
            made.append(name)
            return value

        return called

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", note("emptied"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", note("peak restarted"))
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", note("reserved asked", 7))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="a"))
    return made


def test_caches_are_emptied_before_the_peak_restarts(calls: list[str]) -> None:
    restart_peak_memory(CUDA)
    assert calls == ["emptied", "peak restarted"]
    assert reserved_bytes(CUDA) == 7
    assert reserved_bytes(torch.device("cpu")) is None


def test_a_training_is_not_charged_with_what_was_certified_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    trial, run = small_trial(), RunFolder(tmp_path)
    task = trial_task(trial, run, certify=True, shard_size=5)
    work.train_trial(task)
    work.certify(task, [0, 1])
    known = weakref.ref(last_model(trial, run).smoothed)
    assert known() is not None
    record = TrainingRecord.read(run.trial(trial.trial_id).training)
    assert record.memory_kind == "resident"
    assert record.reserved_bytes is record.driver_bytes is None

    def train(*_: object) -> None:
        assert known() is None
        calls.append("trained")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(work, "train", train)
    work.train_model(trial, run)
    assert calls == ["trained", "emptied"]


def test_the_drivers_figure_is_that_of_this_process(monkeypatch: pytest.MonkeyPatch, calls: list[str]) -> None:
    others = [SimpleNamespace(pid=1, usedGpuMemory=5), SimpleNamespace(pid=os.getpid(), usedGpuMemory=9)]
    nvml = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetComputeRunningProcesses=lambda handle: others if handle == "GPU-a" else [],
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert driver_bytes(CUDA) == 9
    assert calls == []
    others.pop()
    assert driver_bytes(CUDA) is None
    assert driver_bytes(torch.device("cpu")) is None


def test_a_record_has_what_was_reserved_and_what_the_driver_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "reserved_bytes", lambda _: 11)
    monkeypatch.setattr(loop, "driver_bytes", lambda _: 12)
    trial, run = small_trial(), RunFolder(tmp_path)
    loop.train(trial, run)
    record = TrainingRecord.read(run.trial(trial.trial_id).training)
    assert (record.reserved_bytes, record.driver_bytes) == (11, 12)
