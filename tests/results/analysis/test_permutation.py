from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import permutation_test
from statsmodels.stats.multitest import multipletests

from results.analysis.permutation import sign_flip_test
from tests.conftest import repeated

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]
NULL: list[Draw] = [
    lambda random, size: random.normal(0, 1, size),
    lambda random, size: random.gamma(0.5, 2, size) * random.choice([-1, 1], size),
    lambda random, size: random.choice([-1, 1], size),
    lambda random, size: random.choice([1, 9], size, p=[0.9, 0.1]) * random.choice([-1, 1], size),
]
"""Differences of two methods that are equally good on every image."""


def with_equal_images(differing: NDArray[np.float64], images: int) -> NDArray[np.float64]:
    return np.concatenate([differing, np.zeros(images - len(differing))])


@pytest.mark.parametrize("differing", [4, 6, 10, 12, 13, 30, 60])
def test_the_p_value_is_that_of_scipy(differing: int) -> None:
    random = np.random.default_rng(differing)
    values = np.round(random.normal(0.05, 0.1, differing), 2)  # with ties
    found, _ = sign_flip_test(with_equal_images(values, 100), random)
    theirs = permutation_test(
        (values,), lambda sample, axis: sample.sum(axis=axis), permutation_type="samples", vectorized=True, rng=0
    ).pvalue
    assert found == pytest.approx(theirs, abs=1e-12 if differing <= 12 else 0.02)


def test_all_assignments_by_hand() -> None:
    # 1 + 2 + 4 + 8 + 16 − 32 = −1: all 64 sums are odd and differ, and but for ±1 all are further from 0
    found, interval = sign_flip_test(np.array([1.0, 2, 4, 8, 16, -32]), np.random.default_rng(0))
    assert found == 1
    assert 0 in interval
    # Only the observed signs and the opposite ones reach the sum of equal signs.
    found, interval = sign_flip_test(with_equal_images(np.arange(1.0, 8), 50), np.random.default_rng(0))
    assert found == 2 / 2**7
    assert interval.lower > 0


@repeated(240, 960)
@pytest.mark.parametrize("differing", [2, 4, 10, 30, 49, 50, 100])
def test_equal_methods_are_told_apart_as_often_as_the_level_says(differing: int, repeats: int, seed: int) -> None:
    random = np.random.default_rng([seed, differing])
    rejected = 0
    for repeat in range(repeats):
        values = np.round(NULL[repeat % len(NULL)](random, differing) + 1e-9, 1)
        p_value, interval = sign_flip_test(with_equal_images(values, 120), random)
        assert np.isnan(p_value) == (not interval)
        if interval:
            assert (0 in interval) == (p_value > 0.05)
        rejected += p_value <= 0.05
    assert rejected / repeats <= 0.05 + 3.5 * np.sqrt(0.05 * 0.95 / repeats)
    assert (rejected > 0) == (differing >= 10)


@repeated(15, 150)
def test_of_six_equal_methods_at_two_sigma_hardly_any_two_are_told_apart(repeats: int, seed: int) -> None:
    random, images = np.random.default_rng([seed, 6]), 30
    told_apart = 0
    for _ in range(repeats):
        p_values = []
        for _ in range(2):
            draw = np.round(random.gamma(2, 0.3, (7, images)), 1) * (random.random((7, images)) < 0.7)
            radii = np.where(random.random((6, images)) < 0.3, draw[:6], draw[6])  # the others agree on most images
            p_values += [sign_flip_test(first - second, random)[0] for first, second in combinations(radii, 2)]
        adjusted = multipletests(np.nan_to_num(p_values, nan=1.0), method="holm")[1]
        told_apart += bool((adjusted < 0.05).any())
    assert told_apart / repeats <= 0.05 + 3.5 * np.sqrt(0.05 * 0.95 / repeats)


@repeated(80, 800)
@pytest.mark.parametrize(
    ("share", "draw"),
    [
        (0.05, lambda random, size: random.gamma(0.7, 1, size)),
        (0.05, lambda random, size: random.gamma(0.7, 1, size) * random.choice([-1, 1], size, p=[0.2, 0.8])),
        (0.3, lambda random, size: random.normal(0.5, 1, size)),
    ],
)
def test_the_interval_covers(share: float, draw: Draw, repeats: int, seed: int) -> None:
    random, images = np.random.default_rng([seed, 8]), 300
    truth = share * draw(random, 2_000_000).mean()
    inside = 0
    for _ in range(repeats):
        values = np.round(draw(random, random.binomial(images, share)), 1)
        inside += truth in sign_flip_test(with_equal_images(values, images), random)[1]
    # .92 and more of many (docs/performance.md)
    assert inside / repeats >= 0.92 - 3 * np.sqrt(0.92 * 0.08 / repeats)


def test_what_no_flip_reaches_is_bounded_by_hoeffdings_inequality() -> None:
    random = np.random.default_rng(0)
    values = random.normal(0.05, 0.1, 1000)
    found, interval = sign_flip_test(values, random)
    assert found == pytest.approx(2 * np.exp(-(values.sum() ** 2) / (2 * (values**2).sum())))
    assert found < 1e-30
    half = 1.96 * values.std() / np.sqrt(1000)
    assert [interval.lower, interval.upper] == pytest.approx([values.mean() - half, values.mean() + half], abs=half / 8)


@pytest.mark.parametrize(
    "values", [np.zeros(20), np.full(20, 0.3), with_equal_images(np.full(3, 0.2), 400), np.ones(1)]
)
def test_without_an_interval_there_is_no_p_value(values: NDArray[np.float64]) -> None:
    p_value, interval = sign_flip_test(values, np.random.default_rng(0))
    assert np.isnan(p_value)
    assert not interval
