"""Training steps without a training: what a method is given, with a small network of this file's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from methods import TrainingStep

SHAPE = (3, 6, 6)
CLASSES = 4


class Small(nn.Module):
    """With batch norm, so that which images share a pass is seen; float64, so that nothing hides in rounding."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Conv2d(3, 5, 3, stride=2)
        self.norm = nn.BatchNorm2d(5)
        self.head = nn.Linear(20, CLASSES)
        self.double()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.first(images)).relu().flatten(1))
        return logits


def make_step(model: nn.Module, *, copies: int = 2, batch: int = 6, sigma: float = 0.5, **changes: Any) -> TrainingStep:
    """A step on random images; passes as the training loop has them, in the precision of the images."""
    draw = torch.Generator().manual_seed(1)

    def passed(images: Tensor, *, training: bool) -> Tensor:
        model.train(training)
        answers: Tensor = model(images.flatten(0, 1)).view(*images.shape[:2], -1)
        model.train()
        return answers

    values: dict[str, Any] = {
        "images": torch.rand((batch, *SHAPE), generator=draw, dtype=torch.float64),
        "labels": torch.randint(0, CLASSES, (batch,), generator=draw),
        "noise": sigma * torch.randn((copies, batch, *SHAPE), generator=draw, dtype=torch.float64),
        "sigma": sigma,
        "epoch": 50,
        "train": lambda images: passed(images, training=True),
        "attack": lambda images: passed(images, training=False),
        "uniforms": torch.rand((max(copies, 1), batch), generator=draw, dtype=torch.float64),
        "memory": {"votes": torch.randint(0, 9, (batch, CLASSES), generator=draw)},
    }
    return TrainingStep(**values | changes)


def gradients(model: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


def outcome(method: Any, model: nn.Module, step: TrainingStep) -> tuple[float, list[Tensor], list[Tensor]]:
    """Value, gradients and running statistics of a step."""
    loss = method.training_loss(step)
    found = gradients(model, loss)
    return loss.item(), found, [buffer.clone() for buffer in model.buffers()]


def same(first: list[Tensor], second: list[Tensor], tolerance: float = 1e-9) -> bool:
    return all(torch.allclose(a, b, rtol=tolerance, atol=tolerance) for a, b in zip(first, second, strict=True))


def norm_of(values: Tensor) -> Tensor:
    lengths: Tensor = values.flatten(-3).norm(dim=-1)
    return lengths


def by_table(*answers: list[list[float]]) -> Callable[[Tensor], Tensor]:
    """A stand-in for a forward pass: the logits of one pass after another, whatever the images."""
    queue = [torch.tensor(logits, dtype=torch.float64, requires_grad=True) for logits in answers]
    seen: list[Tensor] = []

    def passed(images: Tensor) -> Tensor:
        seen.append(images)
        return queue[len(seen) - 1][None].expand(len(images), -1, -1)

    passed.queue, passed.seen = queue, seen  # type: ignore[attr-defined]
    return passed


def one_image(train: Callable[[Tensor], Tensor], **changes: Any) -> TrainingStep:
    return replace(make_step(Small(), copies=1, batch=1, labels=torch.tensor([0])), train=train, **changes)
