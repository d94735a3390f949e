"""Composed certificates against the truth, where every boundary is that of half-spaces and so known exactly.

A composed certificate is wrong where its radius reaches beyond the true one, and that may only be where a bound of one
of its parts is wrong. Of all its bounds together one may be wrong with probability alpha: how often one is follows from
the binomial tail of each part.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm
from torch import Tensor, nn

import bench.certify.composed
from bench.certify.composed import ComposedSmoothed, DualSmoothed, MultiScaleSmoothed
from bench.certify.smoothing import Certificate, Smoothed
from results.bounds.composition import composed
from results.bounds.radius import lower_confidence_bound, upper_confidence_bound
from results.errors import BenchError
from results.store.settings import CertifySettings, Estimator
from tests.bench.certify.counted import Floats, Kept, _one_thread, column, counted, surprise  # noqa: F401

ALPHA = 0.3
N, N0 = 60, 10
COUNT = 500
CHOOSING, SMALL, LARGE = 0.3, 0.25, 0.5
"""σ of the selector and of the classifiers it chooses from."""
WIDE, NARROW = 0.35, 0.2
"""Half widths of the slabs of the small and of the large scale."""
FINE, COARSE = 0.1, 0.5
"""σ of the small and of the large scale."""


class Base(nn.Module):
    """The class that `classify` says of points of the plane."""

    def __init__(self, classify: Callable[[Tensor], Tensor], classes: int) -> None:
        super().__init__()
        self.classify, self.classes = classify, classes

    def forward(self, points: Tensor) -> Tensor:
        return nn.functional.one_hot(self.classify(points).long(), self.classes).float()


@pytest.fixture(scope="module")
def kept() -> Kept:
    """What the tests of this file have counted."""
    return {}


def smoothed(classify: Callable[[Tensor], Tensor], sigma: float, classes: int = 2) -> Smoothed:
    return Smoothed(Base(classify, classes), sigma, classes, precision="fp32", device="cpu")


def dual() -> DualSmoothed:
    """The first coordinate chooses between two half-spaces of the second that contradict each other."""
    return DualSmoothed(
        smoothed(lambda x: x[:, 0] > 0.5, CHOOSING),
        [smoothed(lambda x: x[:, 1] > 0.5, SMALL), smoothed(lambda x: x[:, 1] < 0.5, LARGE)],
    )


def slab(width: float) -> Callable[[Tensor], Tensor]:
    """Class 0 within so much of the middle, 1 and 2 on its sides."""
    return lambda x: torch.where((x[:, 0] - 0.5).abs() < width, 0, torch.where(x[:, 0] < 0.5, 1, 2))


def multi_scale() -> MultiScaleSmoothed:
    """In the middle of the narrow slab no class has 1/2 at the large scale, and the small scale answers."""
    return MultiScaleSmoothed([smoothed(slab(NARROW), COARSE, 3), smoothed(slab(WIDE), FINE, 3)])


def points(seed: int, low: float = 0.2, high: float = 0.8) -> Tensor:
    drawn = torch.rand(COUNT, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (low + (high - low) * drawn).float()


def certify(
    classifier: ComposedSmoothed, images: Tensor, seed: int, n: int = N, estimator: Estimator = "fixed"
) -> list[Certificate]:
    return classifier.certify(images, CertifySettings(n0=N0, n=n, alpha=ALPHA, estimator=estimator), seed=seed)


def chance_of_a_wrong_bound(p: Floats, alpha: float) -> Floats:
    """The probability that the lower bound on p, at 1/2 or more, is above it, of N samples."""
    k = np.arange(N + 2)
    least = np.argmax(binom.sf(k - 1, N, np.maximum(p, 0.5)[:, None]) < alpha, axis=1)
    return np.asarray(binom.sf(least - 1, N, p))


def check_dual(seed: int, estimator: Estimator = "fixed") -> None:
    images, n = points(seed), N
    if estimator == "two-stage":
        images, n = images[:150], 640
    found = certify(dual(), images, seed, n, estimator)
    across, along = (images.double().numpy() - 0.5).T
    chosen, predicted = column(found, "sigma_input") == LARGE, column(found, "predicted")
    answer = np.where(across > 0, along < 0, along > 0)
    true_radius = np.where(predicted == answer, np.minimum(abs(across), abs(along)), 0.0)
    false = (predicted >= 0) & (column(found, "radius") > true_radius)
    # each part by itself: of the probability of what it selected
    p_choice = norm.cdf(np.where(chosen, across, -across) / CHOOSING)
    class_one = norm.cdf(np.where(chosen, -along / LARGE, along / SMALL))
    p_class = np.where(column(found, "selected") == 1, class_one, 1 - class_one)
    sigma = np.where(chosen, LARGE, SMALL)
    wrong_choice = column(found, "selector_radius") > np.maximum(CHOOSING * norm.ppf(p_choice), 0)
    wrong_class = column(found, "classifier_radius") > np.maximum(sigma * norm.ppf(p_class), 0)
    assert (predicted >= 0).mean() > 0.2
    assert not (false & ~(wrong_choice | wrong_class)).any()
    if estimator == "fixed":
        one, other = (chance_of_a_wrong_bound(p, ALPHA / 2) for p in (p_choice, p_class))
        assert abs(surprise(wrong_choice | wrong_class, 1 - (1 - one) * (1 - other))) < 4
    assert (wrong_choice | wrong_class).mean() < ALPHA
    assert {certificate.sigma_input for certificate in found} == {SMALL, LARGE}


@pytest.mark.parametrize("estimator", ["fixed", "two-stage"])
def test_a_selector_and_two_half_spaces(estimator: Estimator, seed: int, kept: Kept) -> None:
    with counted(kept):
        check_dual(seed, estimator)


def check_multi_scale(seed: int) -> None:
    images = points(seed, 0.0, 1.0)
    found = certify(multi_scale(), images, seed)
    offset = images[:, 0].double().numpy() - 0.5
    predicted, selected = column(found, "predicted"), column(found, "selected").astype(int)
    passed = column(found, "sigma_input") == FINE

    def probabilities(width: float, sigma: float) -> Floats:
        left, right = norm.cdf((-width - offset) / sigma), norm.cdf((offset - width) / sigma)
        return np.stack([1 - left - right, left, right], axis=1)

    at_large, at_small = probabilities(NARROW, COARSE), probabilities(WIDE, FINE)
    # at the large scale a side has more than 1/2 right beyond the narrow slab, and the slab never has
    beyond, inside = abs(offset) - NARROW, at_small[:, 0] > 0.5
    answer = np.where(beyond > 0, np.where(offset > 0, 2, 1), np.where(inside, 0, -1))
    true_radius = np.where(predicted == answer, abs(beyond), 0.0)
    false = (predicted >= 0) & (column(found, "radius") > true_radius)
    rows = np.arange(COUNT)
    p_class = np.where(passed, at_small[rows, selected], at_large[rows, selected])
    sigma = np.where(passed, FINE, COARSE)
    wrong_class = column(found, "classifier_radius") > np.maximum(sigma * norm.ppf(p_class), 0)
    others = at_large.copy()
    others[rows, selected] = 0
    stays = np.array([certificate.selector_radius or 0.0 for certificate in found])
    wrong_pass = passed & (stays > np.maximum(-COARSE * norm.ppf(others.max(axis=1)), 0))
    assert not (false & ~(wrong_class | wrong_pass)).any()
    assert (wrong_class | wrong_pass).mean() < ALPHA
    assert 0.1 < (passed & (predicted == 0)).mean() < 0.9
    assert {certificate.selector_radius is None for certificate in found} == {True, False}


def test_two_scales_of_slabs(seed: int, kept: Kept) -> None:
    with counted(kept):
        check_multi_scale(seed)


def test_alpha_that_is_not_shared_is_caught(monkeypatch: pytest.MonkeyPatch, kept: Kept) -> None:
    monkeypatch.setattr(bench.certify.composed, "shares", lambda _composition, _parts: 1)
    with counted(kept, again=True), pytest.raises(AssertionError, match=r"assert \d+\.\d+ < 4"):
        check_dual(0)


@pytest.mark.parametrize("check", [check_dual, check_multi_scale])
def test_a_maximum_in_place_of_the_minimum_is_caught(
    check: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, kept: Kept
) -> None:
    def largest(*given: object) -> object:
        found = composed(*given)  # type: ignore[arg-type]
        radius = max(found.classifier_radius, found.selector_radius or 0.0)
        return dataclasses.replace(found, radius=radius if found.certified else 0.0)

    monkeypatch.setattr(bench.certify.composed, "composed", largest)
    with counted(kept, again=True), pytest.raises(AssertionError, match="assert not"):
        check(0)


def test_a_scale_that_was_passed_counts() -> None:
    """Its other classes, not the one that answers, at a share of alpha divided by their number."""
    [row] = certify(multi_scale(), torch.full((1, 2), 0.5), 0, n=600)
    assert (row.sigma_input, row.predicted, row.selector_sigmas, row.alpha_shares) == (FINE, 0, [COARSE], 3)
    counts = np.array(row.selector_counts)
    q = float(upper_confidence_bound(counts[1:].max(), 600, ALPHA / 3 / 2))
    assert counts.sum() == 600
    assert row.selector_radius == pytest.approx(-COARSE * norm.ppf(q))
    assert row.classifier_radius == pytest.approx(
        FINE * norm.ppf(float(lower_confidence_bound(row.count_top, 600, ALPHA / 3)))
    )
    assert row.radius == min(row.selector_radius or 0.0, row.classifier_radius or 0.0)


def test_parts_have_noise_of_their_own() -> None:
    """The same classifier at the same σ, twice: other counts, and other ones than alone."""
    coin = smoothed(lambda x: (x[:, 0].double() * 1e4) % 1 < 0.45, SMALL)
    both = MultiScaleSmoothed([coin, coin])
    [row] = certify(both, torch.full((1, 2), 0.5), 0, n=600)
    [alone] = coin.certify(torch.full((1, 2), 0.5), CertifySettings(n0=N0, n=600, alpha=ALPHA))
    assert row.sigma_input == SMALL
    assert len({tuple(row.counts), tuple(row.selector_counts or ()), tuple(alone.counts)}) == 3


def test_where_nothing_is_estimated() -> None:
    """A selected class that is not the label: of a selector's classifier, or of the last scale."""
    middle = torch.full((1, 2), 0.5)
    [row] = multi_scale().certify(middle, CertifySettings(n0=N0, n=600), labels=[1])
    assert (row.status, row.n, row.radius, sum(row.selector_counts or ())) == ("misclassified", 0, 0.0, 600)
    [row] = dual().certify(middle + 0.2, CertifySettings(n0=50, n=600), labels=[1])
    assert (row.status, row.n, row.radius, sum(row.selector_counts or ())) == ("misclassified", 0, 0.0, 0)
    [row] = dual().certify(middle + 0.2, CertifySettings(n0=50, n=600), labels=[0])
    assert (row.status, row.predicted) == ("certified", 0)


@pytest.mark.parametrize("kind", [dual, multi_scale])
def test_predict(kind: Callable[[], ComposedSmoothed], seed: int) -> None:
    """Answers are those of the composed classifier or none; near a boundary there are none."""
    images = points(seed, 0.1, 0.9)[:100]
    answers = np.array(kind().predict(images, n=500, alpha=0.001, seed=seed))
    across, along = (images.double().numpy() - 0.5).T
    if kind is dual:
        truth, near = np.where(across > 0, along < 0, along > 0), np.minimum(abs(across), abs(along)) < 0.01
    else:
        truth, near = np.where(abs(across) > NARROW, np.where(across > 0, 2, 1), 0), abs(abs(across) - NARROW) < 0.02
    assert ((answers == -1) | (answers == truth)).all()
    assert (answers != -1).mean() > 0.2
    assert near.any()
    assert (answers[near] == -1).mean() > 0.8


def test_what_does_not_fit_together_is_refused() -> None:
    base = smoothed(lambda x: x[:, 0] > 0.5, SMALL)
    with pytest.raises(ValueError, match="the selector has 2 classes for 3 classifiers"):
        DualSmoothed(base, [base, base, base])
    with pytest.raises(ValueError, match="num_classes is 2 and 3: must be the same"):
        MultiScaleSmoothed([base, smoothed(slab(0.1), SMALL, 3)])
    with pytest.raises(ValueError, match="1 smoothed classifiers: must be at least 2"):
        MultiScaleSmoothed([base])
    low = Smoothed(Base(slab(0.1), 2), SMALL, 2, precision="bf16", device="cpu")
    with pytest.raises(ValueError, match="precision is fp32 and bf16: must be the same in all parts"):
        MultiScaleSmoothed([base, low])
    with pytest.raises(ValueError, match=r"alpha = 0\.01: certifies no image"):
        MultiScaleSmoothed([base] * 8).certify(torch.rand(1, 2), CertifySettings(n=6, alpha=0.15))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [({"estimator": "anytime"}, "estimator = anytime: must be fixed or two-stage"), ({"soft": True}, "soft = true")],
)
def test_what_composed_classifiers_are_not_certified_by_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BenchError, match=sentence):
        multi_scale().certify(torch.rand(1, 2), CertifySettings(n0=N0, n=N, alpha=ALPHA, **settings))


def test_sound_parts_are_debited() -> None:
    def sound(classify: Callable[[Tensor], Tensor], sigma: float) -> Smoothed:
        return Smoothed(Base(classify, 2), sigma, 2, precision="fp32", arithmetic="sound", device="cpu")

    both = DualSmoothed(sound(lambda x: x[:, 0] > 0.5, SMALL), [sound(lambda x: x[:, 1] > 0.5, SMALL)] * 2)
    [row] = both.certify(torch.full((1, 2), 0.7), CertifySettings(n0=50, n=600))
    assert row.lattice_pixels == 2
    assert row.status == "certified"
    plain = SMALL * norm.ppf(float(lower_confidence_bound(row.count_top, 600, 0.0005)))
    assert row.classifier_radius == pytest.approx(plain - math.sqrt(2) / (255 * 64) / 2, abs=1e-9)


def test_what_is_compiled_of_one_part_is_not_forgotten_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    forgotten: list[int] = []
    monkeypatch.setattr("bench.certify.engine.COMPILE_FROM", N)
    monkeypatch.setattr("bench.certify.engine.compile_frozen", lambda classify, _example, precision: classify)
    monkeypatch.setattr("torch.compiler.reset", lambda: forgotten.append(1))
    rows = certify(dual(), torch.rand(2, 2), 0)
    assert {row.engine for row in rows} == {"inductor"}
    assert len(forgotten) == 1
