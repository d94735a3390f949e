"""On an accelerator a step must not wait for a number: with tensors that have none, such a wait is an error."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DynamicOutputShapeException
from torch.nn.utils import get_total_norm

from bench.models.classifier import build_model
from bench.train.augment import crop_and_flip
from methods import METHODS, TrainingStep, get_method


def take_step(name: str, *, options: dict[str, object] | None = None) -> None:
    """All of a step but the drawing of its random numbers, which needs real ones."""
    method = get_method(name, **(options or {}))
    model = build_model("tiny", num_classes=10, width=4).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    images = torch.zeros((50, 3, 32, 32), dtype=torch.uint8)
    indices, offsets = torch.zeros(8, dtype=torch.int64), torch.zeros((8, 2), dtype=torch.int64)

    def passed(copies: Tensor) -> Tensor:
        logits: Tensor = model(copies.flatten(0, 1)).view(len(copies), 8, -1)
        return logits

    step = TrainingStep(
        images=crop_and_flip(images[indices], offsets, torch.zeros(8, dtype=torch.bool)).float() / 255,
        labels=torch.zeros(50, dtype=torch.int64)[indices],
        noise=torch.zeros((method.copies, 8, 3, 32, 32)),
        sigma=0.25,
        epoch=100,  # in which every method does all it ever does
        train=passed,
        attack=passed,
        uniforms=torch.zeros((method.uniforms, 8)),
        memory={"votes": torch.ones((50, 10), dtype=torch.int64)[indices]},
    )
    loss = method.training_loss(step)
    optimizer.zero_grad()
    loss.backward()
    get_total_norm([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    optimizer.step()


@pytest.mark.parametrize("name", METHODS)
def test_no_method_waits_for_a_number(name: str) -> None:
    with FakeTensorMode():
        take_step(name)


def test_nor_does_the_other_attack_of_smoothadv() -> None:
    with FakeTensorMode():
        take_step("smoothadv", options={"attack": "ddn", "steps": 2})


def test_a_mask_that_waits_is_an_error_here() -> None:
    with FakeTensorMode(), pytest.raises(DynamicOutputShapeException):
        torch.zeros(8)[torch.zeros(8, dtype=torch.bool)]
