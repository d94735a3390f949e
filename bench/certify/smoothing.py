"""The smoothed classifier g(x) = most likely class of f(x + ε), ε ~ N(0, σ²I), and its certificates.

    smoothed = Smoothed(model, sigma=0.25, num_classes=10)
    certificates = smoothed.certify(images, CertifySettings(n0=100, n=100_000, alpha=0.001), seed=0)

Guarantee (Cohen, Rosenfeld & Kolter 2019, Theorem 1): with probability at least 1 − alpha over the noise, no
perturbation of ℓ2 norm below `radius` changes the answer of g at this image.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.certify.engine import Engine
from bench.certify.lattice import LatticeSamples
from bench.certify.noise import NoiseSamples
from bench.certify.soft import SoftmaxWeights
from bench.machine.devices import own_device
from bench.machine.hardware import resolve_precision
from bench.machine.normals import cut_tails
from bench.machine.randomness import Role
from bench.models.classifier import Classifier
from bench.models.external import ModelError, allowed_precision
from results.bounds.anytime import Design, anytime_bound, look_sizes, may_stop
from results.bounds.lattice import debited, is_certified
from results.bounds.prediction import check_prediction, fair_coin_p_value
from results.bounds.radius import certifying_count, lower_confidence_bound
from results.bounds.soft import expected_softmax_bound
from results.errors import BenchError
from results.store.rows import Status
from results.store.settings import Arithmetic, CertifySettings, Composition, Estimator, Precision

ABSTAIN = -1
USUAL = CertifySettings()
PREDICT_ALPHA = 0.001
"""Probability that an answer of PREDICT is not that of g, where none is given."""
NEGLIGIBLE = 0.01
"""Share of 1 − p_lower that the noise may lack in its tails."""
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
    radius_soft: float | None
    """Of the soft smoothed classifier (`results.bounds.soft`); None: not asked for, or nothing estimated."""
    soft_weights: list[int] | None
    """Where the softmax of `selected` was, among the n samples."""
    n: int
    """Samples that were drawn; fewer than asked for where abstention was certain earlier, or by the estimator."""
    n0: int
    alpha: float
    estimator: Estimator
    lattice_pixels: int | None
    """Numbers of the image, where arithmetic is sound."""
    engine: str
    """triton, cudnn, inductor (compiled) or eager; their roundings differ."""
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


class SmoothedClassifier(ABC):
    """What CERTIFY and PREDICT ask: one base classifier under Gaussian noise, or several that are composed."""

    num_classes: int
    device: torch.device
    precision: str
    arithmetic: Arithmetic

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
            BenchError: n is so large that the noise's cut tails count (`bench.machine.normals`).
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
        self._open(images.shape[1:], settings)
        places = range(len(images)) if indices is None else indices
        targets = labels if labels is not None and settings.skip_misclassified else [None] * len(images)
        for image, index, label in zip(images, places, targets, strict=True):
            yield self._certificate(image, settings, seed=seed, index=index, label=label)

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

        An answer differs from the smoothed classifier's own with probability at most alpha; of a single one by the
        two-sided binomial test of the two largest counts (Cohen et al. 2019, section 3.2.1). Arguments
        and errors as in `certify`.
        """
        check_images(images)
        places = range(len(images)) if indices is None else indices
        return [
            self.predict_moved(image, n=n, alpha=alpha, seed=seed, index=index)
            for image, index in zip(images, places, strict=True)
        ]

    @abstractmethod
    def predict_moved(self, image: Tensor, *, n: int, seed: int, index: int, alpha: float = PREDICT_ALPHA) -> int:
        """PREDICT for one image that may lie outside [0, 1], such as an attacked one."""

    @property
    @abstractmethod
    def engines(self) -> tuple[Engine, ...]:
        """What classifies its noise samples."""

    def _open(self, shape: torch.Size, settings: CertifySettings) -> None:
        """Refuse what cannot be certified so; compile what is to be."""
        if self.arithmetic == "float":
            check_tails(shape.numel(), settings)
        for engine in self.engines:
            engine.classifier(shape, settings.n)

    @abstractmethod
    def _certificate(
        self, image: Tensor, settings: CertifySettings, *, seed: int, index: int, label: int | None
    ) -> Certificate:
        """Of one image. A label: the image is not estimated where the selected class is another."""


class Smoothed(SmoothedClassifier):
    """A base classifier under Gaussian noise."""

    def __init__(
        self,
        model: nn.Module,
        sigma: float | None = None,
        num_classes: int | None = None,
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
            sigma: standard deviation of the noise, in pixel units; added before any normalisation, never clipped. That
                with which `bench.load_model` loaded the model where not given.
            num_classes: number of logits, at least 2; as `bench.load_model` found it where not given.
            precision: "fp32", "bf16", or "auto": bf16 where the device is fast in it (GPUs from Ampere on, CPUs with
                AMX or AVX-512 bf16), else fp32. The certified classifier is the one in that precision. An ONNX file
                that onnxruntime runs is in fp32.
            arithmetic: "float", or "sound": noise on a lattice, drawn by integers, so that certificates hold in
                floating point whatever the classifier is (`results.bounds.lattice`); radii are a little smaller.
            device: where to compute; an accelerator if there is one.

        cuDNN is told for the whole process to compute deterministically, and without TF32: "fp32" is fp32.

        Raises:
            ValueError: sigma, num_classes or precision out of range, or not known.
            ModelError: the model cannot be put on the device, or not be computed in bf16.
            DeviceError: none is given, and `own_device` cannot be used.
        """
        sigma = getattr(model, "smoothing_sigma", None) if sigma is None else sigma
        num_classes = getattr(model, "num_logits", None) if num_classes is None else num_classes
        if sigma is None or not 0 < sigma < float("inf"):
            raise ValueError(f"sigma = {sigma}: must be above 0")
        if num_classes is None or num_classes < 2:
            raise ValueError(f"num_classes = {num_classes}: must be at least 2")
        if precision not in ("auto", "fp32", "bf16"):
            raise ValueError(f"precision = {precision!r}: must be auto, fp32 or bf16")
        self.device = torch.device(device) if device else own_device()
        self.precision = resolve_precision(allowed_precision(model, precision), self.device)
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

    def _certificate(
        self, image: Tensor, settings: CertifySettings, *, seed: int, index: int, label: int | None
    ) -> Certificate:
        started = time.perf_counter()
        draw = self.drawing(image, settings, seed=seed, index=index)
        selection = next(draw([settings.n0], role=Role.SELECT))
        selected, pixels = int(selection.argmax()), self.lattice_pixels(image.shape)
        soft = SoftmaxWeights(selected, self.device) if settings.soft else None
        status: Status
        if label is not None and selected != label:
            status, drawn, counts, p_lower, radius = "misclassified", 0, [0] * self.num_classes, 0.0, 0.0
        else:
            drawn, counts = self.estimate(partial(draw, soft=soft), image.shape, selection, settings)
            bound = _lower_bound(counts[selected], drawn, int(selection[selected]), settings)
            p_lower, radius = map(float, debited(bound, self.sigma, math.nan if pixels is None else pixels))
            status = "certified" if is_certified(p_lower, radius, pixels) else "abstained"
        return Certificate(
            status=status,
            predicted=selected if status == "certified" else ABSTAIN,
            radius=radius,
            p_lower=p_lower,
            selected=selected,
            selection_counts=selection.tolist(),
            count_top=counts[selected],
            counts=counts,
            **self._soft(soft if drawn else None, settings.alpha, pixels),
            n=drawn,
            n0=settings.n0,
            alpha=settings.alpha,
            estimator=settings.estimator,
            lattice_pixels=pixels,
            engine=self.engine.classifier(image.shape, settings.n)[1],
            batch=self.engine.passes(image.shape),
            seconds=time.perf_counter() - started,
        )

    def predict_moved(self, image: Tensor, *, n: int, seed: int, index: int, alpha: float = PREDICT_ALPHA) -> int:
        """PREDICT for one image that may lie outside [0, 1], such as an attacked one."""
        check_prediction(n, alpha)
        top, classes = self.class_counts(image, n, seed, Role.PREDICT, index).topk(2)
        first, second = top.tolist()
        sure = fair_coin_p_value(first, first + second) <= alpha
        return int(classes[0]) if sure else ABSTAIN

    def class_counts(
        self, image: Tensor, n: int, seed: int, role: Role, index: int, *, compiled_for: int | None = None
    ) -> Tensor:
        """How often each class is the answer among n noise samples of one image: (num_classes,), int64, on the CPU.

        Args:
            compiled_for: decide on compilation as for so many samples.
        """
        classify, _ = self.engine.classifier(image.shape, compiled_for or n)
        return next(self._drawn_counts(classify, image, (seed, index), [n], role))

    def _soft(self, soft: SoftmaxWeights | None, alpha: float, pixels: int | None) -> dict[str, Any]:
        if soft is None:
            return {"radius_soft": None, "soft_weights": None}
        bound = expected_softmax_bound(np.array([soft.sums()]), alpha)
        radius = debited(bound, self.sigma, math.nan if pixels is None else pixels)[1]
        return {"radius_soft": float(radius[0]), "soft_weights": soft.sums()}

    @torch.inference_mode()
    def base_answers(
        self, images: Tensor, n: int, *, seed: int = 0, indices: Sequence[int] | None = None
    ) -> tuple[list[int], list[int]]:
        """What the base classifier answers to each image itself, and to one noise sample of it: classes.

        An image's answers depend on the seed and on its index alone; not on the others, for it has a place of its own
        in a forward pass.

        Args:
            n: samples of an image in the certification, whose classifier this is.

        Others, and errors, as in `certify`.
        """
        check_images(images)
        places = list(range(len(images)) if indices is None else indices)
        classify, _ = self.engine.classifier(images.shape[1:], n)
        clean = [self._samples.itself(image) for image in images]
        noisy = [
            next(self._samples.batches(image, 1, seed, Role.BASE, index))[0]
            for image, index in zip(images, places, strict=True)
        ]
        return self._in_places(classify, clean, places), self._in_places(classify, noisy, places)

    def _in_places(
        self, classify: Callable[[Tensor], Tensor], samples: list[Tensor], indices: Sequence[int]
    ) -> list[int]:
        """The classes of samples (*shape), each classified at the place in a forward pass that its index has."""
        answers: dict[int, int] = {}
        while len(answers) < len(samples):
            size = self.engine.passes(samples[0].shape)
            taken: dict[int, int] = {}
            for number, index in enumerate(indices):
                if number not in answers:
                    taken.setdefault(index % size, number)
            filling = next(iter(taken.values()))  # of the other places; a model may fail on what is no image
            batch = torch.stack([samples[taken.get(place, filling)] for place in range(size)])
            finite = torch.ones((), dtype=torch.bool, device=self.device)
            classes = self._answers(classify(batch), size, finite).tolist()
            if not finite:
                raise ModelError("the model gave NaN")
            answers |= {number: classes[place] for place, number in taken.items()}
        return [answers[number] for number in range(len(samples))]

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
        return partial(self._drawn_counts, classify, image, (seed, index))

    def estimate(
        self, draw: Draw, shape: torch.Size, selection: Tensor, settings: CertifySettings
    ) -> tuple[int, list[int]]:
        """Samples drawn and their counts: as many as the estimator asks for, or fewer where abstention is certain."""
        selected, n = int(selection.argmax()), settings.samples_to_draw(int(selection.max()))
        if settings.estimator == "anytime":
            design, looks = _design(int(selection[selected]), settings), look_sizes(n)
            for drawn, counts in zip(looks, draw(looks, role=Role.ESTIMATE), strict=True):
                if drawn == n or may_stop(int(counts[selected]), drawn, design, settings.alpha):
                    return drawn, counts.tolist()
        needed = certifying_count(n, settings.alpha)
        sizes = sorted({*range(n // 2, n, max(self.engine.batch(shape), n // INTERIM_ANALYSES)), n} - {0})
        for drawn, counts in zip(sizes, draw(sizes, role=Role.ESTIMATE), strict=True):
            if drawn == n or int(counts[selected]) + n - drawn < needed:  # certain to abstain
                return drawn, counts.tolist()
        raise AssertionError("the last analysis is at n")

    @torch.inference_mode()
    def _drawn_counts(
        self,
        classify: Callable[[Tensor], Tensor],
        image: Tensor,
        place: tuple[int, int],
        sizes: Sequence[int],
        role: Role,
        soft: SoftmaxWeights | None = None,
    ) -> Iterator[Tensor]:
        """The counts (num_classes,), int64, on the CPU, of the first sizes[0], sizes[1], … samples of an image whose
        noise has this seed and index (`place`); as many are added to `soft`.

        No batch holds samples of another image. The device is waited for at these sizes only.
        """
        seed, index = place
        batches = self._samples.batches(image, self.engine.batch(image.shape), seed, role, index)
        counts = torch.zeros(self.num_classes, dtype=torch.int64, device=self.device)
        finite = torch.ones((), dtype=torch.bool, device=self.device)
        answers = logits = torch.empty(0, dtype=torch.int64, device=self.device)
        drawn = 0
        for size in sizes:
            while drawn < size:
                if not len(answers):
                    noisy = next(batches)
                    logits = classify(noisy)
                    answers = self._answers(logits, len(noisy), finite)
                taken = answers[: size - drawn]
                if soft is not None:
                    soft.add(logits[: len(taken)])
                counts.scatter_add_(0, taken, torch.ones_like(taken))
                answers, logits = answers[len(taken) :], logits[len(taken) :]
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


def _design(selection_count: int, settings: CertifySettings) -> Design:
    return Design.of(np.array([selection_count]), settings.n0, settings.n, settings.alpha)


def _lower_bound(count: int, drawn: int, selection_count: int, settings: CertifySettings) -> float:
    if settings.estimator == "anytime":
        return float(anytime_bound([count], [drawn], _design(selection_count, settings), settings.alpha)[0])
    return float(lower_confidence_bound(count, drawn, settings.alpha))


def check_tails(numbers: int, settings: CertifySettings) -> None:
    """Raise BenchError where the tails count that the noise of images of so many numbers lacks: the bound is of the
    noise that is drawn."""
    least = -math.expm1(math.log(settings.alpha) / settings.n)  # 1 − p_lower where all samples agree
    if cut_tails(numbers) > NEGLIGIBLE * least:
        raise BenchError(
            f"n = {settings.n} with alpha = {settings.alpha:g}: certifies probabilities so near 1 that the tails which "
            f"the noise of {numbers} numbers lacks would count: take a smaller n, or arithmetic = sound"
        )


def check_images(images: Tensor) -> None:
    """Raise ValueError for what are no images in [0, 1]."""
    if images.ndim < 2 or not images.is_floating_point():
        raise ValueError(f"images must be float (count, channel, height, width), got {tuple(images.shape)}")
    if len(images) and not (images.min() >= 0 and images.max() <= 1):
        raise ValueError("images must lie in [0, 1]")
