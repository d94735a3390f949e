"""Certificates against the truth, where the truth is known exactly: 100 000 of each kind, at an alpha that would show
a wrong bound. A share of wrong ones may exceed alpha by chance alone, so it is held against alpha plus four standard
errors."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import ncx2, norm
from torch import Tensor, nn

import bench.smoothing
from bench.settings import Estimator
from bench.smoothing import Certificate, Smoothed
from results.bounds import certifying_count, largest_radius, lower_confidence_bound

COUNT = 100_000
SIGMA = 0.5
ALPHA = 0.05
ALLOWED = ALPHA + 4 * math.sqrt(ALPHA * (1 - ALPHA) / COUNT)


class Base(nn.Module):
    """Class 1 where `inside` holds for a point of the plane."""

    def __init__(self, inside: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, points: Tensor) -> Tensor:
        one = self.inside(points).float()
        return torch.stack([1 - one, one], dim=1)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)  # batches are tiny


def points(seed: int, low: float, high: float) -> Tensor:
    """COUNT points of the plane, their first coordinates between low and high."""
    drawn = torch.rand(COUNT, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    drawn[:, 0] = low + (high - low) * drawn[:, 0]
    return drawn.float()


def certify(
    inside: Callable[[Tensor], Tensor], images: Tensor, n: int, estimator: Estimator = "fixed"
) -> list[Certificate]:
    smoothed = Smoothed(Base(inside), SIGMA, 2, precision="fp32", device="cpu")
    return smoothed.certify(images, n0=10, n=n, alpha=ALPHA, estimator=estimator)


def column(certificates: list[Certificate], name: str) -> NDArray[np.float64]:
    return np.array([getattr(certificate, name) for certificate in certificates], dtype=np.float64)


def probability_of_selected(certificates: list[Certificate], p_one: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(column(certificates, "selected") == 1, p_one, 1 - p_one)


def half_space(images: Tensor) -> Tensor:
    return images[:, 0] > 0.5


@pytest.mark.parametrize(("estimator", "n"), [("fixed", 60), ("sequential", 320)])
def test_half_space(estimator: Estimator, n: int) -> None:
    images = points(0, 0.2, 0.8)
    found = certify(half_space, images, n, estimator)
    distance = images[:, 0].double().numpy() - 0.5
    # the boundary is a line: the true radius of the class on a point's side is its distance, of the other class none
    true_radius = np.where(column(found, "predicted") == (distance > 0), np.abs(distance), 0.0)
    certified = column(found, "predicted") >= 0
    wrong = certified & (column(found, "radius") > true_radius)
    assert certified.mean() > 0.2
    assert wrong.mean() <= ALLOWED
    above = column(found, "p_lower") > probability_of_selected(found, norm.cdf(distance / SIGMA))
    assert 0.2 * ALPHA < above.mean() <= ALLOWED  # not by being far too careful
    if estimator == "sequential":
        used = column(found, "n")
        assert len(np.unique(used)) >= 4
        for size in np.unique(used[certified]):
            assert (above & (used == size)).sum() <= ALLOWED * (used == size).sum() + 4 * math.sqrt(used.size * ALPHA)


def test_ball() -> None:
    radius = 0.9
    found = certify(lambda x: ((x - 0.5) ** 2).sum(dim=1) < radius**2, images := points(1, 0.0, 1.0), 60)
    offset = ((images.double() - 0.5) ** 2).sum(dim=1).sqrt().numpy()

    def p_one(distance: float | NDArray[np.float64]) -> NDArray[np.float64]:
        """ε is N(0, σ²I), so |x + ε − centre|² / σ² is noncentral chi-squared."""
        return np.asarray(ncx2.cdf((radius / SIGMA) ** 2, 2, (np.asarray(distance) / SIGMA) ** 2))

    edge = brentq(lambda distance: float(p_one(distance)) - 0.5, 1e-6, 2)  # where the smoothed class changes
    true_radius = np.where(column(found, "predicted") == (offset < edge), np.abs(offset - edge), 0.0)
    wrong = (column(found, "predicted") >= 0) & (column(found, "radius") > true_radius)
    assert (column(found, "predicted") >= 0).mean() > 0.5
    assert wrong.mean() <= ALLOWED
    above = column(found, "p_lower") > probability_of_selected(found, p_one(offset))
    assert 0.2 * ALPHA < above.mean() <= ALLOWED


def test_constant() -> None:
    found = certify(lambda x: torch.ones(len(x), dtype=torch.bool), points(2, 0.0, 1.0), 60)
    assert {certificate.predicted for certificate in found} == {1}
    assert {certificate.count_top for certificate in found} == {60}
    assert column(found, "radius") == pytest.approx(float(largest_radius(60, ALPHA, SIGMA)), rel=1e-12)


@pytest.mark.parametrize("bias", [0.52, 0.7])
def test_coin(bias: float) -> None:
    """Class 1 with the same probability everywhere: a smoothed classifier that never changes, seen through noise."""
    found = certify(lambda x: (x[:, 0].double() * 1e4) % 1 < bias, points(3, 0.0, 1.0), 60)
    wrong = column(found, "predicted") == 0
    assert wrong.mean() <= ALLOWED
    above = column(found, "p_lower") > probability_of_selected(found, np.full(COUNT, bias))
    assert 0.2 * ALPHA < above.mean() <= ALLOWED
    shares = np.array([certificate.counts[1] / certificate.n for certificate in found if certificate.n == 60])
    if bias == 0.7:  # at .52 the copies are few where abstention was certain
        assert shares.mean() == pytest.approx(bias, abs=0.005)


def test_predict() -> None:
    """Right beside the boundary half of all counts point the wrong way; almost none of them may be an answer."""
    smoothed = Smoothed(Base(half_space), SIGMA, 2, precision="fp32", device="cpu")
    images = torch.full((COUNT, 2), 0.5)
    images[:, 0] += 0.001
    answers = np.array(smoothed.predict(images, n=60, alpha=ALPHA))
    assert 0.2 * ALPHA / 2 < (answers == 0).mean() <= ALLOWED
    assert (answers == -1).mean() > 0.9


def test_a_bound_that_is_three_times_too_bold_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        bench.smoothing, "lower_confidence_bound", lambda k, n, alpha: lower_confidence_bound(k, n, 3 * alpha)
    )
    images = points(0, 0.2, 0.8)[:20_000]
    found = certify(half_space, images, 60)
    above = column(found, "p_lower") > probability_of_selected(
        found, norm.cdf((images[:, 0].double().numpy() - 0.5) / SIGMA)
    )
    assert above.mean() > ALPHA + 4 * math.sqrt(ALPHA * (1 - ALPHA) / 20_000)


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
    [sure] = Smoothed(always, SIGMA, 2, precision="fp32", device="cpu").certify(torch.rand(1, 2), n0=1, n=n, alpha=0.6)
    assert sure.counts == (0, n)
    assert sure.p_lower == pytest.approx(0.6 ** (1 / n))
    assert sure.radius == pytest.approx(SIGMA * norm.ppf(0.6 ** (1 / n)))

    class Late(Base):
        """Class 1 in the selection, class 0 ever after."""

        calls = 0

        def forward(self, points: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(points) if self.calls == 1 else super().forward(points).flip(1)

    [none] = Smoothed(Late(always.inside), SIGMA, 2, precision="fp32", device="cpu").certify(
        torch.rand(1, 2), n0=1, n=n, alpha=0.6
    )
    assert (none.selected, none.count_top, none.p_lower, none.predicted) == (1, 0, 0.0, -1)
    assert sum(none.counts) == none.n == none.counts[0]


def test_a_tie_in_the_selection_falls_to_the_lower_class() -> None:
    class Tied(nn.Module):
        def forward(self, points: Tensor) -> Tensor:
            return nn.functional.one_hot(torch.arange(len(points)) % 3, 3).float()

    [certificate] = Smoothed(Tied(), SIGMA, 3, precision="fp32", device="cpu").certify(torch.rand(1, 2), n0=3, n=63)
    assert certificate.selected == 0
    assert certificate.status == "abstained"
    assert sum(certificate.counts) == certificate.n
