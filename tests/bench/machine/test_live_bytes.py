from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

from bench.certify.engine import Engine
from bench.machine.live_bytes import live_bytes

SHAPE = torch.Size((3, 32, 32))
PLANE = 4 * 32 * 32
"""Bytes of one channel."""


class Wide(nn.Module):
    """Keeps the first of its three layers of 16 channels until the end, as a U-Net does."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second, self.third = (nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))
        self.head = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        kept = self.first(images)
        deep = self.third(self.second(kept).relu_())  # in place: no memory of its own
        logits: Tensor = self.head((deep + kept).mean(dim=(2, 3)))
        return logits


def test_what_is_alive_at_once_is_counted() -> None:
    layers = nn.Sequential(*[nn.Conv2d(3, 3, 3, padding=1) for _ in range(6)])
    for count in (1, 5):
        images = torch.rand(count, *SHAPE)
        assert live_bytes(layers, images) == 2 * 3 * PLANE * count  # what a layer takes, and what it makes
        # kept, second, third; then kept, third and their sum
        assert live_bytes(Wide(), images) == pytest.approx(3 * 16 * PLANE * count, rel=0.01)


def test_passes_on_a_cpu_are_as_large_as_memory_is_to_allow(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    torch.manual_seed(0)
    model, device = Wide().eval(), torch.device("cpu")
    whole = Engine(model, device, "fp32")
    assert whole.passes(SHAPE) == whole.batch(SHAPE) == 64
    assert "of memory" not in caplog.text
    monkeypatch.setattr("bench.certify.engine.CPU_BYTES", 3 * 16 * PLANE * 13)
    few = Engine(model, device, "fp32")
    assert few.passes(SHAPE) == 8  # 13 would fit
    assert "certifying in passes of 8: an image takes 0 MiB of memory" in caplog.text
    images = torch.rand(64, *SHAPE)
    with torch.inference_mode():
        assert torch.allclose(few.classifier(SHAPE, 1)[0](images), model(images), atol=1e-5)
    given = Engine(model, device, "fp32")
    given.limit(32)  # as a record or --batch says
    assert given.passes(SHAPE) == 32


@pytest.mark.parametrize(
    ("shape", "precision", "passes"),
    [
        ((3, 32, 32), "bf16", 256),
        ((1, 28, 28), "fp32", 64),
        ((3, 40, 40), "fp32", 32),  # 40 would be as many bytes as 64 of 32 x 32
        ((3, 64, 64), "fp32", 16),
        ((3, 64, 64), "bf16", 64),
        ((3, 224, 224), "fp32", 8),
        ((3, 224, 224), "bf16", 8),
    ],
)
def test_large_images_come_in_small_passes_on_a_cpu(shape: tuple[int, ...], precision: str, passes: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * shape[0], 10)).eval()
    engine, size = Engine(model, torch.device("cpu"), precision), torch.Size(shape)
    assert engine.passes(size) == passes
    earlier = Engine(model, torch.device("cpu"), precision)
    earlier.limit(64)  # as a record says of certificates of passes that were larger
    assert earlier.passes(size) == min(64, earlier.batch(size))
    images = torch.rand(earlier.batch(size), *shape)
    with torch.inference_mode():
        first, second = (each.classifier(size, 1)[0](images) for each in (engine, earlier))
    assert torch.allclose(first, second, atol=1e-5 if precision == "fp32" else 1e-2)
