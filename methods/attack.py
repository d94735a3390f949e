"""What attacks on a training step have in common. Norms are ℓ2, over all numbers of one image or one copy of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from .base import TrainingStep

SMALLEST_MEAN = 1e-20
"""The clamp of the published programs, below which the mean probability of the label has no gradient."""
TINY = 1e-8
"""Added to norms by which is divided."""


def norms(values: Tensor) -> Tensor:
    """The norm of each image: (…, channel, height, width) -> (…, 1, 1, 1)."""
    lengths: Tensor = values.flatten(-3).norm(dim=-1)
    return lengths[..., None, None, None]


def projected(values: Tensor, radius: Tensor | float) -> Tensor:
    """Each image of norm above `radius` scaled to it; (…, channel, height, width)."""
    import torch

    length = norms(values)
    return torch.where(length > radius, values * (radius / (length + 1e-7)), values)


def gradient(loss: Tensor, at: Tensor) -> Tensor:
    """The gradient of a scalar, of the shape of `at`; nothing else receives one."""
    import torch

    [found] = torch.autograd.grad(loss, at)
    return found


def smoothed_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """−log F̄_y of each image, (batch,): the loss of the smoothed classifier, of which the copies are an estimate.

    The mean probability is clamped below at 1e-20; a single copy has the cross-entropy instead (Salman et al. 2019,
    their program). logits (m, batch, num_classes), labels (batch,).
    """
    import torch.nn.functional as F

    if len(logits) == 1:
        return F.cross_entropy(logits[0], labels, reduction="none")
    mean = logits.softmax(dim=-1).mean(dim=0).gather(1, labels[:, None]).squeeze(1)
    return -mean.clamp(min=SMALLEST_MEAN).log()


def smoothed_direction(step: TrainingStep, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Where `smoothed_loss` grows fastest at x + δ: unit vectors (batch, channel, height, width), and the logits there
    (m, batch, num_classes).

    Where the gradient is exactly 0 the direction is standard normal numbers, not of unit norm (their program): noise of
    this step, mirrored and so none of what the classifier has seen.
    """
    import torch

    delta = delta.detach().requires_grad_()
    logits = step.attack(step.images + delta + step.noise)
    found = gradient(smoothed_loss(logits, step.labels).sum(), delta)
    length = norms(found)
    direction = torch.where(length > 0, found / length, step.noise[0].flip(-1) / step.sigma)
    return direction, logits.detach()
