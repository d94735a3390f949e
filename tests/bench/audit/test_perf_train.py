"""What `bench perf train` compares."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bench.audit.perf_train import BATCH, BATCHES, _plain_step, images_of_a_round
from bench.machine.hardware import compute_reproducibly
from bench.models.classifier import build_model
from bench.train.replay import WARM_UPS


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_a_round_has_whole_batches_and_on_a_gpu_mostly_such_as_are_replayed(kind: str) -> None:
    images = images_of_a_round(torch.device(kind))
    assert len(images) == BATCH * BATCHES[kind]
    assert kind == "cpu" or 0.05 * BATCHES[kind] > WARM_UPS + 1
    assert len(images.labels) == len(images.images)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_published_step_has_images_and_weights_in_its_layout(layout: torch.memory_format) -> None:
    seen: list[bool] = []
    model = build_model("resnet8", num_classes=10)  # with 1×1 convolutions, whose weights are in both layouts
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_pre_hook(
                lambda own, given: seen.extend(x.is_contiguous(memory_format=layout) for x in (*given, own.weight))
            )
    _plain_step(model, layout)(torch.rand(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64))
    assert seen
    assert all(seen)


def test_the_published_step_has_torchs_own_defaults_and_no_other_has() -> None:
    seen: list[tuple[bool, bool]] = []

    class Looking(nn.Linear):
        def forward(self, images: Tensor) -> Tensor:
            seen.append((torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32))
            return super().forward(images.flatten(1))

    compute_reproducibly()
    _plain_step(Looking(12, 10))(torch.rand(4, 3, 2, 2), torch.zeros(4, dtype=torch.int64))
    assert seen == [(False, True)]
    assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32) == (True, False)
