from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import beta, binom, norm
from statsmodels.stats.proportion import proportion_confint

from results.bounds.radius import certified_radius, largest_radius, lower_confidence_bound, two_sided_radius


def test_bound_is_the_one_of_the_published_code() -> None:
    for k, n, alpha in [(1, 10, 0.01), (99_000, 100_000, 0.001), (51, 100, 0.05), (7, 7, 0.001)]:
        assert lower_confidence_bound(k, n, alpha) == proportion_confint(k, n, 2 * alpha, method="beta")[0]


def test_bound_is_where_the_binomial_tail_is_alpha() -> None:
    p = float(lower_confidence_bound(950, 1000, 0.001))
    assert binom.sf(949, 1000, p) == pytest.approx(0.001, rel=1e-6)


def test_bound_at_the_edges() -> None:
    assert lower_confidence_bound(0, 5, 0.001) == 0
    assert lower_confidence_bound(100_000, 100_000, 0.001) == pytest.approx(0.001 ** (1 / 100_000))
    assert lower_confidence_bound(1, 1, 0.2) == pytest.approx(0.2)


@pytest.mark.parametrize("alpha", [1e-20, 1e-60, 1e-100, 1e-102])
def test_bound_is_a_number_at_the_smallest_alphas(alpha: float) -> None:
    bounds = lower_confidence_bound(np.arange(1001), 1000, alpha)
    assert np.isfinite(bounds).all()
    assert (np.diff(bounds) > -1e-12).all()


def test_bound_takes_arrays() -> None:
    k = np.array([0, 500, 1000])
    assert lower_confidence_bound(k, 1000, 0.01) == pytest.approx([0, beta.ppf(0.01, 500, 501), 0.01 ** (1 / 1000)])


@pytest.mark.parametrize(
    ("n", "alpha", "share"), [(100_000, 0.001, 0.6), (10_000, 0.01, 0.99), (1000, 0.05, 0.8), (60, 0.3, 0.7)]
)
def test_bounds_are_wrong_exactly_as_often_as_alpha_says(n: int, alpha: float, share: float, seed: int) -> None:
    """A million times, at a probability at which they are wrong as often as anywhere: one just below the p for which k
    or more of n have probability alpha. There the bound from k is wrong, and that from k − 1 is not."""
    k, trials = round(share * n), 1_000_000
    p = (1 - 1e-9) * brentq(lambda p: binom.sf(k - 1, n, p) - alpha, 1e-9, k / n, xtol=1e-14)
    counts, times = np.unique(np.random.default_rng(seed).binomial(n, p, trials), return_counts=True)
    wrong = times[lower_confidence_bound(counts, n, alpha) > p].sum() / trials
    assert abs(wrong - alpha) < 4 * np.sqrt(alpha * (1 - alpha) / trials)


def test_radius() -> None:
    assert certified_radius(norm.cdf(1.5), 0.25) == pytest.approx(0.375)
    assert certified_radius([0.2, 0.5, 0.5 - 1e-12], 1.0) == pytest.approx([0, 0, 0])


@pytest.mark.parametrize(("sigma", "limit"), [(0.25, 0.9529), (0.5, 1.9057), (1.0, 3.8115)])
def test_largest_radius_at_the_defaults(sigma: float, limit: float) -> None:
    assert largest_radius(100_000, 0.001, sigma) == pytest.approx(limit, abs=1e-4)


@pytest.mark.parametrize(("k", "n", "alpha"), [(-1, 5, 0.1), (6, 5, 0.1), (0, 0, 0.1), (1, 5, 0.0), (1, 5, 1.0)])
def test_arguments_out_of_range_are_refused(k: int, n: int, alpha: float) -> None:
    with pytest.raises(ValueError, match="must"):
        lower_confidence_bound(k, n, alpha)


@pytest.mark.parametrize("p", [(0.55, 0.45, 0.0), (0.5, 0.25, 0.25), (0.9, 0.04, 0.06), (0.34, 0.33, 0.33)])
def test_the_two_sided_radius_is_too_large_at_most_as_often_as_alpha(p: tuple[float, ...], seed: int) -> None:
    alpha, sigma, images = 0.1, 0.5, 4000
    counts = np.random.default_rng(seed).multinomial(200, p, size=images)
    radius = two_sided_radius(counts, np.zeros(images, dtype=np.int64), alpha, sigma)
    true = sigma / 2 * (norm.ppf(p[0]) - norm.ppf(max(p[1:])))
    assert (radius > true).sum() <= binom.isf(1e-6, images, alpha)


def test_the_two_sided_radius_by_hand_and_against_the_one_sided() -> None:
    counts = np.array([[600, 200, 200], [900, 100, 0], [0, 5, 5]])
    found = two_sided_radius(counts, np.array([0, 0, 1]), 0.001, 0.5)
    p_a = proportion_confint(600, 1000, 0.001, method="beta")[0]
    p_b = proportion_confint(200, 1000, 0.0005, method="beta")[1]
    assert found[0] == pytest.approx(0.25 * (norm.ppf(p_a) - norm.ppf(p_b)))
    one_sided = certified_radius(lower_confidence_bound([600, 900], 1000, 0.001), 0.5)
    assert found[0] > one_sided[0]  # the other answers are spread over two classes
    assert found[1] == pytest.approx(0.5 * norm.ppf(proportion_confint(900, 1000, 0.001, method="beta")[0]))
    assert found[2] == 0


def test_the_distance_of_the_noise_is_taken_from_both_bounds_of_the_two_sided_radius() -> None:
    counts, selected = np.array([[600, 200, 200], [900, 100, 0]]), np.array([0, 0])
    p_a = proportion_confint(600, 1000, 0.001, method="beta")[0] - 0.01
    p_b = proportion_confint(200, 1000, 0.0005, method="beta")[1] + 0.01
    found = two_sided_radius(counts, selected, 0.001, 0.5, 0.01)
    assert found[0] == pytest.approx(0.25 * (norm.ppf(p_a) - norm.ppf(p_b)))
    p_a = proportion_confint(900, 1000, 0.001, method="beta")[0] - 0.01
    assert found[1] == pytest.approx(0.5 * norm.ppf(p_a))
