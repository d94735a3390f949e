"""Consistency regularisation, and the ensemble whose members it trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .base import Method, register_method, require
from .gaussian import per_sample_cross_entropy
from .search import Among, Between

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST_MEAN = (
    1e-20  # the clamp of the published code: keeps log F̄ finite where every copy gives a class probability 0
)


@register_method("consistency")
@dataclass(frozen=True, kw_only=True)
class Consistency(Method):
    """mean_i CE(f(x + ε_i), y) + λ mean_i KL(F̄ ‖ F_i) + η H(F̄), with F = softmax(f) and F̄ = mean_i F(x + ε_i)."""

    title: ClassVar[str] = "Consistency"
    source: ClassVar[str] = "Jeong & Shin 2020; thesis Eq. 3.5"
    search: ClassVar[Mapping[str, Between | Among]] = {
        "strength": Between(1.0, 40.0, log=True),
        "entropy_weight": Between(0.05, 2.0, log=True),
    }

    copies: int = 2
    strength: float = 10.0
    """λ, weight of the divergence between the copies' predictions and their mean."""
    entropy_weight: float = 0.5
    """η, weight of the entropy of the mean prediction."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "strength", self.strength >= 0, "at least 0")
        require(self, "entropy_weight", self.entropy_weight >= 0, "at least 0")

    def loss(self, logits: Tensor, labels: Tensor, *, sigma: float, epoch: int) -> Tensor:  # noqa: ARG002
        """The mean over the images of what the class says, whatever σ and epoch; arguments as for `Method.loss`."""
        divergence, entropy = divergence_and_entropy(logits)
        regularisation = self.strength * divergence + self.entropy_weight * entropy
        return per_sample_cross_entropy(logits, labels) + regularisation.mean()


@register_method("ensemble")
@dataclass(frozen=True, kw_only=True)
class Ensemble(Consistency):
    """Three consistency models that differ only in seed; the classifier is the mean of their logits."""

    title: ClassVar[str] = "Ensemble"
    source: ClassVar[str] = "Horváth et al. 2022"
    members: ClassVar[int] = 3
    member_method: ClassVar[str | None] = "consistency"

    consensus: int = 0
    """K: where the first K members agree, theirs is the answer and the others are not asked; 0: all are always asked.
    Another classifier, and as sound (K-consensus aggregation, their section 5)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "consensus", self.consensus in (0, *range(2, self.members)), f"0 or from 2 to {self.members - 1}")

    @property
    def members_asked_first(self) -> int:
        """As `Method.members_asked_first`."""
        return self.consensus


def divergence_and_entropy(logits: Tensor) -> tuple[Tensor, Tensor]:
    """mean_i KL(F̄ ‖ F_i) and H(F̄) of each image, both (batch,), in nats; logits (m, batch, num_classes).

    F = softmax(f) of each copy, F̄ their mean. F̄ is clamped at SMALLEST_MEAN inside its logarithm only; the gradient
    flows through F̄ (Jeong & Shin 2020, published code).
    """
    log_probabilities = logits.log_softmax(dim=-1)
    mean = log_probabilities.exp().mean(dim=0)
    log_mean = mean.clamp(min=SMALLEST_MEAN).log()
    # mean_i KL(F̄ ‖ F_i) = Σ_c F̄_c (log F̄_c − mean_i log F_i,c)
    divergence = (mean * (log_mean - log_probabilities.mean(dim=0))).sum(dim=-1)
    entropy = -(mean * log_mean).sum(dim=-1)
    return divergence, entropy
