"""Certificates against the truth, where the truth is known exactly.

How often a bound on p_A may be wrong is alpha; how often that of Clopper and Pearson is wrong at a given p_A follows
from the binomial tail alone, which scipy knows. So the number of wrong certificates is held against its own
expectation, from both sides, at an alpha at which 3000 points show a bound that is 1.3 × alpha; 100 000 points show
one that is 1.05 × alpha.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binom, binomtest, ncx2, norm
from torch import Tensor, nn

import bench.certify.smoothing
from bench.certify.smoothing import Certificate, Smoothed
from bench.machine.randomness import Role
from results.bounds.anytime import Design, anytime_bound
from results.bounds.radius import certifying_count, largest_radius, lower_confidence_bound
from results.bounds.two_stage import sufficient_samples
from results.store.settings import CertifySettings, Estimator
from tests.bench.certify.counted import Floats, Kept, _one_thread, column, counted, surprise  # noqa: F401

SIGMA = 0.5
ALPHA = 0.3
N, N0 = 60, 10


class Base(nn.Module):
    """Class 1 where `inside` holds for a point of the plane."""

    def __init__(self, inside: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, points: Tensor) -> Tensor:
        one = self.inside(points).float()
        return torch.stack([1 - one, one], dim=1)


@pytest.fixture(scope="module")
def kept() -> Kept:
    """What the tests of this file have counted."""
    return {}


@pytest.fixture(params=[3000, pytest.param(100_000, marks=pytest.mark.slow)])
def count(request: pytest.FixtureRequest) -> int:
    """Points of the plane."""
    return int(request.param)


def points(count: int, seed: int, low: float, high: float) -> Tensor:
    """Points of the plane, their first coordinates between low and high."""
    drawn = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    drawn[:, 0] = low + (high - low) * drawn[:, 0]
    return drawn.float()


def smoothed(inside: Callable[[Tensor], Tensor]) -> Smoothed:
    return Smoothed(Base(inside), SIGMA, 2, precision="fp32", device="cpu")


def certify(
    inside: Callable[[Tensor], Tensor], images: Tensor, n: int = N, estimator: Estimator = "fixed", seed: int = 0
) -> list[Certificate]:
    return smoothed(inside).certify(images, CertifySettings(n0=N0, n=n, alpha=ALPHA, estimator=estimator), seed=seed)


def probability_of_selected(certificates: list[Certificate], p_one: Floats) -> Floats:
    return np.where(column(certificates, "selected") == 1, p_one, 1 - p_one)


def wrong_certificates(certificates: list[Certificate], p_selected: Floats) -> NDArray[np.bool_]:
    """Where a radius is certified that a smaller probability than the true one would not have."""
    return (column(certificates, "predicted") >= 0) & (column(certificates, "p_lower") > p_selected)


def expected_to_be_wrong(p_selected: Floats, n: NDArray[np.int64]) -> Floats:
    """The probability of a wrong certificate at each point: that so many of n samples are of the selected class as have
    a probability below alpha where p_A is p_selected, or 1/2 if that is more."""
    chance = np.zeros(len(n))
    for size in np.unique(n):
        here, k = n == size, np.arange(size + 2)
        tails = binom.sf(k - 1, size, np.maximum(p_selected[here], 0.5)[:, None])
        least = (tails < ALPHA).argmax(axis=1)
        chance[here] = binom.sf(least - 1, size, p_selected[here])
    return chance


def half_space(images: Tensor) -> Tensor:
    return images[:, 0] > 0.5


def check_half_space(estimator: Estimator, count: int, seed: int) -> None:
    n = N
    if estimator == "two-stage":
        n, count = 640, count // 2
    images = points(count, seed, 0.2, 0.8)
    found = certify(half_space, images, n, estimator, seed)
    distance = images[:, 0].double().numpy() - 0.5
    p_selected = probability_of_selected(found, norm.cdf(distance / SIGMA))
    wrong = wrong_certificates(found, p_selected)
    # the boundary is a line: the true radius of the class on a point's side is its distance, of the other class none
    true_radius = np.where(column(found, "predicted") == (distance > 0), np.abs(distance), 0.0)
    certified = column(found, "predicted") >= 0
    assert np.array_equal(wrong, certified & (column(found, "radius") > true_radius))
    assert certified.mean() > 0.2
    sizes = np.full(count, n)
    if estimator == "two-stage":  # an estimation decided from the selection, which is drawn here again
        model = smoothed(half_space)
        for index, (image, certificate) in enumerate(zip(images, found, strict=True)):
            assert model.class_counts(image, N0, seed, Role.SELECT, index).tolist() == certificate.selection_counts
        tops = [certificate.selection_counts[certificate.selected] for certificate in found]
        sizes = np.array([sufficient_samples(top, N0, n, ALPHA) for top in tops])
        assert len(np.unique(sizes)) >= 3
        assert (column(found, "n")[certified] == sizes[certified]).all()
    assert abs(surprise(wrong, expected_to_be_wrong(p_selected, sizes))) < 4


@pytest.mark.parametrize("estimator", ["fixed", "two-stage"])
def test_half_space(estimator: Estimator, count: int, seed: int, kept: Kept) -> None:
    with counted(kept) if count == 3000 else nullcontext():
        check_half_space(estimator, count, seed)


def test_anytime_is_wrong_at_most_as_often_as_alpha(count: int, seed: int) -> None:
    """Images that are stopped by their own answers."""
    count //= 10
    images = points(count, seed, 0.2, 0.8)
    found = certify(half_space, images, 640, "anytime", seed)
    assert len(set(column(found, "n"))) > 5
    distance = images[:, 0].double().numpy() - 0.5
    wrong = wrong_certificates(found, probability_of_selected(found, norm.cdf(distance / SIGMA)))
    assert wrong.mean() < ALPHA + 4 * math.sqrt(ALPHA * (1 - ALPHA) / count)
    for certificate in found[:50]:
        design = Design.of(np.array([max(certificate.selection_counts)]), N0, 640, ALPHA)
        [bound] = anytime_bound([certificate.count_top], [certificate.n], design, ALPHA)
        assert certificate.p_lower == bound


def test_stopping_where_the_bound_of_one_size_is_best_is_caught(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Clopper and Pearson's bound, looked at until it is above the truth, which is that of class 1."""

    def fixed(k: object, n: object, _design: object, alpha: float) -> Floats:
        return lower_confidence_bound(np.asarray(k), np.asarray(n), alpha)

    monkeypatch.setattr(bench.certify.smoothing, "anytime_bound", fixed)
    monkeypatch.setattr(
        bench.certify.smoothing,
        "may_stop",
        lambda k, n, _design, alpha: lower_confidence_bound(k, n, alpha) > norm.cdf(0.1 / SIGMA),
    )
    images = torch.full((count := 400, 2), 0.6)
    found = certify(half_space, images, 320, "anytime", seed)
    wrong = wrong_certificates(found, np.full(count, norm.cdf(0.1 / SIGMA)))[column(found, "selected") == 1]
    assert wrong.mean() > ALPHA + 4 * math.sqrt(ALPHA * (1 - ALPHA) / len(wrong))


def test_ball(count: int, seed: int) -> None:
    radius = 0.9
    found = certify(
        lambda x: ((x - 0.5) ** 2).sum(dim=1) < radius**2, images := points(count, seed, 0.0, 1.0), seed=seed
    )
    offset = ((images.double() - 0.5) ** 2).sum(dim=1).sqrt().numpy()

    def p_one(distance: float | Floats) -> Floats:
        """ε is N(0, σ²I), so |x + ε − centre|² / σ² is noncentral chi-squared."""
        return np.asarray(ncx2.cdf((radius / SIGMA) ** 2, 2, (np.asarray(distance) / SIGMA) ** 2))

    edge = brentq(lambda distance: float(p_one(distance)) - 0.5, 1e-6, 2)  # where the smoothed class changes
    true_radius = np.where(column(found, "predicted") == (offset < edge), np.abs(offset - edge), 0.0)
    too_large = (column(found, "predicted") >= 0) & (column(found, "radius") > true_radius)
    assert (column(found, "predicted") >= 0).mean() > 0.5
    p_selected = probability_of_selected(found, p_one(offset))
    wrong = wrong_certificates(found, p_selected)
    assert not (too_large & ~wrong).any()  # the theorem: where the probability is right, so is the radius
    assert abs(surprise(wrong, expected_to_be_wrong(p_selected, np.full(count, N)))) < 4


def test_constant() -> None:
    found = certify(lambda x: torch.ones(len(x), dtype=torch.bool), points(300, 2, 0.0, 1.0))
    assert {certificate.predicted for certificate in found} == {1}
    assert {certificate.count_top for certificate in found} == {N}
    assert column(found, "radius") == pytest.approx(float(largest_radius(N, ALPHA, SIGMA)), rel=1e-12)


@pytest.mark.parametrize("bias", [0.52, pytest.param(0.7, marks=pytest.mark.slow)])
def test_coin(bias: float, count: int, seed: int) -> None:
    """Class 1 with the same probability everywhere: a smoothed classifier that never changes, seen through noise."""
    found = certify(lambda x: (x[:, 0].double() * 1e4) % 1 < bias, points(count, seed, 0.0, 1.0), seed=seed)
    p_selected = probability_of_selected(found, np.full(count, bias))
    wrong = wrong_certificates(found, p_selected)
    assert abs(surprise(wrong, expected_to_be_wrong(p_selected, np.full(count, N)))) < 4
    shares = np.array([certificate.counts[1] / certificate.n for certificate in found if certificate.n == N])
    if bias == 0.7:  # at .52 the samples are few where abstention was certain
        assert shares.mean() == pytest.approx(bias, abs=0.005)


def test_predict(count: int, seed: int) -> None:
    """Right beside the boundary half of all counts point the wrong way; few of them may be an answer, and it is known
    how few."""
    images = torch.full((count, 2), 0.5)
    images[:, 0] += 0.001
    answers = np.array(smoothed(half_space).predict(images, n=N, alpha=ALPHA, seed=seed))
    sure = [zeros for zeros in range(N // 2 + 1, N + 1) if binomtest(zeros, N, 0.5).pvalue <= ALPHA]
    chance = binom.sf(sure[0] - 1, N, norm.cdf(-0.001 / SIGMA))
    assert 0.2 * ALPHA / 2 < chance <= ALPHA / 2
    assert abs(surprise(answers == 0, np.full(count, chance))) < 4
    assert (answers == -1).mean() > 1 - 1.2 * ALPHA


@pytest.mark.parametrize("estimator", ["fixed", "two-stage"])
def test_a_bound_that_is_1_3_times_too_bold_is_caught(
    estimator: Estimator, monkeypatch: pytest.MonkeyPatch, kept: Kept
) -> None:
    monkeypatch.setattr(
        bench.certify.smoothing, "lower_confidence_bound", lambda k, n, alpha: lower_confidence_bound(k, n, 1.3 * alpha)
    )
    monkeypatch.setattr(bench.certify.smoothing, "certifying_count", lambda n, alpha: certifying_count(n, 1.3 * alpha))
    with counted(kept, again=True), pytest.raises(AssertionError, match=r"assert \d+\.\d+ < 4"):
        check_half_space(estimator, 3000, 0)


@pytest.mark.parametrize("n", [1, 2, 5, 100])
@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.3, 0.7])
def test_abstention_ends_where_the_binomial_tail_says(n: int, alpha: float) -> None:
    k = certifying_count(n, alpha)
    tail = [
        sum(math.comb(n, i) for i in range(count, n + 1)) / 2**n for count in range(n + 2)
    ]  # P(X >= count), p = 1/2
    assert k == next(count for count in range(n + 2) if tail[count] <= alpha)


@pytest.mark.parametrize("n", [1, 2, 7, 100])
def test_all_or_nothing(n: int) -> None:
    always = Base(lambda x: torch.ones(len(x), dtype=torch.bool))
    [sure] = Smoothed(always, SIGMA, 2, precision="fp32", device="cpu").certify(
        torch.rand(1, 2), CertifySettings(n0=1, n=n, alpha=0.6)
    )
    assert sure.counts == [0, n]
    assert sure.p_lower == pytest.approx(0.6 ** (1 / n))
    assert sure.radius == pytest.approx(SIGMA * norm.ppf(0.6 ** (1 / n)))

    calls: list[int] = []

    class Late(Base):
        """Class 1 in the selection, class 0 ever after."""

        def forward(self, points: Tensor) -> Tensor:
            calls.append(1)
            return super().forward(points) if len(calls) <= 1 else super().forward(points).flip(1)

    late = Smoothed(Late(always.inside), SIGMA, 2, precision="fp32", device="cpu")
    calls += [1]
    late.engine.classifier(torch.Size([2]), n)  # which wants a function of the points, as class 0 always is
    calls.clear()
    [none] = late.certify(torch.rand(1, 2), CertifySettings(n0=1, n=n, alpha=0.6))
    assert (none.selected, none.count_top, none.p_lower, none.predicted) == (1, 0, 0.0, -1)
    assert sum(none.counts) == none.n == none.counts[0]


def test_a_tie_in_the_selection_falls_to_the_lower_class() -> None:
    opened: list[bool] = []

    class Tied(nn.Module):
        def forward(self, points: Tensor) -> Tensor:
            return nn.functional.one_hot(torch.arange(len(points)) % 3 * len(opened), 3).float()

    smoothed = Smoothed(Tied(), SIGMA, 3, precision="fp32", device="cpu")
    smoothed.engine.classifier(torch.Size([2]), 63)  # which wants a function of the points
    opened.append(True)
    [certificate] = smoothed.certify(torch.rand(1, 2), CertifySettings(n0=3, n=63))
    assert certificate.selected == 0
    assert certificate.status == "abstained"
    assert sum(certificate.counts) == certificate.n
