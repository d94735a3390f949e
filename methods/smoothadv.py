"""SmoothAdv: adversarial training of the smoothed classifier."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from .attack import norms, projected, smoothed_direction
from .base import Method, TrainingStep, register_method, require
from .gaussian import per_sample_cross_entropy
from .search import Among, Between

if TYPE_CHECKING:
    from torch import Tensor

Attack = Literal["pgd", "ddn"]
LEVELS = 255
"""Steps of a pixel value, to which DDN rounds."""


@register_method("smoothadv")
@dataclass(frozen=True, kw_only=True)
class SmoothAdv(Method):
    """mean_i CE(f(x + δ + ε_i), y), where δ attacks the smoothed classifier: it maximises −log mean_i F(x + δ + ε_i)_y
    over ‖δ‖ ≤ radius with x + δ in [0, 1].

    One δ per image, found in evaluation mode under the noise that then trains. The radius grows linearly over the first
    `warmup_epochs`.
    """

    title: ClassVar[str] = "SmoothAdv"
    source: ClassVar[str] = "Salman et al. 2019"
    search: ClassVar[Mapping[str, Between | Among]] = {
        "radius": Between(0.125, 2.0, log=True),
        "warmup_epochs": Between(1, 10, log=True),
        "attack": Among(("pgd", "ddn")),
    }

    copies: int = 4
    radius: float = 1.0
    """ε, of the ball in which δ is searched, ℓ2 in [0, 1] pixel units."""
    steps: int = 10
    """T, of the attack."""
    warmup_epochs: int = 10
    """Epochs until the radius is whole: (t + 1) / `warmup_epochs` of it in epoch t."""
    attack: Attack = "pgd"
    """pgd: steps of 2 ε / T along the normalised gradient; ddn: decoupled direction and norm (Rony et al. 2019)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "radius", self.radius >= 0, "at least 0")
        require(self, "steps", self.steps >= 1, "at least 1")
        require(self, "warmup_epochs", self.warmup_epochs >= 1, "at least 1")
        kinds = get_args(Attack)
        require(self, "attack", self.attack in kinds, f"one of {', '.join(kinds)}")

    def training_loss(self, step: TrainingStep) -> Tensor:
        """The mean over the images of what the class says."""
        search = self._pgd if self.attack == "pgd" else self._ddn
        delta = search(step, self.radius * min(1.0, (step.epoch + 1) / self.warmup_epochs))
        return per_sample_cross_entropy(step.train(step.images + delta + step.noise), step.labels)

    def _pgd(self, step: TrainingStep, radius: float) -> Tensor:
        import torch

        x = step.images
        delta = torch.zeros_like(x)
        for _ in range(self.steps):
            direction, _ = smoothed_direction(step, delta)
            moved = (x + delta + 2 * radius / self.steps * direction).clamp(0, 1)
            delta = projected(moved - x, radius)
        return delta

    def _ddn(self, step: TrainingStep, radius: float) -> Tensor:
        """The shortest δ on the way that changed the most frequent answer, 0 where none did; at most `radius`."""
        import torch

        x = step.images
        longest = norms(torch.maximum(x, 1 - x))
        delta, best = torch.zeros_like(x), torch.zeros_like(x)
        length, shortest = torch.full_like(longest, radius), longest
        for number in range(1, self.steps + 1):
            direction, logits = smoothed_direction(step, delta)
            answers = logits.argmax(dim=-1).mode(dim=0).values
            wrong = (answers != step.labels)[:, None, None, None]
            shorter = wrong & (norms(delta) < shortest)
            best, shortest = torch.where(shorter, delta, best), torch.where(shorter, norms(delta), shortest)
            delta = delta + (0.01 + 0.495 * (1 + math.cos(math.pi * number / self.steps))) * direction
            length = torch.minimum(length * torch.where(wrong, 0.95, 1.05), longest)
            outside = x + length * delta / norms(delta)
            delta = ((outside * LEVELS).round() / LEVELS).clamp(0, 1) - x
        return (projected(best, radius) * LEVELS).round() / LEVELS
