"""From counts to a certified radius: CERTIFY of Cohen, Rosenfeld & Kolter 2019 (their section 3.2), steps 3 and 4.

A noisy copy of x is classified as class ĉ with unknown probability p_A. Of n copies, k were. With probability at
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
        n: number of independent copies, at least 1; broadcasts.
        alpha: probability of a bound above the true probability, in (0, 1); broadcasts.

    Raises:
        ValueError: an argument outside its range.
    """
    k, n, alpha = np.broadcast_arrays(np.asarray(successes), np.asarray(n), np.asarray(alpha, dtype=np.float64))
    if np.any(n < 1) or np.any(k < 0) or np.any(k > n):
        raise ValueError("counts must satisfy 0 <= k <= n and n >= 1")
    if not np.all((alpha > 0) & (alpha < 1)):  # NaN is not
        raise ValueError("alpha must be above 0 and below 1")
    return np.where(k == 0, 0.0, betaincinv(np.maximum(k, 1), n - k + 1, alpha))


def certified_radius(p_lower: ArrayLike, sigma: ArrayLike) -> NDArray[np.float64]:
    """R = σ Φ⁻¹(p_lower), an ℓ2 distance in [0, 1] pixel units; 0 where p_lower < 1/2 (abstain). Never rounded."""
    p_lower = np.asarray(p_lower, dtype=np.float64)
    return np.where(p_lower < 0.5, 0.0, np.asarray(sigma) * ndtri(np.maximum(p_lower, 0.5)))


def two_sided_certified_radius(
    top: ArrayLike, runner_up: ArrayLike, n: ArrayLike, alpha: ArrayLike, sigma: ArrayLike, num_classes: int
) -> NDArray[np.float64]:
    """R = σ/2 (Φ⁻¹(p_A) − Φ⁻¹(p_B)), an ℓ2 distance in [0, 1] pixel units; 0 where p_A ≤ p_B (Cohen et al. 2019,
    Theorem 1; thesis, Eq. 2.6), with a lower bound p_A on the probability of the selected class and an upper bound p_B
    on that of every other class.

    They hold together with probability at least 1 − alpha, by Bonferroni's inequality over the classes: p_A is the
    Clopper–Pearson bound at alpha/2; each of the other classes has one at alpha / 2(num_classes − 1), and p_B is the
    largest of these, that of the most frequent other class. (Its bound at alpha/2 would be unsound: the sample itself
    chooses which class that is.) Where p_A holds, no other class has more than 1 − p_A, so p_B is at most that, at no
    cost.

    Args:
        top: copies of the selected class, which must not have been selected by the same copies; any shape.
        runner_up: copies of the most frequent other class; broadcasts, as the next ones.
        n: number of independent copies, fixed beforehand.
        num_classes: at least 2.

    Raises:
        ValueError: an argument outside its range.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes = {num_classes}: must be at least 2")
    half = np.asarray(alpha, dtype=np.float64) / 2
    p_a = lower_confidence_bound(top, n, half)
    # 1 − p_B, which keeps its digits where p_B is small
    rest = np.maximum(lower_confidence_bound(np.asarray(n) - runner_up, n, half / (num_classes - 1)), p_a)
    radius: NDArray[np.float64] = np.maximum(np.asarray(sigma) / 2 * (ndtri(p_a) + ndtri(rest)), 0.0)
    return radius


def largest_radius(n: ArrayLike, alpha: ArrayLike, sigma: ArrayLike) -> NDArray[np.float64]:
    """The radius when all n copies agree, σ Φ⁻¹(alpha^(1/n)): no certificate from n copies can exceed it."""
    return certified_radius(np.asarray(alpha, dtype=np.float64) ** (1 / np.asarray(n)), sigma)


@lru_cache(maxsize=64)
def certifying_count(n: int, alpha: float) -> int:
    """The smallest k of n copies whose p_lower reaches 1/2; n + 1 where even n of n is too few."""
    return bisect_left(range(n + 1), x=True, key=lambda k: bool(lower_confidence_bound(k, n, alpha) >= 0.5))
