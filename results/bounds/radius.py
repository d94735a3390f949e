"""From counts to a certified radius: CERTIFY of Cohen, Rosenfeld & Kolter 2019 (their section 3.2), steps 3 and 4.

A noise sample of x is classified as class ĉ with unknown probability p_A. Of n samples, k were. With probability at
least 1 − alpha the bound p_lower below does not exceed p_A, and then no perturbation of ℓ2 norm below σ Φ⁻¹(p_lower)
changes the smoothed classifier's answer (their Theorem 1).
"""

from __future__ import annotations

from bisect import bisect_left
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, ndtri


def lower_confidence_bound(successes: ArrayLike, n: ArrayLike, alpha: ArrayLike) -> NDArray[np.float64]:
    """One-sided Clopper–Pearson lower bound on a binomial probability, at confidence 1 − alpha: the alpha quantile of
    Beta(k, n − k + 1). statsmodels' `proportion_confint(k, n, 2 * alpha, method="beta")[0]` is the same number.

    Args:
        successes: k, from 0 to n; any shape.
        n: number of independent samples, at least 1; broadcasts.
        alpha: probability of a bound above the true probability, in (0, 1); broadcasts.

    Raises:
        ValueError: an argument outside its range.
    """
    k, n, alpha = np.broadcast_arrays(np.asarray(successes), np.asarray(n), np.asarray(alpha, dtype=np.float64))
    if np.any(n < 1) or np.any(k < 0) or np.any(k > n):
        raise ValueError("counts must satisfy 0 <= k <= n and n >= 1")
    if np.any(alpha <= 0) or np.any(alpha >= 1):
        raise ValueError("alpha must be above 0 and below 1")
    return np.where(k == 0, 0.0, betaincinv(np.maximum(k, 1), n - k + 1, alpha))


def certified_radius(p_lower: ArrayLike, sigma: ArrayLike) -> NDArray[np.float64]:
    """R = σ Φ⁻¹(p_lower), an ℓ2 distance in [0, 1] pixel units; 0 where p_lower < 1/2 (abstain). Never rounded.

    Args:
        p_lower: lower bound on the probability of the selected class, in [0, 1]; any shape.
        sigma: standard deviation of the noise, in [0, 1] pixel units; broadcasts.
    """
    p_lower = np.asarray(p_lower, dtype=np.float64)
    return np.where(p_lower < 0.5, 0.0, np.asarray(sigma) * ndtri(np.maximum(p_lower, 0.5)))


def upper_confidence_bound(successes: ArrayLike, n: ArrayLike, alpha: ArrayLike) -> NDArray[np.float64]:
    """One-sided Clopper–Pearson upper bound on a binomial probability, at confidence 1 − alpha: one minus the lower
    bound on the other outcome. Arguments and errors as for `lower_confidence_bound`."""
    return 1 - lower_confidence_bound(np.asarray(n) - np.asarray(successes), n, alpha)


def two_sided_radius(
    counts: NDArray[np.int64],
    selected: NDArray[np.int64],
    alpha: ArrayLike,
    sigma: ArrayLike,
    distance: ArrayLike = 0.0,
) -> NDArray[np.float64]:
    """R = σ/2 (Φ⁻¹(p_A) − Φ⁻¹(p_B)), p_A from below and p_B from above (Cohen et al. 2019, Theorem 1; thesis Eq. 2.6);
    0 where it is not positive. It exceeds `certified_radius` where the other answers are spread over several classes.

    Both bounds hold together at confidence 1 − alpha: p_A's has alpha/2, and each of the K − 1 other classes
    alpha/(2(K − 1)), since which of them is the most probable one is not known (Bonferroni). p_B is at most 1 − p_A.

    Args:
        counts: (images, K) of n samples, n decided before they were drawn; K is at least 2.
        selected: (images,), the class that other samples chose.
        alpha: probability of a radius that is wrong, in (0, 1); broadcasts to (images,).
        sigma: standard deviation of the noise, in [0, 1] pixel units; broadcasts to (images,).
        distance: total variation between the noise that was drawn and a Gaussian, by which p_A is less and p_B more;
            broadcasts to (images,).

    Returns:
        (images,), in [0, 1] pixel units.

    Raises:
        ValueError: an image without samples, or alpha outside its range.
    """
    rows, (images, classes) = np.arange(len(counts)), counts.shape
    n, level = counts.sum(axis=1), np.broadcast_to(np.asarray(alpha, dtype=np.float64), images)
    off = np.asarray(distance, dtype=np.float64)
    p_a = np.maximum(lower_confidence_bound(counts[rows, selected], n, level / 2) - off, 0.0)
    others = upper_confidence_bound(counts, n[:, None], level[:, None] / 2 / (classes - 1))
    others[rows, selected] = 0.0
    p_b = np.minimum(others.max(axis=1) + off, 1 - p_a)
    with np.errstate(invalid="ignore"):  # −∞ − −∞ where neither class was ever the answer
        radius = np.asarray(sigma) / 2 * (ndtri(p_a) - ndtri(p_b))
    return np.where(p_a > p_b, radius, 0.0)


def largest_radius(n: ArrayLike, alpha: ArrayLike, sigma: ArrayLike) -> NDArray[np.float64]:
    """The radius when all n samples agree, σ Φ⁻¹(alpha^(1/n)): no `certified_radius` from n samples can exceed it.
    Arguments as for `lower_confidence_bound` and `certified_radius`, not checked."""
    return certified_radius(np.asarray(alpha, dtype=np.float64) ** (1 / np.asarray(n)), sigma)


@lru_cache(maxsize=64)
def certifying_count(n: int, alpha: float) -> int:
    """The smallest k of n samples whose p_lower reaches 1/2; n + 1 where even n of n is too few. Errors as for
    `lower_confidence_bound`."""
    return bisect_left(range(n + 1), x=True, key=lambda k: bool(lower_confidence_bound(k, n, alpha) >= 0.5))
