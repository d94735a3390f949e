"""The smoothed classifier g(x) = most likely class of f(x + ε), ε ~ N(0, σ²I), and its certificates.

    smoothed = Smoothed(model, sigma=0.25, num_classes=10)
    certificates = smoothed.certify(images, n0=100, n=100_000, alpha=0.001, seed=0)

Guarantee (Cohen, Rosenfeld & Kolter 2019, Theorem 1): with probability at least 1 − alpha over the noise, no
perturbation of ℓ2 norm below `radius` changes the answer of g at this image.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.hardware import resolve_precision
from bench.models import Classifier
from bench.randomness import Role, generator
from bench.settings import Precision
from results.bounds import certified_radius, lower_confidence_bound

ABSTAIN = -1
BLOCK = {"cpu": 256, "cuda": 2048}
"""Noisy copies per forward pass and per random stream. Fixed for a kind of device: counts depend on it."""


@dataclass(frozen=True)
class Certificate:
    """What is known of the smoothed classifier at one image."""

    predicted: int
    """The class, or −1: abstained."""
    radius: float
    """ℓ2, [0, 1] pixel units; 0 where abstained."""
    p_lower: float
    """Lower confidence bound on the probability of `selected`, at confidence 1 − alpha."""
    selected: int
    """The class that the n0 copies chose."""
    count_top: int
    """counts[selected]."""
    counts: tuple[int, ...]
    """How often each class was the answer among the n copies."""
    n: int
    n0: int
    alpha: float
    seconds: float


class Smoothed:
    """A base classifier under Gaussian noise."""

    def __init__(
        self,
        model: nn.Module,
        sigma: float,
        num_classes: int,
        *,
        precision: Precision = "auto",
        device: torch.device | str | None = None,
    ) -> None:
        """
        Args:
            model: from images (batch, channel, height, width) in [0, 1] to logits (batch, num_classes). It is copied;
                the copy is put into evaluation mode.
            sigma: standard deviation of the noise, in pixel units; added before any normalisation, never clipped.
            num_classes: number of logits, at least 2.
            precision: "fp32", "bf16", or "auto": bf16 where the device has matrix units for it. The certified
                classifier is the one in that precision.
            device: where to compute; an accelerator if there is one.

        Raises:
            ValueError: sigma or num_classes out of range.
        """
        if not 0 < sigma < float("inf"):
            raise ValueError(f"sigma = {sigma}: must be above 0")
        if num_classes < 2:
            raise ValueError(f"num_classes = {num_classes}: must be at least 2")
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.precision = resolve_precision(precision, self.device)
        self.sigma = sigma
        self.num_classes = num_classes
        self.block = BLOCK.get(self.device.type, BLOCK["cpu"])
        model = copy.deepcopy(model).to(self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self._decomposition = model.decomposition if isinstance(model, Classifier) else None
        # Noise is drawn behind the decomposition, below, so the projection has happened already.
        self._classify: Callable[[Tensor], Tensor] = (
            model.after_decomposition if isinstance(model, Classifier) else model
        )

    def certify(
        self,
        images: Tensor,
        *,
        n0: int = 100,
        n: int = 100_000,
        alpha: float = 0.001,
        seed: int = 0,
        indices: Sequence[int] | None = None,
    ) -> list[Certificate]:
        """CERTIFY for each image.

        Args:
            images: (count, channel, height, width), float in [0, 1].
            n0: copies that select the class.
            n: fresh copies that estimate its probability.
            alpha: probability that a certificate is wrong.
            seed: of the noise; an image's counts depend on it, on its index and on n0 and n, and on nothing else.
            indices: the index of each image in the noise streams; 0, 1, … where not given.

        Raises:
            ValueError: an argument out of range, images outside [0, 1], or logits that are NaN or of another number.
        """
        return list(self.iter_certify(images, n0=n0, n=n, alpha=alpha, seed=seed, indices=indices))

    def iter_certify(
        self, images: Tensor, *, n0: int, n: int, alpha: float, seed: int, indices: Sequence[int] | None = None
    ) -> Iterator[Certificate]:
        """As `certify`, one certificate at a time."""
        if n0 < 1 or n < 1:
            raise ValueError(f"n0 = {n0} and n = {n}: both must be at least 1")
        if not 0 < alpha < 1:
            raise ValueError(f"alpha = {alpha}: must be above 0 and below 1")
        self._check_images(images)
        for image, index in zip(images, range(len(images)) if indices is None else indices, strict=True):
            started = time.perf_counter()
            selected = int(self.noisy_class_counts(image, n0, seed, Role.SELECT, index).argmax())
            counts = tuple(self.noisy_class_counts(image, n, seed, Role.ESTIMATE, index).tolist())
            p_lower = float(lower_confidence_bound(counts[selected], n, alpha))
            yield Certificate(
                predicted=selected if p_lower >= 0.5 else ABSTAIN,
                radius=float(certified_radius(p_lower, self.sigma)),
                p_lower=p_lower,
                selected=selected,
                count_top=counts[selected],
                counts=counts,
                n=n,
                n0=n0,
                alpha=alpha,
                seconds=time.perf_counter() - started,
            )

    def predict(
        self,
        images: Tensor,
        *,
        n: int = 1000,
        alpha: float = 0.001,
        seed: int = 0,
        indices: Sequence[int] | None = None,
    ) -> list[int]:
        """PREDICT: the most frequent class of each image, or −1 (abstain).

        An answer differs from g's with probability at most alpha: the two-sided binomial test of the two largest
        counts (Cohen et al. 2019, section 3.2.1). Arguments and errors as in `certify`.
        """
        from scipy.stats import binomtest

        if n < 1 or not 0 < alpha < 1:
            raise ValueError(f"n = {n} must be at least 1 and alpha = {alpha} between 0 and 1")
        self._check_images(images)
        answers = []
        for image, index in zip(images, range(len(images)) if indices is None else indices, strict=True):
            top, classes = self.noisy_class_counts(image, n, seed, Role.PREDICT, index).topk(2)
            first, second = top.tolist()
            sure = binomtest(first, first + second, 0.5).pvalue <= alpha
            answers.append(int(classes[0]) if sure else ABSTAIN)
        return answers

    @torch.inference_mode()
    def noisy_class_counts(self, image: Tensor, n: int, seed: int, role: Role, index: int) -> Tensor:
        """How often each class is the answer among n noisy copies of one image: (num_classes,), int64, on the CPU.

        Copies are drawn and classified in blocks; block b of an image has a random stream of its own,
        (seed, role, index, b), and holds no copies of any other image.
        """
        image = image.to(self.device)
        counts = torch.zeros(self.num_classes, dtype=torch.int64, device=self.device)
        finite = torch.ones((), dtype=torch.bool, device=self.device)
        for block, first in enumerate(range(0, n, self.block)):
            size = min(self.block, n - first)
            noisy = self._noisy_copies(image, size, generator(self.device, seed, role, index, block))
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                logits = self._classify(noisy)
            if logits.shape != (size, self.num_classes):
                raise ValueError(f"the model gave logits {tuple(logits.shape)}, expected {(size, self.num_classes)}")
            finite &= ~logits.isnan().any()  # looked at once, after the last block: no synchronisation in between
            answers = logits.argmax(dim=1)
            counts.scatter_add_(0, answers, torch.ones_like(answers))
        if not finite:
            raise ValueError("the model gave NaN")
        return counts.cpu()

    def _noisy_copies(self, image: Tensor, count: int, draw: torch.Generator) -> Tensor:
        """x + ε, or its projection where there is a decomposition: (count, channel, height, width)."""
        if self._decomposition is not None:
            # W is orthonormal, so Wᵀε is N(0, σ²I): k numbers per copy have the distribution that 3072 would give.
            centre = self._decomposition.coordinates(image[None])
            noise = torch.randn((count, centre.shape[1]), generator=draw, device=self.device)
            noisy = self._decomposition.reconstruct(centre + self.sigma * noise, image.shape)
        else:
            noisy = image + self.sigma * torch.randn((count, *image.shape), generator=draw, device=self.device)
        return noisy.contiguous(memory_format=torch.channels_last) if noisy.ndim == 4 else noisy

    def _check_images(self, images: Tensor) -> None:
        if images.ndim != 4 or not images.is_floating_point():
            raise ValueError(f"images must be float (count, channel, height, width), got {tuple(images.shape)}")
        if len(images) and not (images.min() >= 0 and images.max() <= 1):
            raise ValueError("images must lie in [0, 1]")
