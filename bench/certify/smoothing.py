"""The smoothed classifier g(x) = most likely class of f(x + ε), ε ~ N(0, σ²I), and its certificates.

    smoothed = Smoothed(model, sigma=0.25, num_classes=10)
    certificates = smoothed.certify(images, CertifySettings(n0=100, n=100_000, alpha=0.001), seed=0)

Guarantee (Cohen, Rosenfeld & Kolter 2019, Theorem 1): with probability at least 1 − alpha over the noise, no
perturbation of ℓ2 norm below `radius` changes the answer of g at this image.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from bench.certify.engine import Engine
from bench.certify.lattice import LatticeSamples
from bench.certify.noise import NoiseSamples
from bench.machine.advance import advance
from bench.machine.devices import own_device
from bench.machine.hardware import resolve_precision
from bench.machine.randomness import Role
from bench.models.classifier import Classifier
from bench.models.external import ModelError
from results.bounds.lattice import debited, is_certified
from results.bounds.radius import certifying_count, lower_confidence_bound
from results.bounds.two_stage import sufficient_samples
from results.errors import BenchError
from results.store.rows import Status
from results.store.settings import Arithmetic, CertifySettings, Composition, Estimator, Precision

ABSTAIN = -1
USUAL = CertifySettings()
PREDICT_ALPHA = 0.001
"""Probability that an answer of PREDICT is not that of g, where none is given."""
INTERIM_ANALYSES = 20
"""An estimation is judged at every 20th of its samples, in its second half: abstention may be certain by then."""
Draw = Callable[..., Iterator[Tensor]]
"""What `Smoothed.drawing` gives."""


@dataclass(frozen=True)
class Certificate:
    """What is known of the smoothed classifier at one image."""

    status: Status
    """certified; abstained; or misclassified: the selected class is not the label, and nothing was estimated."""
    predicted: int
    """The class, or −1: none is certified."""
    radius: float
    """ℓ2, [0, 1] pixel units; 0 unless certified."""
    p_lower: float
    """Lower confidence bound on the probability of `selected`, at confidence 1 − alpha."""
    selected: int
    """The class that the n0 samples chose: the first of the most frequent."""
    selection_counts: list[int]
    """How often each class was the answer among the n0 samples."""
    count_top: int
    """counts[selected]."""
    counts: list[int]
    """How often each class was the answer among the n samples."""
    n: int
    """Samples that were drawn; fewer than asked for where abstention was certain earlier, or by the estimator."""
    n0: int
    alpha: float
    estimator: Estimator
    lattice_pixels: int | None
    """Numbers of the image, where arithmetic is sound."""
    engine: str
    """inductor (compiled) or eager; their roundings differ."""
    batch: int
    """Samples of a forward pass; roundings differ with it too."""
    seconds: float
    composition: Composition | None = None
    """How the classifier is composed of others; None: it is not, and neither is what follows, which
    `results.store.rows.CertificateRow` describes."""
    alpha_shares: int | None = None
    sigma_input: float | None = None
    classifier_radius: float | None = None
    selector_sigmas: list[float] | None = None
    selector_selection_counts: list[int] | None = None
    selector_counts: list[int] | None = None
    selector_radius: float | None = None


class Smoothed:
    """A base classifier under Gaussian noise."""

    def __init__(
        self,
        model: nn.Module,
        sigma: float,
        num_classes: int,
        *,
        precision: Precision = "auto",
        arithmetic: Arithmetic = "float",
        device: torch.device | str | None = None,
    ) -> None:
        """
        Args:
            model: from images (batch, …) in [0, 1], usually (batch, channel, height, width), to logits
                (batch, num_classes), a function of each image alone. It is copied, and the copy is put into evaluation
                mode; where it cannot be copied, it is itself.
            sigma: standard deviation of the noise, in pixel units; added before any normalisation, never clipped.
            num_classes: number of logits, at least 2.
            precision: "fp32", "bf16", or "auto": bf16 where the device has matrix units for it. The certified
                classifier is the one in that precision.
            arithmetic: "float", or "sound": noise on a lattice, drawn by integers, so that certificates hold in
                floating point whatever the classifier is (`results.bounds.lattice`); radii are a little smaller.
            device: where to compute; an accelerator if there is one.

        cuDNN is told for the whole process to compute deterministically, and without TF32: "fp32" is fp32.

        Raises:
            ValueError: sigma, num_classes or precision out of range.
            ModelError: the model cannot be put on the device.
            DeviceError: none is given, and `own_device` cannot be used.
        """
        if not 0 < sigma < float("inf"):
            raise ValueError(f"sigma = {sigma}: must be above 0")
        if num_classes < 2:
            raise ValueError(f"num_classes = {num_classes}: must be at least 2")
        if precision not in ("auto", "fp32", "bf16"):
            raise ValueError(f"precision = {precision!r}: must be auto, fp32 or bf16")
        self.device = torch.device(device) if device else own_device()
        self.precision = resolve_precision(precision, self.device)
        self.sigma = sigma
        self.num_classes = num_classes
        self.arithmetic = arithmetic
        self._samples: NoiseSamples | LatticeSamples
        if arithmetic == "sound":  # what the classifier sees is a function of the lattice point: all of it comes after
            self.engine = Engine(model, self.device, self.precision)
            self._samples = LatticeSamples(sigma, self.device)
            return
        decomposition = model.decomposition if isinstance(model, Classifier) else None
        # Noise is drawn behind the decomposition, so the projection has happened already.
        rest = model.without_decomposition() if isinstance(model, Classifier) else model
        self.engine = Engine(rest, self.device, self.precision)
        self._samples = NoiseSamples(sigma, self.device, decomposition, self.precision)

    def certify(
        self,
        images: Tensor,
        settings: CertifySettings = USUAL,
        *,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        labels: Sequence[int] | None = None,
    ) -> list[Certificate]:
        """CERTIFY for each image.

        Args:
            images: (count, channel, height, width), or of another shape that the model takes; float in [0, 1].
            settings: n0, n, alpha, estimator and skip_misclassified are used. From n = 10 000 on the classifier is
                compiled first.
            seed: of the noise; an image's counts depend on it, on its index and on n0 and n, and on nothing else.
            indices: the index of each image in the noise streams; 0, 1, … where not given.
            labels: where given, and unless settings say otherwise, an image whose selected class is not its label is
                not estimated: it counts neither in certified accuracy nor in ACR, whatever its probabilities.

        Raises:
            ValueError: images outside [0, 1].
            ModelError: the model fails, gives NaN or another number of logits, or its answers are not those of a
                function of the image.
        """
        return list(self.iter_certify(images, settings, seed=seed, indices=indices, labels=labels))

    def iter_certify(
        self,
        images: Tensor,
        settings: CertifySettings,
        *,
        seed: int,
        indices: Sequence[int] | None = None,
        labels: Sequence[int] | None = None,
    ) -> Iterator[Certificate]:
        """As `certify`, one certificate at a time."""
        check_images(images)
        shape = images.shape[1:]
        _, engine = self.engine.classifier(shape, settings.n)
        passes = self.engine.passes(shape)
        places = range(len(images)) if indices is None else indices
        pixels = self.lattice_pixels(shape)
        targets = labels if labels is not None and settings.skip_misclassified else [None] * len(images)
        for image, index, label in zip(images, places, targets, strict=True):
            started = time.perf_counter()
            draw = self.drawing(image, settings, seed=seed, index=index)
            selection = next(draw([settings.n0], role=Role.SELECT))
            selected = int(selection.argmax())
            status: Status
            if label is not None and selected != label:
                status, drawn, counts, p_lower, radius = "misclassified", 0, [0] * self.num_classes, 0.0, 0.0
            else:
                drawn, counts = self.estimate(draw, shape, selection, settings)
                bound = lower_confidence_bound(counts[selected], drawn, settings.alpha)
                p_lower, radius = map(float, debited(bound, self.sigma, math.nan if pixels is None else pixels))
                status = "certified" if is_certified(p_lower, radius, pixels) else "abstained"
            yield Certificate(
                status=status,
                predicted=selected if status == "certified" else ABSTAIN,
                radius=radius,
                p_lower=p_lower,
                selected=selected,
                selection_counts=selection.tolist(),
                count_top=counts[selected],
                counts=counts,
                n=drawn,
                n0=settings.n0,
                alpha=settings.alpha,
                estimator=settings.estimator,
                lattice_pixels=pixels,
                engine=engine,
                batch=passes,
                seconds=time.perf_counter() - started,
            )

    def predict(
        self,
        images: Tensor,
        *,
        n: int = 1000,
        alpha: float = PREDICT_ALPHA,
        seed: int = 0,
        indices: Sequence[int] | None = None,
    ) -> list[int]:
        """PREDICT: the most frequent class of each image, or −1 (abstain).

        An answer differs from g's with probability at most alpha: the two-sided binomial test of the two largest
        counts (Cohen et al. 2019, section 3.2.1). Arguments and errors as in `certify`.
        """
        check_images(images)
        places = range(len(images)) if indices is None else indices
        return [
            self.predict_moved(image, n=n, alpha=alpha, seed=seed, index=index)
            for image, index in zip(images, places, strict=True)
        ]

    def predict_moved(self, image: Tensor, *, n: int, seed: int, index: int, alpha: float = PREDICT_ALPHA) -> int:
        """PREDICT for one image that may lie outside [0, 1], such as an attacked one."""
        from scipy.stats import binomtest

        check_prediction(n, alpha)
        top, classes = self.class_counts(image, n, seed, Role.PREDICT, index).topk(2)
        first, second = top.tolist()
        sure = binomtest(first, first + second, 0.5).pvalue <= alpha
        return int(classes[0]) if sure else ABSTAIN

    def class_counts(self, image: Tensor, n: int, seed: int, role: Role, index: int) -> Tensor:
        """How often each class is the answer among n noise samples of one image: (num_classes,), int64, on the CPU."""
        classify, _ = self.engine.classifier(image.shape, n)
        return next(self._cumulative_counts(classify, image, [n], role=role, seed=seed, index=index))

    @property
    def engines(self) -> tuple[Engine, ...]:
        """What classifies its noise samples."""
        return (self.engine,)

    def lattice_pixels(self, shape: torch.Size) -> int | None:
        """Numbers of an image, where arithmetic is sound."""
        return shape.numel() if self.arithmetic == "sound" else None

    def drawing(self, image: Tensor, settings: CertifySettings, *, seed: int, index: int) -> Draw:
        """What gives the counts of the first sizes[0], sizes[1], … noise samples of an image, (num_classes,) each, when
        it is called with the sizes and the role of the samples."""
        classify, _ = self.engine.classifier(image.shape, settings.n)
        return partial(self._cumulative_counts, classify, image, seed=seed, index=index)

    def estimate(
        self, draw: Draw, shape: torch.Size, selection: Tensor, settings: CertifySettings
    ) -> tuple[int, list[int]]:
        """Samples drawn and their counts: as many as the estimator asks for, or fewer where abstention is certain."""
        selected, n = int(selection.argmax()), planned_samples(selection, settings)
        needed = certifying_count(n, settings.alpha)
        sizes = sorted({*range(n // 2, n, max(self.engine.batch(shape), n // INTERIM_ANALYSES)), n} - {0})
        for drawn, counts in zip(sizes, draw(sizes, role=Role.ESTIMATE), strict=True):
            if drawn == n or int(counts[selected]) + n - drawn < needed:  # certain to abstain
                return drawn, counts.tolist()
        raise AssertionError("the last analysis is at n")

    @torch.inference_mode()
    def _cumulative_counts(
        self,
        classify: Callable[[Tensor], Tensor],
        image: Tensor,
        sizes: Sequence[int],
        *,
        role: Role,
        seed: int,
        index: int,
    ) -> Iterator[Tensor]:
        """The counts (num_classes,), int64, on the CPU, of the first sizes[0], sizes[1], … samples of an image.

        No batch holds samples of another image. The device is waited for at these sizes only.
        """
        counts = torch.zeros(self.num_classes, dtype=torch.int64, device=self.device)
        finite = torch.ones((), dtype=torch.bool, device=self.device)
        batch = self.engine.batch(image.shape)
        batches = self._samples.batches(image, batch, seed, role, index)
        answers = torch.empty(0, dtype=torch.int64, device=self.device)
        drawn = 0
        for size in sizes:
            while drawn < size:
                if not len(answers):
                    advance.steps += 1
                    answers = self._answers(classify(next(batches)), batch, finite)
                taken = answers[: size - drawn]
                counts.scatter_add_(0, taken, torch.ones_like(taken))
                answers = answers[len(taken) :]
                drawn += len(taken)
            if not finite:
                raise ModelError("the model gave NaN")
            yield counts.to("cpu", copy=True)

    def _answers(self, logits: Tensor, batch: int, finite: Tensor) -> Tensor:
        expected = (batch, self.num_classes)
        if logits.shape != expected:
            raise ModelError(f"the model gave logits {tuple(logits.shape)}, expected {expected}")
        finite &= ~logits.isnan().any()
        return logits.argmax(dim=1)


def planned_samples(selection: Tensor, settings: CertifySettings) -> int:
    """The samples that the estimator asks for, given those of the selection."""
    if settings.estimator == "two-stage":
        return sufficient_samples(int(selection.max()), settings.n0, settings.n, settings.alpha)
    return settings.n


def check_prediction(n: int, alpha: float) -> None:
    """Raise BenchError where PREDICT with n samples is not possible, or abstains whatever the samples say."""
    if n < 1 or not 0 < alpha < 1:
        raise BenchError(f"n = {n} must be at least 1 and alpha = {alpha} between 0 and 1")
    if 2 * 0.5**n > alpha:  # the p-value of n samples that all agree
        raise BenchError(
            f"n = {n} with alpha = {alpha:g}: abstains on every image, even one on which all samples agree; n must be "
            f"at least {1 + math.ceil(-math.log2(alpha))}"
        )


def check_images(images: Tensor) -> None:
    """Raise ValueError for what are no images in [0, 1]."""
    if images.ndim < 2 or not images.is_floating_point():
        raise ValueError(f"images must be float (count, channel, height, width), got {tuple(images.shape)}")
    if len(images) and not (images.min() >= 0 and images.max() <= 1):
        raise ValueError("images must lie in [0, 1]")
