"""Sun et al. 2025: training that raises ACR by leaving hard images out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, ClassVar

from .attack import TINY, gradient, norms
from .base import Method, TrainingStep, register_method, require
from .gaussian import per_sample_cross_entropy
from .search import Among, Between

if TYPE_CHECKING:
    from torch import Generator, Tensor

LEVEL = 0.1
"""Of the one-sided Clopper–Pearson bound behind an image's weight."""


@register_method("sun")
@dataclass(frozen=True, kw_only=True)
class Sun(Method):
    """mean_i CE(f(x + d_i), y): Gaussian training, which from epoch `start_epoch` on leaves hard images out, draws easy
    ones more often, and attacks the noise on its sphere.

    Left out, once and for good: images of whose noise samples a share below `keep_above` is classified as the label.
    The others are drawn with replacement, in proportion to Φ⁻¹ of the lower bound on that probability, which is
    surveyed anew every `reweight_epochs`; fewer than 3/4 of hits count as 3/4. d_i is ε_i after `steps` steps of
    length `step_size` up the cross-entropy, each put back to norm ‖ε_i‖, as long as the copy is classified correctly.
    Weights, like the attack, as the published program has them, not as the paper prints them.
    """

    title: ClassVar[str] = "Sun et al."
    source: ClassVar[str] = "Sun et al. 2025, published code"
    search: ClassVar[Mapping[str, Between | Among]] = {
        "keep_above": Between(0.2, 0.6),
        "step_size": Between(0.0625, 1.0, log=True),
    }

    copies: int = 4
    start_epoch: int = 60
    keep_above: float = 0.5
    steps: int = 3
    """Of the attack; 0: none."""
    step_size: float = 0.25
    """ℓ2, in [0, 1] pixel units."""
    reweight_epochs: int = 10
    keep_copies: int = 100
    """Noise samples of each image that decide whether it stays."""
    weight_copies: int = 16
    """Noise samples of each image that decide its weight."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "start_epoch", self.start_epoch >= 0, "at least 0")
        require(self, "keep_above", 0 <= self.keep_above <= 1, "from 0 to 1")
        require(self, "steps", self.steps >= 0, "at least 0")
        require(self, "step_size", self.step_size >= 0, "at least 0")
        require(self, "reweight_epochs", self.reweight_epochs >= 1, "at least 1")
        require(self, "keep_copies", self.keep_copies >= 1, "at least 1")
        positive = self.weight_copies >= 1 and _surely_above_half(self._fewest_hits, self.weight_copies)
        require(self, "weight_copies", positive, "so many that 3/4 of hits have a weight above 0, such as 16")

    @property
    def begins(self) -> int:
        """As the class says."""
        return self.start_epoch

    @property
    def _fewest_hits(self) -> int:
        return math.ceil(0.75 * self.weight_copies)

    def training_loss(self, step: TrainingStep) -> Tensor:
        """The mean over the images of what the class says."""
        noise = self._attacked(step) if step.epoch >= self.start_epoch else step.noise
        return per_sample_cross_entropy(step.train(step.images + noise), step.labels)

    def _attacked(self, step: TrainingStep) -> Tensor:
        import torch
        import torch.nn.functional as F

        attacked, length = step.noise, norms(step.noise)
        labels = step.labels.repeat(len(step.noise))
        going = torch.ones_like(length, dtype=torch.bool)
        for _ in range(self.steps):
            at = attacked.detach().requires_grad_()
            logits = step.attack(step.images + at)
            going = going & (logits.argmax(dim=-1) == step.labels)[..., None, None, None]
            uphill = gradient(F.cross_entropy(logits.flatten(0, 1), labels, reduction="sum"), at)
            moved = at.detach() + self.step_size * uphill / (norms(uphill) + TINY)
            attacked = torch.where(going, length * moved / (norms(moved) + TINY), attacked)
        return attacked

    def before_epoch(
        self, epoch: int, memory: dict[str, Tensor], labels: Tensor, votes: Callable[[int], Tensor]
    ) -> dict[str, Tensor]:
        """`kept` (images,), bool, from `start_epoch` on, and `hits` (images,), int64, among `weight_copies`.

        Raises:
            ValueError: no image stays.
        """

        def hits(copies: int) -> Tensor:
            return votes(copies).gather(1, labels[:, None]).squeeze(1)

        since = epoch - self.start_epoch
        if since < 0 or since % self.reweight_epochs:
            return memory
        kept = hits(self.keep_copies).double() / self.keep_copies >= self.keep_above if since == 0 else memory["kept"]
        if not kept.any():
            raise ValueError(
                f"of no training image a share of {self.keep_above:g} of the noise samples is classified correctly: "
                "lower keep_above, or raise start_epoch"
            )
        return memory | {"kept": kept, "hits": hits(self.weight_copies)}

    def order(self, count: int, memory: Mapping[str, Tensor], generator: Generator) -> Tensor:
        """A permutation before `start_epoch`; then as many images with replacement, by their weights."""
        if "kept" not in memory:
            return super().order(count, memory, generator)
        weights = self.weights(memory["hits"]) * memory["kept"]
        return weights.multinomial(count, replacement=True, generator=generator)

    def weights(self, hits: Tensor) -> Tensor:
        """Φ⁻¹(LCB(max(hits, 3/4 n), n)) for hits among n = `weight_copies`: (images,) -> (images,), float64."""
        import torch
        from scipy.stats import beta

        copies, fewest = self.weight_copies, self._fewest_hits
        bounds = [float(beta.ppf(LEVEL, count, copies - count + 1)) for count in range(fewest, copies + 1)]
        by_hits = torch.tensor([NormalDist().inv_cdf(bound) for bound in bounds], dtype=torch.float64)
        return by_hits.to(hits.device)[hits.clamp(min=fewest) - fewest]


def _surely_above_half(hits: int, copies: int) -> bool:
    """Whether the lower bound of so many hits is above 1/2: P(Binomial(copies, 1/2) ≥ hits) < LEVEL."""
    tail: int = sum(math.comb(copies, count) for count in range(hits, copies + 1))
    return tail < LEVEL * float(2**copies)
