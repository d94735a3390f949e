"""Who takes part in `bench perf`, and how their time is taken."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from bench.audit import contest
from bench.audit.perf_certify import PLAIN_BATCHES, plain_loops
from bench.machine.hardware import compute_reproducibly
from bench.models.classifier import build_model

CPU = torch.device("cpu")


def settings() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic


def test_the_plain_loop_runs_with_torchs_defaults_and_one_in_bf16_beside_it() -> None:
    compute_reproducibly()
    model = build_model("tiny", num_classes=10).eval()
    seen: list[tuple[tuple[bool, bool], torch.dtype, bool]] = []

    def look(_module: object, inputs: tuple[Tensor, ...]) -> None:
        [images] = inputs
        seen.append((settings(), images.dtype, images.is_contiguous(memory_format=torch.channels_last)))

    model.network.register_forward_pre_hook(look)  # copies have it too
    loops = plain_loops(model, torch.rand(3, 32, 32), 0.25, 10, bf16=True)
    assert list(loops) == [f"{kind}_{batch}" for kind in ("plain", "plain_bf16") for batch in PLAIN_BATCHES]
    for name, dtype, channels_last in (("plain_32", torch.float32, False), ("plain_bf16_32", torch.bfloat16, True)):
        seen.clear()
        work, samples = loops[name]
        counts = work()
        assert isinstance(counts, Tensor)
        assert int(counts.sum()) == samples
        assert set(seen) == {((True, False), dtype, channels_last)}
    assert settings() == (False, True)
    assert "plain_bf16_32" not in plain_loops(model, torch.rand(3, 32, 32), 0.25, 10, bf16=False)


def test_short_work_is_repeated_until_its_time_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    timings: list[float] = []
    measure, now = contest._seconds, 0.0

    def takes(seconds: float) -> Callable[[], None]:
        def work() -> None:
            nonlocal now
            now += seconds

        return work

    def seconds(*arguments: object) -> float:
        timings.append(measure(*arguments))  # type: ignore[arg-type]
        return timings[-1]

    monkeypatch.setattr(contest, "_seconds", seconds)
    monkeypatch.setattr(contest, "time", SimpleNamespace(perf_counter=lambda: now, monotonic=lambda: now))
    rates = contest.medians({"short": (takes(0.002), 10), "long": (takes(0.06), 1)}, 3, CPU)
    assert sum(timing >= contest.SHORTEST for timing in timings) >= 2 * 3
    assert rates["short"] == pytest.approx(10 / 0.002)  # of one piece of work, not of all that were timed together
    assert rates["long"] == pytest.approx(1 / 0.06)
