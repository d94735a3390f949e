"""From counts to an answer: the test of PREDICT (Cohen, Rosenfeld & Kolter 2019, their section 3.2.1)."""

from __future__ import annotations

import math

from scipy.special import betainc

from results.errors import BenchError


def check_prediction(n: int, alpha: float) -> None:
    """Raise BenchError where PREDICT with n samples is not possible, or abstains whatever the samples say."""
    if n < 1 or not 0 < alpha < 1:
        raise BenchError(f"n = {n} must be at least 1 and alpha = {alpha} between 0 and 1")
    if 2 * 0.5**n > alpha:  # the p-value of n samples that all agree
        raise BenchError(
            f"n = {n} with alpha = {alpha:g}: abstains on every image, even one on which all samples agree; n must be "
            f"at least {1 + math.ceil(-math.log2(alpha))}"
        )


def fair_coin_p_value(count: int, n: int) -> float:
    """How probable it is that n tosses of a fair coin differ from n/2 by as much as `count` does, or by more: SciPy's
    `binomtest(count, n, 0.5).pvalue`, without its search and without `scipy.stats`, which takes a second to import.

    Args:
        count: from 0 to n.
    """
    more = max(count, n - count)
    if 2 * more - n <= 1:
        return 1.0  # and not the rounding of it
    return 2 * float(betainc(more, n - more + 1, 0.5))  # P(at least that many), to more digits than bdtrc
