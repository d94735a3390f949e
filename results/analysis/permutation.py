"""Is the mean of paired differences zero? A test that flips their signs, and the interval that belongs to it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from results.analysis.statistics import CONFIDENCE, NO_SPREAD, Interval, bootstrap_mean

ASSIGNMENTS = 5000
"""Of signs, the observed one among them, where not all are enumerated."""
FEW = 500
"""Differences other than 0; below it the sum is skewed enough to ask the bootstrap as well."""
_CHUNK = 2_000_000  # signs drawn at a time


def sign_flip_test(differences: NDArray[np.float64], generator: np.random.Generator) -> tuple[float, Interval]:
    """Fisher's randomisation test of no difference, two-sided, and a 95 % interval of the mean.

    Where two methods are equally good on each image, every difference is as likely with the other sign. So the p-value
    is the share of all assignments of signs whose sum is at least as far from 0 as the observed one: of all 2^k where
    the k differences other than 0 allow no more than ASSIGNMENTS, otherwise (b + 1) / (m + 1) of m random ones (Phipson
    & Smyth 2010), so that a true null hypothesis is rejected at most as often as the level says, whatever k. Where none
    of them is as far out, Hoeffding's bound 2 exp(−(Σd)² / 2Σd²) on that share takes over once it is smaller.

    `scipy.stats.permutation_test` gives the same p-value; the interval needs its flips, and 10 000 images its time.

    The interval holds the means that the same test of d − mean does not reject at .05, so it holds 0 exactly where the
    p-value is above .05. Where fewer than FEW images differ and mostly one way, that is too short at the end away from
    0; there it reaches as far as the studentised bootstrap's.

    Args:
        differences: (images,), of two methods on the same images.
        generator: of the random signs, and of the bootstrap.

    Returns:
        The p-value and the interval; NaN and an empty interval where the images that differ are too few for one, or all
        differ by the same.
    """
    count, observed = len(differences), float(differences.sum())
    differing = differences[np.abs(differences) > NO_SPREAD]
    nothing = float("nan"), Interval(np.nan, np.nan)
    if differences.std() <= NO_SPREAD:
        return nothing
    sums, signs = _flipped(differing, generator)
    # Of the equal images nothing changes but the sum of their signs, on which a mean other than 0 depends.
    signs = signs + 2 * generator.binomial(count - len(differing), 0.5, len(signs)) - (count - len(differing))
    rounding = 1e-10 * float(np.abs(differing).sum())
    extreme = np.abs(sums) >= abs(observed) - rounding
    p_value = float(extreme.mean())
    if extreme.sum() == 1:
        p_value = min(p_value, 2 * math.exp(-(observed**2) / (2 * float((differing**2).sum()))))
    interval = _not_rejected(observed, count, sums, signs, rounding)
    if len(differing) < FEW:
        other = bootstrap_mean(differences, generator)
        away_from_0 = (interval.lower, max(interval.upper, other.upper))
        if observed < 0:
            away_from_0 = (min(interval.lower, other.lower), interval.upper)
        interval = Interval(*away_from_0) if other else other
    return (p_value, interval) if interval and np.isfinite([interval.lower, interval.upper]).all() else nothing


def _flipped(
    values: NDArray[np.float64], generator: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Σ sᵢ vᵢ and Σ sᵢ of each assignment of signs s: all, equally often, or the observed one and random ones."""
    count = len(values)
    if 2**count <= ASSIGNMENTS:
        minus = np.arange(2**count)[:, None] >> np.arange(count) & 1
        minus = np.tile(minus, (-(-ASSIGNMENTS // 2**count), 1))
        return values.sum() - 2 * (minus @ values), count - 2 * minus.sum(axis=1)
    sums, signs = [values.sum(keepdims=True)], [np.array([count])]
    columns = np.stack([values, np.ones(count)], axis=1)
    step = max(1, _CHUNK // count)
    for first in range(1, ASSIGNMENTS, step):
        size = min(step, ASSIGNMENTS - first)
        bits = np.frombuffer(generator.bytes(size * -(-count // 8)), dtype=np.uint8).reshape(size, -1)
        flipped = np.unpackbits(bits, axis=1, count=count).astype(np.float64) @ columns
        sums.append(values.sum() - 2 * flipped[:, 0])
        signs.append(count - 2 * flipped[:, 1].astype(np.int64))
    return np.concatenate(sums), np.concatenate(signs)


def _not_rejected(
    observed: float, count: int, sums: NDArray[np.float64], signs: NDArray[np.int64], rounding: float
) -> Interval:
    """The means θ for which more than 5 % of the assignments have |Σ sᵢ (dᵢ − θ)| ≥ |Σ (dᵢ − θ)|.

    Each assignment has so between the two θ at which its sides are equal, (Σd ∓ Σsd) / (count ∓ Σs), among which
    the mean itself lies; an assignment of one sign to all has so everywhere.
    """
    everywhere = np.abs(signs) == count
    differences = np.stack([observed - sums, observed + sums])
    differences[np.abs(differences) <= rounding] = 0.0
    ends = differences / np.where(everywhere, 1, np.stack([count - signs, count + signs]))
    lower = np.sort(np.where(everywhere, -np.inf, ends.min(axis=0)))
    upper = np.sort(np.where(everywhere, np.inf, ends.max(axis=0)))
    outside = int((1 - CONFIDENCE) * len(sums))
    return Interval(float(lower[outside]), float(upper[-1 - outside]))
