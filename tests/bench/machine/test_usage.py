"""What a process says of itself while it works."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from bench.certify import engine
from bench.certify.smoothing import Smoothed
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


def test_compiling_is_said_while_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    said = []

    def compiled(images: torch.Tensor) -> torch.Tensor:
        said.append(usage()["apart"])
        return images

    monkeypatch.setattr(torch, "compile", lambda *_, **__: compiled)
    assert engine.compile_frozen(nn.Identity(), torch.rand(1, 1), "fp32") is not None
    assert said == ["compiling"] * 3
    assert usage()["apart"] == ""
