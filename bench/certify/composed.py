"""Classifiers that are composed of smoothed ones, so that every input has a σ of its own, and their certificates.

    small, large = Smoothed(f, sigma=0.25, num_classes=10), Smoothed(h, sigma=1.0, num_classes=10)
    dual = DualSmoothed(Smoothed(chooser, sigma=0.5, num_classes=2), [small, large])
    cascade = MultiScaleSmoothed([large, small])

Both are used as `Smoothed` is. What they guarantee, and why, is in `results.bounds.composition`.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.certify.engine import Engine
from bench.certify.smoothing import ABSTAIN, PREDICT_ALPHA, Certificate, Draw, Smoothed, SmoothedClassifier
from bench.machine.randomness import Role, derived_seed
from bench.models.classifier import kind_of
from bench.models.external import allowed_precision
from bench.models.sources import Source
from results.bounds import shares
from results.bounds.composition import Estimate, composed, passes
from results.bounds.prediction import check_prediction, fair_coin_p_value
from results.errors import BenchError
from results.store.settings import CertifiedTrial, CertifySettings, ComposedTrial, Composition, not_composed


@dataclass(frozen=True)
class _Counted:
    """What one part answered at one image."""

    sigma: float
    selection: Tensor
    counts: list[int]
    """All 0 where nothing was estimated."""

    @property
    def selected(self) -> int:
        return int(self.selection.argmax())

    @property
    def estimate(self) -> Estimate:
        return Estimate(self.sigma, self.selected, self.counts)


class ComposedSmoothed(SmoothedClassifier):
    """Smoothed classifiers that together are one. A certificate is false with probability at most the alpha of the
    settings, whose n0 and n are of each part that is asked. To certify raises BenchError for anytime and soft, and
    ValueError where n and the share of alpha that each bound has certify no image."""

    composition: Composition

    def __init__(self, parts: Sequence[Smoothed]) -> None:
        """
        Args:
            parts: on one device, in one precision and arithmetic; of other weights, or the same.

        Raises:
            ValueError: fewer than two; or they differ in what they must have in common.
        """
        self.parts = tuple(parts)
        if len(parts) < 2:
            raise ValueError(f"{len(parts)} smoothed classifiers: must be at least 2")
        for name in ("device", "precision", "arithmetic"):
            values = list(dict.fromkeys(getattr(part, name) for part in parts))
            if len(values) > 1:
                raise ValueError(f"{name} is {' and '.join(map(str, values))}: must be the same in all parts")
        answering = {part.num_classes for part in self.classifiers}
        if len(answering) > 1:
            raise ValueError(f"num_classes is {' and '.join(map(str, sorted(answering)))}: must be the same")
        [self.num_classes] = answering
        self.device, self.precision, self.arithmetic = parts[0].device, parts[0].precision, parts[0].arithmetic
        for part in parts[1:]:
            part.engine.share_compiler()

    @property
    def classifiers(self) -> tuple[Smoothed, ...]:
        """Those that answer with a class."""
        return self.parts

    @property
    def engines(self) -> tuple[Engine, ...]:
        """What classifies the noise samples, of each part."""
        return tuple(part.engine for part in self.parts)

    @property
    def alpha_shares(self) -> int:
        """Bounds that share the alpha of a certificate."""
        return shares(self.composition, len(self.parts))

    def _open(self, shape: torch.Size, settings: CertifySettings) -> None:
        if (message := not_composed(settings)) is not None:
            raise BenchError(message)
        super()._open(shape, self._of_each_bound(settings))

    def _of_each_bound(self, settings: CertifySettings) -> CertifySettings:
        """With its share of alpha.

        Raises:
            ValueError: which certifies no image with n samples.
        """
        return CertifySettings.model_validate(settings.model_dump() | {"alpha": settings.alpha / self.alpha_shares})

    def _certificate(
        self, image: Tensor, settings: CertifySettings, *, seed: int, index: int, label: int | None
    ) -> Certificate:
        started = time.perf_counter()
        bound, pixels = self._of_each_bound(settings), self.parts[0].lattice_pixels(image.shape)
        classifier, selector = self._ask(image, bound, seed, index, label)
        counts, n = classifier.counts, sum(classifier.counts)
        found = composed(
            self.composition, classifier.estimate, [part.estimate for part in selector], bound.alpha, pixels
        )
        engines = sorted({engine.classifier(image.shape, settings.n)[1] for engine in self.engines})
        return Certificate(
            status="misclassified" if not n else "certified" if found.certified else "abstained",
            predicted=classifier.selected if found.certified else ABSTAIN,
            radius=found.radius,
            p_lower=found.p_lower,
            selected=classifier.selected,
            selection_counts=classifier.selection.tolist(),
            count_top=counts[classifier.selected],
            counts=counts,
            radius_soft=None,
            soft_weights=None,
            n=n,
            n0=settings.n0,
            alpha=settings.alpha,
            estimator=settings.estimator,
            lattice_pixels=pixels,
            engine=" and ".join(engines),
            batch=min(engine.passes(image.shape) for engine in self.engines),
            seconds=time.perf_counter() - started,
            composition=self.composition,
            alpha_shares=self.alpha_shares,
            sigma_input=classifier.sigma,
            classifier_radius=found.classifier_radius,
            selector_sigmas=[part.sigma for part in selector],
            selector_selection_counts=[count for part in selector for count in part.selection.tolist()],
            selector_counts=[count for part in selector for count in part.counts],
            selector_radius=found.selector_radius,
        )

    @abstractmethod
    def _ask(
        self, image: Tensor, settings: CertifySettings, seed: int, index: int, label: int | None
    ) -> tuple[_Counted, list[_Counted]]:
        """What the classifier that answers counted, and what the selector did; as `composed` takes them."""

    def _selection(
        self, place: int, image: Tensor, settings: CertifySettings, seed: int, index: int
    ) -> tuple[Draw, Tensor]:
        """What draws the samples of a part, from streams of its own; and the counts of its selection."""
        draw = self.parts[place].drawing(image, settings, seed=_part_seed(seed, place), index=index)
        return draw, next(draw([settings.n0], role=Role.SELECT))


class DualSmoothed(ComposedSmoothed):
    """A smoothed selector says which smoothed classifier answers (C. Sun, Mao & Vechev 2026)."""

    composition: Composition = "dual"

    def __init__(self, selector: Smoothed, classifiers: Sequence[Smoothed]) -> None:
        """
        Args:
            selector: its class i stands for classifiers[i].
            classifiers: each with its σ.

        Raises:
            ValueError: the selector has another number of classes; or as `ComposedSmoothed`.
        """
        super().__init__([selector, *classifiers])
        if selector.num_classes != len(classifiers):
            raise ValueError(f"the selector has {selector.num_classes} classes for {len(classifiers)} classifiers")

    @property
    def classifiers(self) -> tuple[Smoothed, ...]:
        """Those that answer with a class."""
        return self.parts[1:]

    def predict_moved(self, image: Tensor, *, n: int, seed: int, index: int, alpha: float = PREDICT_ALPHA) -> int:
        """PREDICT for one image that may lie outside [0, 1], such as an attacked one."""

        def answer(place: int) -> int:
            return self.parts[place].predict_moved(
                image, n=n, seed=_part_seed(seed, place), index=index, alpha=alpha / 2
            )

        choice = answer(0)
        return ABSTAIN if choice == ABSTAIN else answer(1 + choice)

    def _ask(
        self, image: Tensor, settings: CertifySettings, seed: int, index: int, label: int | None
    ) -> tuple[_Counted, list[_Counted]]:
        choose, choice = self._selection(0, image, settings, seed, index)
        place = 1 + int(choice.argmax())
        draw, selection = self._selection(place, image, settings, seed, index)
        selector, classifier = self.parts[0], self.parts[place]
        if label is not None and int(selection.argmax()) != label:
            skipped = [0] * self.num_classes, [0] * selector.num_classes
            return _Counted(classifier.sigma, selection, skipped[0]), [_Counted(selector.sigma, choice, skipped[1])]
        _, counts = classifier.estimate(draw, image.shape, selection, settings)
        _, chosen = selector.estimate(choose, image.shape, choice, settings)
        return _Counted(classifier.sigma, selection, counts), [_Counted(selector.sigma, choice, chosen)]


class MultiScaleSmoothed(ComposedSmoothed):
    """Smoothed classifiers that are asked one after another until one has a class of probability above 1/2 (Jeong and
    Shin 2023, who begin with the largest σ)."""

    composition: Composition = "multi-scale"

    def predict_moved(self, image: Tensor, *, n: int, seed: int, index: int, alpha: float = PREDICT_ALPHA) -> int:
        """PREDICT for one image that may lie outside [0, 1], such as an attacked one. It abstains at the first scale of
        which its samples do not tell whether a class has more than 1/2 (two-sided binomial test at alpha divided by the
        number of scales)."""
        check_prediction(n, alpha / len(self.parts))
        for place, scale in enumerate(self.parts):
            top, classes = scale.class_counts(image, n, _part_seed(seed, place), Role.PREDICT, index).max(dim=0)
            if fair_coin_p_value(int(top), n) > alpha / len(self.parts):
                return ABSTAIN
            if int(top) > n / 2:
                return int(classes)
        return ABSTAIN

    def _ask(
        self, image: Tensor, settings: CertifySettings, seed: int, index: int, label: int | None
    ) -> tuple[_Counted, list[_Counted]]:
        passed: list[_Counted] = []
        for place, scale in enumerate(self.parts[:-1]):
            draw, selection = self._selection(place, image, settings, seed, index)
            # All of them, whatever they answer: they may have to show that other classes are rare.
            [drawn] = draw([settings.samples_to_draw(int(selection.max()))], role=Role.ESTIMATE)
            found = _Counted(scale.sigma, selection, drawn.tolist())
            if not passes(found.estimate, settings.alpha, scale.lattice_pixels(image.shape)):
                return found, passed
            passed.append(found)
        last = self.parts[-1]
        draw, selection = self._selection(len(self.parts) - 1, image, settings, seed, index)
        counts = [0] * self.num_classes
        if label is None or int(selection.argmax()) == label:
            _, counts = last.estimate(draw, image.shape, selection, settings)
        return _Counted(last.sigma, selection, counts), passed


def _part_seed(seed: int, place: int) -> int:
    return derived_seed(seed, Role.PART, place)


def smoothed_source(source: Source, settings: CertifiedTrial, num_classes: int) -> SmoothedClassifier:
    """The smoothed classifier that a trial certifies.

    Args:
        num_classes: logits; of each of its classifiers, where it is composed.

    Raises:
        ModelError: a part cannot be put on the device, or not be computed in bf16.
    """
    precision = allowed_precision(source.model, settings.certify.precision)  # of all parts alike

    def smoothed(model: torch.nn.Module, sigma: float, classes: int) -> Smoothed:
        return Smoothed(model, sigma, classes, precision=precision, arithmetic=settings.certify.arithmetic)

    if not isinstance(settings, ComposedTrial):
        return smoothed(source.model, settings.sigma, num_classes)
    pairs = list(zip(source.parts, settings.parts, strict=True))
    if settings.composition == "multi-scale":
        return MultiScaleSmoothed([smoothed(part.model, own.sigma, num_classes) for part, own in pairs])
    classifiers = [smoothed(part.model, own.sigma, num_classes) for part, own in pairs[1:]]
    return DualSmoothed(smoothed(pairs[0][0].model, pairs[0][1].sigma, len(classifiers)), classifiers)


def kind_of_trial(source: Source, settings: CertifiedTrial) -> str:
    """How the classifier is made of networks, for the rows of its certificates."""
    if isinstance(settings, ComposedTrial):
        return f"{settings.composition} of {', '.join(kind_of(part.model) for part in source.parts)}"
    return kind_of(source.model)
