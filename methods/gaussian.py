"""Gaussian augmentation, the baseline, with and without the linear decomposition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .base import Method, register_method

if TYPE_CHECKING:
    from torch import Tensor


@register_method("gaussian")
@dataclass(frozen=True, kw_only=True)
class Gaussian(Method):
    """Cross-entropy on noise samples: mean_i CE(f(x + ε_i), y)."""

    title: ClassVar[str] = "Gaussian"
    source: ClassVar[str] = "Cohen, Rosenfeld & Kolter 2019"

    def loss(self, logits: Tensor, labels: Tensor, *, sigma: float, epoch: int) -> Tensor:  # noqa: ARG002
        """The cross-entropy, whatever σ and epoch; arguments as for `Method.loss`."""
        return per_sample_cross_entropy(logits, labels)


@register_method("gaussian_ld")
@dataclass(frozen=True, kw_only=True)
class GaussianLD(Gaussian):
    """Gaussian augmentation behind the linear decomposition."""

    title: ClassVar[str] = "Gaussian+LD"
    source: ClassVar[str] = "thesis section 4.2"
    variant_of: ClassVar[str | None] = "gaussian"
    decomposition: ClassVar[bool] = True


def per_sample_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over copies and images of CE(f(x + ε_i), y), in nats; logits (m, batch, num_classes), labels (batch,)."""
    import torch.nn.functional as F

    copies = logits.shape[0]
    return F.cross_entropy(logits.flatten(0, 1), labels.repeat(copies))
