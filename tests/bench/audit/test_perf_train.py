"""What `bench perf train` compares."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bench.audit.perf_train import BATCH, BATCHES, _plain_step, images_of_a_round
from bench.machine.hardware import compute_reproducibly
from bench.train.replay import WARM_UPS


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_a_round_has_whole_batches_and_on_a_gpu_mostly_such_as_are_replayed(kind: str) -> None:
    images = images_of_a_round(torch.device(kind))
    assert len(images) == BATCH * BATCHES[kind]
    assert kind == "cpu" or 0.05 * BATCHES[kind] > WARM_UPS + 1
    assert len(images.labels) == len(images.images)


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
