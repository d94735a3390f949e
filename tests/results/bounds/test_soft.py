"""The lower bound on an expected softmax, from whole numbers that say where its samples were."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from results.bounds.anytime import STAKES
from results.bounds.soft import EDGES, SCALE, UNIT, expected_softmax_bound

Floats = NDArray[np.float64]
ALPHA = 0.05


def weights_of(x: Floats) -> NDArray[np.int64]:
    """(images, samples) in [0, 1] -> (images, edges), in floating point and one sample at a time."""
    edges = EDGES / SCALE
    found = np.zeros((len(x), len(EDGES)))
    for own in x.T:
        place = np.minimum(np.searchsorted(edges, own, side="right") - 1, len(EDGES) - 2)
        upper = (own - edges[place]) / (edges[place + 1] - edges[place])
        np.add.at(found, (np.arange(len(x)), place), 1 - upper)
        np.add.at(found, (np.arange(len(x)), place + 1), upper)
    return np.round(found * UNIT).astype(np.int64)


def test_the_distances_of_edges_are_powers_of_two() -> None:
    assert (EDGES[0], EDGES[-1]) == (0, SCALE)
    assert set(np.log2(np.diff(EDGES)) % 1) == {0.0}
    assert np.diff(EDGES).max() == UNIT


@pytest.mark.parametrize("images", [1500, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("draw", "mean"),
    [
        (lambda random, size: random.beta(4, 1, size), 0.8),
        (lambda random, size: (random.random(size) < 0.9).astype(float), 0.9),
        (lambda random, size: np.where(random.random(size) < 0.01, 0.0, 0.999), 0.99 * 0.999),
    ],
    ids=["spread", "counts", "rarely wrong"],
)
def test_it_is_wrong_at_most_as_often_as_alpha(
    draw: Callable[[np.random.Generator, tuple[int, int]], Floats], mean: float, images: int
) -> None:
    found = expected_softmax_bound(weights_of(draw(np.random.default_rng(0), (images, 200))), ALPHA)
    assert (found > mean).mean() <= ALPHA + 4 * np.sqrt(ALPHA * (1 - ALPHA) / images)
    assert (found > mean - 0.15).mean() > 0.9


def test_a_bound_by_the_central_limit_theorem_is_wrong_more_often() -> None:
    x = np.where(np.random.default_rng(0).random((3000, 200)) < 0.01, 0.0, 0.999)
    bound = x.mean(axis=1) - 1.645 * x.std(axis=1) / np.sqrt(200)
    assert (bound > 0.99 * 0.999).mean() > 2 * ALPHA


def test_no_wealth_is_larger_than_that_of_the_samples_themselves() -> None:
    """And little is lost by keeping them between edges."""
    x = np.random.default_rng(0).beta(9, 1, (1, 5000))

    def wealth(m: float) -> float:
        return float(np.exp(np.log1p(STAKES[:, None] * (x - m)).sum(axis=1)).mean())

    [found] = expected_softmax_bound(weights_of(x), 0.001)
    assert wealth(found) >= 1000
    assert wealth(found + 2e-4) < 1000


def test_samples_that_all_give_1_have_nearly_the_bound_of_counts() -> None:
    weights = np.zeros((1, len(EDGES)), dtype=np.int64)
    weights[0, -1] = 100_000 * UNIT
    [found] = expected_softmax_bound(weights, 0.001)
    assert 0.001 / len(STAKES) < (2 - found) ** -100_000 < 0.0015 / len(STAKES)
    assert expected_softmax_bound(np.roll(weights, 1, axis=1), 0.001) == [0.0]
