"""Noise samples allotted over images: the largest sum of radii, and the same guarantee for each."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import betaincinv

from results.analysis.allotment import QUANTILES, STEPS, allotted_samples
from results.bounds.radius import certified_radius, lower_confidence_bound
from tests.results.bounds.test_two_stage import ALPHA, LOGS, N0, N, radius, replayed, two_stage


def worth(count: int, n0: int, n: NDArray[np.int64] | int, alpha: float) -> float:
    """The radius that an image may expect of n samples."""
    shares = betaincinv(count + 0.5, n0 - count + 0.1, QUANTILES)
    bounds = lower_confidence_bound(np.floor(shares * n), np.maximum(n, 1), alpha)
    return float(certified_radius(bounds, 1.0).mean()) if n else 0.0


def test_no_other_allotment_is_worth_more() -> None:
    """Of all that give three images so many samples as there are to choose from, and no more in all."""
    counts, total, alpha = np.array([60, 90, 100]), 3000, 0.01
    found = allotted_samples(counts, 100, total, alpha)
    assert found.sum() <= total
    sizes = [0, *np.unique(np.ceil(STEPS * 1000).astype(int)).tolist()]
    values = [{size: worth(int(count), 100, size, alpha) for size in sizes} for count in counts]
    own = sum(value[size] for value, size in zip(values, found.tolist(), strict=True))
    best = max(
        sum(value[size] for value, size in zip(values, choice, strict=True))
        for choice in product(sizes, repeat=3)
        if sum(choice) <= found.sum()
    )
    assert own == pytest.approx(best, rel=1e-12)
    equal = sum(value[1000] for value in values)
    assert own > equal + 0.05


def test_the_whole_total_is_used_and_an_image_without_hope_has_none() -> None:
    counts = np.array([100] * 50 + [80] * 50 + [10] * 20)
    found = allotted_samples(counts, 100, 120_000, 0.001)
    assert 120_000 - found.max() < found.sum() <= 120_000
    assert (found[counts == 10] == 0).all()
    assert len(np.unique(found[counts == 100])) <= 2  # what is left goes to the first
    with pytest.raises(ValueError, match="total = 119: must be at least one sample for each of 120 images"):
        allotted_samples(counts, 100, 119, 0.001)


@pytest.mark.parametrize("p", [0.55, 0.8, 0.97])
def test_each_bound_is_wrong_at_most_as_often_as_alpha(p: float) -> None:
    """In 100 000 images, at alpha = .05."""
    images, random = 100_000, np.random.default_rng(0)
    n = allotted_samples(random.binomial(20, p, images), 20, 100 * images, 0.05)
    assert len(np.unique(n)) > 3
    wrong = (n > 0) & (lower_confidence_bound(random.binomial(n, p), np.maximum(n, 1), 0.05) > p)
    assert 0.01 < wrong.mean() < 0.05 + 4 * np.sqrt(0.05 * 0.95 / images)


@pytest.mark.skipif(not LOGS.is_dir(), reason="the published logs are not at hand")
@pytest.mark.slow
def test_on_published_logs_it_gains_one_percent_and_two_stage_sampling_is_nearly_as_good() -> None:
    random = np.random.default_rng(0)
    for path in sorted(LOGS.glob("*.tsv")):
        p, correct = replayed(path)
        p = p[correct > 0]

        def acr(total: int, p: NDArray[np.float64] = p) -> float:
            n = allotted_samples(random.binomial(N0, p), N0, total, ALPHA)
            return float(radius(random.binomial(n, p).astype(float), np.maximum(n, 1)).mean())

        fixed = radius(random.binomial(N, p).astype(float), N).mean()
        used, found = two_stage(p, random)
        same, fewer = acr(N * len(p)) / fixed - 1, acr(int(used.sum())) / found.mean() - 1
        print(path.name, f"{same:+.2%} at n = {N}, {fewer:+.2%} at the {used.mean():.0f} of two-stage sampling")
        assert same > 0.005
        assert -0.0005 < fewer < 0.0025
