"""MACER: maximise the certified radius directly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .base import Method, register_method, require
from .search import Among, Between

if TYPE_CHECKING:
    from torch import Tensor


@register_method("macer")
@dataclass(frozen=True, kw_only=True)
class MACER(Method):
    """The sum over the batch of −log F̄_y, and of λ (σ/2) (γ − ξ) where an image counts, divided by the batch.

    F̄ = mean_i softmax(f(x + ε_i)). ξ = Φ⁻¹(p1) − Φ⁻¹(p2), where p1 ≥ p2 are the two largest of
    mean_i softmax(β f(x + ε_i)). An image counts where p1 is the label's and ξ is finite and at most γ.
    """

    title: ClassVar[str] = "MACER"
    source: ClassVar[str] = "Zhai et al. 2020; thesis Eq. 3.3"
    minibatches: ClassVar[bool] = False
    search: ClassVar[Mapping[str, Between | Among]] = {
        "strength": Between(1.0, 24.0, log=True),
        "inverse_temperature": Between(4.0, 64.0, log=True),
        "margin": Between(2.0, 16.0, log=True),
    }

    copies: int = 16
    strength: float = 12.0
    """λ, weight of the robustness term."""
    inverse_temperature: float = 16.0
    """β of the robustness term's softmax."""
    margin: float = 8.0
    """γ, the hinge: a larger ξ is not pushed further."""
    start_epoch: int = 0
    """First epoch with the robustness term; before it λ is 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "strength", self.strength >= 0, "at least 0")
        require(self, "inverse_temperature", self.inverse_temperature > 0, "above 0")
        require(self, "margin", self.margin > 0, "above 0")
        require(self, "start_epoch", self.start_epoch >= 0, "at least 0")

    @property
    def begins(self) -> int:
        """As the class says."""
        return self.start_epoch if self.strength else 0

    def loss(self, logits: Tensor, labels: Tensor, *, sigma: float, epoch: int) -> Tensor:
        """What the class says, with λ = 0 before `start_epoch`; arguments as for `Method.loss`."""
        mean = logits.softmax(dim=-1).mean(dim=0)
        cross_entropy = -(mean.gather(1, labels[:, None]).squeeze(1) + 1e-10).log()
        if self.strength == 0 or epoch < self.start_epoch:
            return cross_entropy.mean()
        robustness = sigma / 2 * self._hinge(logits, labels).sum() / len(labels)
        return cross_entropy.mean() + self.strength * robustness

    def _hinge(self, logits: Tensor, labels: Tensor) -> Tensor:
        """γ − ξ of each image that counts, 0 of the others, (batch,)."""
        import torch

        mean = (self.inverse_temperature * logits).softmax(dim=-1).mean(dim=0)
        top, classes = mean.topk(2, dim=-1)
        with torch.no_grad():
            xi = torch.special.ndtri(top[:, 0]) - torch.special.ndtri(top[:, 1])
            kept = (classes[:, 0] == labels) & xi.isfinite() & (xi.abs() <= self.margin)
        # Where p1 rounds to 1 or p2 to 0, Φ⁻¹ is infinite and its gradient NaN: something harmless stands there before
        # it is differentiated. To pick the images that count would be to wait for an accelerator to say how many.
        top = torch.where(kept[:, None], top, 0.5)
        hinge: Tensor = self.margin - (torch.special.ndtri(top[:, 0]) - torch.special.ndtri(top[:, 1]))
        return torch.where(kept, hinge, 0)
