"""CAT-RS: confidence-aware training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .attack import TINY, gradient, norms, projected
from .base import Method, TrainingStep, register_method, require
from .search import Among, Between

if TYPE_CHECKING:
    from torch import Tensor


@register_method("cat_rs")
@dataclass(frozen=True, kw_only=True)
class CatRS(Method):
    """Σ_{k ≤ K} CE_(k) / m + λ [K = m] max_j KL(p ‖ F(x + d_j)): low-confidence images learn from their easiest copies,
    the others also from their worst.

    CE_(1) ≤ … ≤ CE_(m) are the cross-entropies of the m copies. K = max(1, Binomial(m, w)), with w the share of copies
    that are classified correctly. d_j is the noise of copy j, attacked for itself in evaluation mode within `radius` of
    it; mean and mean square of the noise are kept. p: the votes of a Gaussian model of σ = .25, whatever σ is trained.
    """

    title: ClassVar[str] = "CAT-RS"
    source: ClassVar[str] = "Jeong, Kim & Shin 2023"
    teacher_method: ClassVar[str | None] = "gaussian"
    search: ClassVar[Mapping[str, Between | Among]] = {
        "strength": Between(0.0625, 4.0, log=True),
        "radius": Between(0.125, 2.0, log=True),
    }

    copies: int = 4
    steps: int = 4
    """T, of the attack."""
    radius: float = 1.0
    """ε, around the noise of a copy, ℓ2 in [0, 1] pixel units."""
    strength: float = 0.5
    """λ, weight of the worst copy's divergence."""
    teacher_copies: int = 10_000
    """Noise samples of each training image on which the teacher votes, once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "steps", self.steps >= 1, "at least 1")
        require(self, "radius", self.radius >= 0, "at least 0")
        require(self, "strength", self.strength >= 0, "at least 0")
        require(self, "teacher_copies", self.teacher_copies >= 1, "at least 1")

    @property
    def uniforms(self) -> int:
        """Of each copy, as `Method.uniforms`: u < w is a success of the binomial."""
        return self.copies

    def training_loss(self, step: TrainingStep) -> Tensor:
        """The mean over the images of what the class says."""
        votes = step.memory["votes"].to(step.images.dtype)
        target = votes / votes.sum(dim=1, keepdim=True)
        logits = step.train(step.images + step.noise)
        low, confident = self._low(logits, step)
        attacked = self._attacked(step, target)
        high = divergence(target, step.train(step.images + attacked)).amax(dim=0)
        return (low + self.strength * confident * high).mean()

    def _low(self, logits: Tensor, step: TrainingStep) -> tuple[Tensor, Tensor]:
        """The mean over m of the K smallest cross-entropies, and 1 where K = m, else 0; (batch,) both."""
        import torch
        import torch.nn.functional as F

        copies, labels = len(logits), step.labels
        losses = F.cross_entropy(logits.flatten(0, 1), labels.repeat(copies), reduction="none").view(copies, -1)
        share = (logits.argmax(dim=-1) == labels).to(logits.dtype).mean(dim=0)
        kept = (step.uniforms < share).sum(dim=0).clamp(min=1)
        rank = torch.arange(copies, device=kept.device)[:, None]
        low = torch.where(rank < kept, losses.sort(dim=0).values, 0).sum(dim=0) / copies
        return low, (kept == copies).to(low.dtype)

    def _attacked(self, step: TrainingStep, target: Tensor) -> Tensor:
        noise = attacked = step.noise
        mean, square = moments(noise)
        for _ in range(self.steps):
            at = attacked.detach().requires_grad_()
            loss = divergence(target, step.attack(step.images + at)).mean(dim=0).sum()
            uphill = gradient(loss, at)
            moved = at.detach() + 2 * self.radius / self.steps * uphill / (norms(uphill) + TINY)
            inside = noise + projected(moved - noise, self.radius)
            mean_now, square_now = moments(inside)
            attacked = mean + (inside - mean_now) * (square / square_now)
        return attacked


def divergence(target: Tensor, logits: Tensor) -> Tensor:
    """KL(target ‖ softmax(logits)), with 0 log 0 = 0: (batch, num_classes), (m, batch, num_classes) -> (m, batch)."""
    import torch

    entropy: Tensor = torch.special.xlogy(target, target).sum(dim=-1)
    return entropy - (target * logits.log_softmax(dim=-1)).sum(dim=-1)


def moments(noise: Tensor) -> tuple[Tensor, Tensor]:
    """Mean, and root of the mean square about 0, of the numbers of each copy: (…, channel, height, width) -> both
    (…, 1, 1, 1)."""
    numbers = noise.flatten(-3)
    mean, square = numbers.mean(dim=-1), numbers.square().mean(dim=-1).sqrt()
    return mean[..., None, None, None], square[..., None, None, None]
