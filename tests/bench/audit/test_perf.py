from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from bench.audit.perf_certify import measure
from bench.certify import engine
from bench.models.classifier import build_model
from bench.models.sources import Source
from results.store.records import TrainingRecord
from tests.bench.models.test_shelf import written
from tests.command import bench
from tests.conftest import small_trial

MODEL = "timm:test_vit@weights=random"
needs_timm = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")


@needs_timm
def test_a_model_off_the_shelf_is_measured_beside_the_plain_loop_at_its_own_size(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine, "COMPILE_FROM", 10**9)  # the slow test compiles
    monkeypatch.setattr("bench.audit.perf_certify.matrix_products", lambda *_: (lambda: None, 1.0))
    monkeypatch.setattr("bench.audit.perf_certify.has_fast_bf16", lambda _: False)
    monkeypatch.setattr("bench.audit.perf_certify.LARGE_PLAIN_BATCHES", (64, 16))
    assert bench("perf", "certify", "--model", MODEL, "--rounds", "1", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["image"], found["passes"]["fp32"]) == (MODEL, "3 x 160 x 160", 8)
    rates = found["samples_per_second"]
    assert rates.keys() >= {"plain_64", "plain_16", "certify_fp32", "certify_eager_fp32"}
    best = max((64, 16), key=lambda batch: rates[f"plain_{batch}"])
    assert found["plain_best_batch"] == best
    ratio = found["ratios"][f"certify_fp32 / plain_{best}, its best"]
    assert ratio == pytest.approx(rates["certify_fp32"] / rates[f"plain_{best}"])


def test_a_model_of_one_channel_that_onnxruntime_computes_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """torch counts none of its operations."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    monkeypatch.setattr(engine, "COMPILE_FROM", 10**9)
    monkeypatch.setattr("bench.audit.perf_certify.LARGE_PLAIN_BATCHES", (64,))
    written(tmp_path / "grey.onnx", None, size=8, channels=1)
    model = f"onnx:{tmp_path / 'grey.onnx'}@engine=onnxruntime"
    assert bench("perf", "certify", "--model", model, "--rounds", "1", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["image"] == "1 x 8 x 8"
    assert found["samples_per_second"].keys() == {"plain_64", "certify_fp32", "certify_eager_fp32"}
    assert found["ratios"].keys() == {"certify_fp32 / plain_64, its best", "compiled / eager, fp32"}
    assert "gigaflop_per_copy" not in found


@pytest.mark.parametrize("fast", [True, False])
def test_precisions_are_compared_where_bf16_is_fast(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = small_trial()
    training = TrainingRecord(title="", num_classes=10, test_images=500, checkpoint_sha256="", torch_version="")
    source = Source(build_model("tiny", num_classes=10), "here", "mine", "", trial, training)
    monkeypatch.setattr("bench.audit.perf_certify.open_model", lambda _: source)
    monkeypatch.setattr("bench.audit.perf_certify.has_fast_bf16", lambda _: fast)
    monkeypatch.setattr("bench.audit.perf_certify.compare_precisions", lambda *_: {"acr_bf16": 1.0})
    monkeypatch.setattr("bench.audit.perf_certify.measure_certify", lambda *_, **__: {"ratios": {}})
    assert ("acr_bf16" in measure("runs/some/trial", sigma=None, rounds=1, images=2)) == fast


@needs_timm
@pytest.mark.slow
def test_a_model_off_the_shelf_is_compiled(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("perf", "certify", "--model", MODEL, "--rounds", "1", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["engine"] == "inductor"
    assert min(found["compile_seconds"].values()) > 0
