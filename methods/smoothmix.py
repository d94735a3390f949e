"""SmoothMix: less confidence along the way to where an attack leads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .attack import SMALLEST_MEAN, TINY, gradient, norms, projected, smoothed_loss
from .base import Method, TrainingStep, register_method, require
from .gaussian import per_sample_cross_entropy
from .search import Among, Between

if TYPE_CHECKING:
    from torch import Tensor


@register_method("smoothmix")
@dataclass(frozen=True, kw_only=True)
class SmoothMix(Method):
    """mean_i CE(f(near + ε_i), y) + η h [argmax F̄ = y] mean_i KL((1 − v) F̄ + v / c ‖ F(mix + ε_i)), with
    mix = (1 − v) near + v far, F̄ = mean_i F(near + ε_i), and v uniform on [0, 1/2) for each image.

    far: `steps` steps of length `step_size` from x up the smoothed classifier's loss, in evaluation mode, without a
    ball around x. near: `mix_step` of them, at most h · `step_size` · `mix_step` from x. h grows linearly to 1 over the
    first `warmup_epochs`. The gradient also flows through F̄ in the target; the two items have a forward pass each.
    """

    title: ClassVar[str] = "SmoothMix"
    source: ClassVar[str] = "Jeong et al. 2021"
    search: ClassVar[Mapping[str, Between | Among]] = {
        "strength": Between(0.5, 20.0, log=True),
        "step_size": Between(0.125, 2.0, log=True),
        "mix_step": Among((0, 1)),
        "warmup_epochs": Between(1, 10, log=True),
    }

    copies: int = 2
    steps: int = 4
    """T, of the attack."""
    step_size: float = 0.5
    """α, the length of a step, ℓ2 in [0, 1] pixel units."""
    mix_step: int = 0
    """Steps of the attack at which the image is classified: 0 for the image itself, or 1."""
    strength: float = 5.0
    """η, weight of the divergence at the mixed image."""
    warmup_epochs: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "steps", self.steps >= 1, "at least 1")
        require(self, "step_size", self.step_size >= 0, "at least 0")
        require(self, "mix_step", 0 <= self.mix_step <= self.steps, f"from 0 to steps = {self.steps}")
        require(self, "strength", self.strength >= 0, "at least 0")
        require(self, "warmup_epochs", self.warmup_epochs >= 1, "at least 1")

    @property
    def uniforms(self) -> int:
        """v, as `Method.uniforms`."""
        return 1

    def training_loss(self, step: TrainingStep) -> Tensor:
        """The mean over the images of what the class says; the second item, too, is over all of them."""
        warmth = min(1.0, (step.epoch + 1) / self.warmup_epochs)
        near, far = self._attacked(step, warmth)
        logits = step.train(near + step.noise)
        mean = logits.softmax(dim=-1).mean(dim=0)
        share = step.uniforms[0] / 2
        at = share[:, None, None, None]
        mixed = step.train((1 - at) * near + at * far + step.noise).log_softmax(dim=-1)
        target = (1 - share[:, None]) * mean + share[:, None] / mean.shape[-1]
        divergence = (target * (target.clamp(min=SMALLEST_MEAN).log() - mixed.mean(dim=0))).sum(dim=-1)
        correct = (mean.argmax(dim=-1) == step.labels).to(mean.dtype)
        accuracy = per_sample_cross_entropy(logits, step.labels)
        return accuracy + self.strength * warmth * (correct * divergence).mean()

    def _attacked(self, step: TrainingStep, warmth: float) -> tuple[Tensor, Tensor]:
        """near and far, (batch, channel, height, width)."""
        path = [step.images]
        for _ in range(self.steps):
            x = path[-1].detach().requires_grad_()
            loss = smoothed_loss(step.attack(x + step.noise), step.labels).sum()
            uphill = gradient(loss, x)
            path.append((x + self.step_size * uphill / (norms(uphill) + TINY)).detach().clamp(0, 1))
        if not self.mix_step:
            return step.images, path[-1]
        moved = projected(path[self.mix_step] - step.images, warmth * self.step_size * self.mix_step)
        return (step.images + moved).clamp(0, 1), path[-1]
