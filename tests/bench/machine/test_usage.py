"""What a process says of itself while it works."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from bench.certify import engine, shard
from bench.certify.smoothing import Smoothed
from bench.machine.randomness import Role
from bench.machine.usage import usage
from bench.train import loop
from results.store.folder import RunFolder
from results.store.records import WorkerRecord
from results.store.settings import CertifySettings
from tests.conftest import small_trial


def test_every_pass_of_a_training_and_every_batch_of_a_certification_is_a_step(tmp_path: Path) -> None:
    before = usage()["steps"]
    trial = small_trial()
    loop.train(trial, RunFolder(tmp_path))
    trained = usage()["steps"]
    assert trained - before >= 2 * (200 // 64)  # epochs × whole batches
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    smoothed = Smoothed(model, 0.5, 2, precision="fp32")
    smoothed.certify(torch.rand(2, 3, 2, 2), CertifySettings(n0=64, n=640))
    assert usage()["steps"] - trained >= 2 * (1 + 640 // smoothed.engine.batch(torch.Size((3, 2, 2))))
    assert WorkerRecord.model_validate(usage())


def test_every_pass_is_a_step_however_few_images_it_takes() -> None:
    smoothed = Smoothed(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), 0.5, 2, precision="fp32")
    shape = torch.Size((3, 2, 2))
    smoothed.engine.limit(8)
    before, batch = usage()["steps"], smoothed.engine.batch(shape)
    smoothed.class_counts(torch.rand(shape), batch, 0, Role.ESTIMATE, 0)
    assert usage()["steps"] - before >= batch // 8


def test_what_an_accelerator_is_at_is_asked_by_its_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by its number, which is another to its driver where some are masked."""
    assert usage()["gpu"] is None
    busy = {"GPU-a": 73, "GPU-b": 0}
    nvml = SimpleNamespace(
        NVMLError=KeyError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetUtilizationRates=lambda handle: SimpleNamespace(gpu=busy[handle]),
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="a"))
    assert usage()["gpu"] == 0.73
    del busy["GPU-a"]
    assert usage()["gpu"] is None


def test_compiling_is_said_while_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    said = []

    def compiled(images: torch.Tensor) -> torch.Tensor:
        said.append(usage()["apart"])
        return images

    monkeypatch.setattr(torch, "compile", lambda *_, **__: compiled)
    assert engine.compile_frozen(nn.Identity(), torch.rand(1, 1), "fp32") is not None
    assert said == ["compiling"] * 3
    assert usage()["apart"] == ""


def test_so_is_all_else_that_takes_long_without_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {}

    def spied(module: ModuleType, name: str) -> None:
        real = getattr(module, name)

        def spy(*arguments: Any, **named: Any) -> Any:
            said[name] = usage()["apart"]
            return real(*arguments, **named)

        monkeypatch.setattr(module, name, spy)

    monkeypatch.setattr(loop, "_spectra", loop._Spectra())  # none is known yet
    for name in ("load_images", "last_state", "spectrum_of", "save_checkpoint", "_finish"):
        spied(loop, name)
    for name in ("last_model", "write_shard"):
        spied(shard, name)
    trial, run = small_trial("generalised_ld", decomposition_ratio=0.2), RunFolder(tmp_path)
    loop.train(trial, run)
    shard.certify_shard(trial, run, [0, 1])
    assert said == {
        "load_images": "loading",
        "last_state": "loading",
        "spectrum_of": "decomposing",
        "save_checkpoint": "writing",
        "_finish": "writing",
        "last_model": "loading",
        "write_shard": "writing",
    }
