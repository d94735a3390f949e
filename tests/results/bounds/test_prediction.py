"""The test of PREDICT, beside SciPy's binomial test, which finds the other tail by a search."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from results.bounds.prediction import fair_coin_p_value

ALPHAS = (0.05, 0.01, 0.001, 0.001 / 2, 0.001 / 3, 1e-6)
"""Of an answer, and of one of two or three that it takes."""


@pytest.mark.parametrize("counts", [range(1, 61), [100, 101, 1000]], ids=["small", "usual"])
def test_it_is_the_binomial_test_at_every_count(counts: list[int]) -> None:
    for n in counts:
        for count in range(n // 2 + 1):
            expected = float(binomtest(count, n, 0.5).pvalue)  # of n - count too
            for found in (fair_coin_p_value(count, n), fair_coin_p_value(n - count, n)):
                assert found == pytest.approx(expected, rel=1e-12)
                assert found <= 1
                assert [found <= alpha for alpha in ALPHAS] == [expected <= alpha for alpha in ALPHAS]


@pytest.mark.parametrize("n", [100_000, 1_000_000])
def test_of_many_samples_the_same_counts_are_sure(n: int) -> None:
    for alpha in ALPHAS:
        low, high = n // 2, n  # unsure and sure
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if fair_coin_p_value(middle, n) <= alpha else (middle, high)
        assert binomtest(low, n, 0.5).pvalue > alpha >= binomtest(high, n, 0.5).pvalue
        assert fair_coin_p_value(n - high, n) == fair_coin_p_value(high, n)
