"""Stability training: noisy predictions like clean ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .base import Method, TrainingStep, register_method, require
from .search import Among, Between

if TYPE_CHECKING:
    from torch import Tensor


@register_method("stability")
@dataclass(frozen=True, kw_only=True)
class Stability(Method):
    """CE(f(x), y) − λ mean_i Σ_c F(x)_c log F(x + ε_i)_c, with F = softmax(f): the classifier learns on clean images.

    Nothing is detached: the gradient also flows through F(x) as a target. Clean and noisy images have a forward pass
    each, and so batch statistics of their own; the noisy pass comes last.
    """

    title: ClassVar[str] = "Stability"
    source: ClassVar[str] = "Li et al. 2019; published code of Jeong et al. 2023"
    search: ClassVar[Mapping[str, Between | Among]] = {
        "strength": Between(0.25, 10.0, log=True),
    }

    strength: float = 2.0
    """λ, weight of the cross-entropy between clean and noisy prediction."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "strength", self.strength >= 0, "at least 0")

    def training_loss(self, step: TrainingStep) -> Tensor:
        """The mean over the images of what the class says."""
        import torch.nn.functional as F

        clean = step.train(step.images[None])[0]
        noisy = step.train(step.images + step.noise).log_softmax(dim=-1)
        stability = -(clean.softmax(dim=-1) * noisy.mean(dim=0)).sum(dim=-1)
        return F.cross_entropy(clean, step.labels) + self.strength * stability.mean()
