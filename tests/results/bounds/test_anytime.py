"""The bound that holds at every number of samples: how often it is ever wrong, computed exactly."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from mpmath import mp, mpf
from numpy.typing import NDArray

from results.bounds import LOOKING
from results.bounds.anytime import (
    PARTS,
    STAKES,
    Design,
    anytime_bound,
    look_sizes,
    may_stop,
    stake_weights,
)
from results.bounds.radius import lower_confidence_bound
from results.bounds.two_stage import sample_sizes

Floats = NDArray[np.float64]
Bound = Callable[[NDArray[np.int64], NDArray[np.int64]], Floats]
ALPHA = 0.05


def design(share: float, planned: int, n: int, images: int = 1) -> Design:
    return Design(np.full(images, share), np.full(images, planned), n)


def ever_wrong(bound: Bound, shares: list[float], sizes: list[int]) -> list[float]:
    """The probability that the bound is above p after any of the numbers of samples, if p is the true probability, for
    each p: of all sequences of answers, by the counts that they pass."""
    found = np.split(
        bound(np.concatenate([np.arange(size + 1) for size in sizes]), np.repeat(sizes, np.array(sizes) + 1)),
        np.cumsum(np.array(sizes) + 1)[:-1],
    )
    chances = []
    for p in shares:
        alive, wrong, before = np.array([1.0]), 0.0, 0
        for size, bounds in zip(sizes, found, strict=True):
            for _ in range(size - before):
                alive = np.append(alive * (1 - p), 0.0) + np.append(0.0, alive * p)
            wrong += float(alive[bounds > p].sum())
            alive[bounds > p] = 0.0
            before = size
        chances.append(wrong)
    return chances


def anytime(own: Design) -> Bound:
    return lambda k, t: anytime_bound(
        k, t, Design(np.repeat(own.share, len(k)), np.repeat(own.planned, len(k)), own.n), ALPHA
    )


@pytest.mark.parametrize("n", [128, pytest.param(512, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("share", "planned"), [(0.55, 1), (0.9, 4), (0.999, 2)])
def test_looking_after_every_sample_it_is_ever_wrong_at_most_as_often_as_alpha(
    share: float, planned: int, n: int
) -> None:
    """Whatever the selection said, and whether or not it was right."""
    bound = anytime(design(share, n // planned, n))
    chances = ever_wrong(bound, [0.3, 0.51, 0.8, 0.95, 0.995], list(range(1, n + 1)))
    assert max(chances) <= ALPHA
    assert max(chances) > ALPHA / 2  # and is not much more careful than it must be


def test_at_the_looks_of_a_run_it_is_ever_wrong_at_most_as_often_as_alpha() -> None:
    """In 100 000 simulated images each, at alpha = .05."""
    n, images = 2000, 100_000
    for p in (0.55, 0.9, 0.99):
        random = np.random.default_rng(0)
        counts, wrong, before = np.zeros(images, dtype=np.int64), np.zeros(images, dtype=bool), 0
        for size in look_sizes(n):
            counts += random.binomial(size - before, p, images)
            distinct, where = np.unique(counts, return_inverse=True)
            found = anytime_bound(distinct, size, design(p, 500, n, len(distinct)), ALPHA)
            wrong |= (found > p)[where]
            before = size
        assert wrong.mean() <= ALPHA + 4 * np.sqrt(ALPHA * (1 - ALPHA) / images)
        assert wrong.mean() > ALPHA / 5


@pytest.mark.parametrize("looks", [10, 300])
def test_a_bound_for_one_size_is_wrong_too_often_when_it_is_looked_at_more_often(looks: int) -> None:
    def fixed(k: NDArray[np.int64], t: NDArray[np.int64]) -> Floats:
        return lower_confidence_bound(k, t, ALPHA)

    assert ever_wrong(fixed, [0.8], [300])[0] <= ALPHA
    assert ever_wrong(fixed, [0.8], [300 * look // looks for look in range(1, looks + 1)])[0] > 2 * ALPHA


@pytest.mark.parametrize(("k", "t"), [(9, 10), (10, 10), (5000, 9000), (99_990, 100_000), (100_000, 100_000)])
def test_the_wealth_at_the_bound_is_one_over_its_alpha(k: int, t: int) -> None:
    own = design(0.95, 50_000, 200_000)  # no size of Clopper–Pearson's
    found = float(anytime_bound([k], [t], own, 0.001)[0])
    mp.dps = 50

    def wealth(m: float) -> mpf:
        weights = stake_weights(own, 0.001)[0]
        return sum(
            mpf(w) * (1 + mpf(stake) * (1 - mpf(m))) ** k * (1 - mpf(stake) * mpf(m)) ** (t - k)
            for w, stake in zip(weights, STAKES, strict=True)
        )

    assert wealth(0.0) < 1e4 if found == 0 else wealth(found) >= (1 - mpf(1e-9)) / (LOOKING * 0.001)
    assert wealth(found + 1e-9 * (1 - found) + 1e-15) < (1 + mpf(1e-9)) / (LOOKING * 0.001)


def test_at_the_sizes_that_were_decided_it_is_nearly_the_bound_of_one_size() -> None:
    own = design(0.95, 25_000, 100_000)
    for t, share in ((25_000, 0.45), (100_000, 0.45)):
        k = round(0.95 * t)
        [found] = anytime_bound([k], [t], own, 0.001)
        assert found == pytest.approx(lower_confidence_bound(k, t, share * 0.001), rel=1e-12)
    [sure] = anytime_bound([100_000], [100_000], design(0.999, 100_000, 100_000), 0.001)
    assert sure == pytest.approx(0.0009 ** (1 / 100_000), abs=1e-12)
    elsewhere = anytime_bound([47_500], [50_000], own, 0.001)
    assert elsewhere < lower_confidence_bound(47_500, 50_000, 0.00045)


def test_no_success_no_bound() -> None:
    assert anytime_bound([0, 0], [1, 100], design(0.5, 100, 100, 2), ALPHA).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("n", [1, 7, 100, 100_000])
def test_looks_are_parts_of_n_and_have_the_sizes_of_two_stages(n: int) -> None:
    looks = look_sizes(n)
    assert looks == sorted(set(looks))
    assert looks[-1] == n
    assert set(sample_sizes(n)) <= set(looks)
    assert len(look_sizes(100_000)) == len(PARTS)


def test_an_image_is_stopped_where_the_rest_would_add_little() -> None:
    def stops(k: int, t: int) -> bool:
        return may_stop(k, t, Design.of(np.array([round(100 * k / t)]), 100, 100_000, 0.001), 0.001)

    assert stops(3125 // 3, 3125)  # it will abstain
    assert not stops(3125, 3125)  # the radius goes on growing
    assert not stops(75_000, 75_000)
    assert stops(24_000, 25_000)
    assert not stops(3000, 3125)
