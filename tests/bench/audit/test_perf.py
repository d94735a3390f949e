from __future__ import annotations

import json
from importlib.util import find_spec

import pytest

from bench.certify import engine
from tests.bench.cli.test_cli import bench

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


@needs_timm
@pytest.mark.slow
def test_a_model_off_the_shelf_is_compiled(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("perf", "certify", "--model", MODEL, "--rounds", "1", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["engine"] == "inductor"
    assert min(found["compile_seconds"].values()) > 0
