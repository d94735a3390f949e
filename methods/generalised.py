"""The thesis's generalised consistency, alone and behind the linear decomposition."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from .base import register_method, require
from .consistency import Consistency, divergence_and_entropy
from .gaussian import per_sample_cross_entropy

if TYPE_CHECKING:
    from torch import Tensor

Mask = Literal["mean_logits", "mean_probabilities"]
AccuracyItem = Literal["mean_logits", "mean_probabilities", "per_sample"]


@register_method("generalised")
@dataclass(frozen=True, kw_only=True)
class Generalised(Consistency):
    """CE(softmax(mean_i f(x + ε_i)), y) + λ [argmax mean_i f(x + ε_i) = y] mean_i KL(F̄ ‖ F_i) + η H(F̄).

    F̄ and F_i as in `Consistency`; no gradient flows through the bracket, which is 1 or 0.
    """

    title: ClassVar[str] = "Generalised consistency"
    source: ClassVar[str] = "thesis Eq. 4.1 and 4.3"

    copies: int = 4
    accuracy_item: AccuracyItem = "mean_logits"
    """What the cross-entropy is taken of: Eq. 4.3 (mean_logits), Eq. 4.2 (mean_probabilities), Eq. 3.5 (per_sample)."""
    mask: Mask = "mean_logits"
    """Whose largest item must be the label's for the bracket to be 1: the mean logits, as Eq. 4.3 has it, or F̄, as Eq.
    4.1 is printed."""
    mask_entropy: bool = False
    """Whether the entropy, too, counts only for images classified correctly. Eq. 4.1 as printed: no."""

    def __post_init__(self) -> None:
        super().__post_init__()
        items, masks = get_args(AccuracyItem), get_args(Mask)
        require(self, "accuracy_item", self.accuracy_item in items, f"one of {', '.join(items)}")
        require(self, "mask", self.mask in masks, f"one of {', '.join(masks)}")

    def loss(self, logits: Tensor, labels: Tensor, *, sigma: float, epoch: int) -> Tensor:  # noqa: ARG002
        """The mean over the images of what the class says, whatever σ and epoch; arguments as for `Method.loss`."""
        divergence, entropy = divergence_and_entropy(logits)
        deciding = logits if self.mask == "mean_logits" else logits.softmax(dim=-1)
        correct = (deciding.mean(dim=0).argmax(dim=-1) == labels).to(logits.dtype)
        if self.mask_entropy:
            entropy = entropy * correct
        regularisation = self.strength * correct * divergence + self.entropy_weight * entropy
        return self._accuracy_loss(logits, labels) + regularisation.mean()

    def _accuracy_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        import torch.nn.functional as F

        if self.accuracy_item == "mean_logits":
            return F.cross_entropy(logits.mean(dim=0), labels)
        if self.accuracy_item == "mean_probabilities":
            # log mean_i softmax_i without leaving log space, so that a confident mistake keeps its gradient
            log_mean = logits.log_softmax(dim=-1).logsumexp(dim=0) - math.log(len(logits))
            return F.nll_loss(log_mean, labels)
        return per_sample_cross_entropy(logits, labels)


@register_method("generalised_ld")
@dataclass(frozen=True, kw_only=True)
class GeneralisedLD(Generalised):
    """Generalised consistency behind the linear decomposition: the thesis's own method."""

    title: ClassVar[str] = "Ours"
    source: ClassVar[str] = "thesis sections 4.1 and 4.2"
    decomposition: ClassVar[bool] = True
