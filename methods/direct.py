"""Eq. 3.3 of the thesis, maximised directly, with the threshold of its section 3.2."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .base import Method, register_method, require
from .search import Among, Between

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST, LARGEST = 1e-20, 1 - 6e-8
"""Of g inside Φ⁻¹: float32 never sees 0 or 1 there."""


@register_method("direct")
@dataclass(frozen=True, kw_only=True)
class Direct(Method):
    """−log g − β Φ⁻¹(min(g, τ)), with g = mean_i F(x + ε_i)_y: the radius of the smoothed classifier itself.

    Above τ the robustness item has no gradient, the accuracy item keeps its own. All images count, right or wrong; no
    runner-up and no hinge, unlike MACER. Neither m nor β is given in the thesis: β = λσ of MACER's recipe makes the
    robustness items of the two alike where MACER's inverse temperature is 1 (its recipe has 16).
    """

    title: ClassVar[str] = "Direct"
    source: ClassVar[str] = "thesis Eq. 3.3 and section 3.2"
    search: ClassVar[Mapping[str, Between | Among]] = {
        "strength": Between(0.25, 16.0, log=True),
        "threshold": Among((0.9, 0.95, 0.98, 0.99, 0.999, 1.0)),
    }

    copies: int = 4
    strength: float = 2.0
    """β, weight of the robustness item."""
    threshold: float = 0.99
    """τ; 1 is no threshold."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "strength", self.strength >= 0, "at least 0")
        require(self, "threshold", 0 < self.threshold <= 1, "above 0 and at most 1")

    def loss(self, logits: Tensor, labels: Tensor, *, sigma: float, epoch: int) -> Tensor:  # noqa: ARG002
        """The mean over the images of what the class says, whatever σ and epoch; arguments as for `Method.loss`."""
        import torch

        log_mean = logits.log_softmax(dim=-1).logsumexp(dim=0) - math.log(len(logits))
        log_label = log_mean.gather(1, labels[:, None]).squeeze(1)
        # Clamped first: the derivative of Φ⁻¹ is infinite at 1, and infinity times 0 is no number.
        inside = log_label.exp().clamp(SMALLEST, min(self.threshold, LARGEST))
        loss: Tensor = (-log_label - self.strength * torch.special.ndtri(inside)).mean()
        return loss
