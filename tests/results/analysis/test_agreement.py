"""The tests of `bench verify`: how often they accuse the innocent, and what they find."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, norm

from results.analysis.agreement import ALARM, disagreement, fewest_flips, homogeneity, pooled, share_that_may_be_wrong
from results.store.rows import CertificateRow
from tests.conftest import fake_row, repeated, small_trial

ROW = fake_row(small_trial(), "0" * 64, 0, 0)


def row(counts: list[int], selection: list[int] | None = None) -> CertificateRow:
    """With these counts, of a class 0 that was selected."""
    selection = [0] * len(counts) if selection is None else selection
    return ROW.model_copy(update={"counts": counts, "selection_counts": selection, "selected": 0, "precision": "fp32"})


def probabilities(top: float) -> list[float]:
    return [top, 0.7 * (1 - top), *[0.3 * (1 - top) / 8] * 8]


@repeated(40, 400)
@pytest.mark.parametrize("top", [0.4, 0.9, 0.999])
@pytest.mark.parametrize("samples", [(1100, 1100), (100_100, 100)])
def test_counts_of_one_distribution_are_seldom_told_apart(
    top: float, samples: tuple[int, int], repeats: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    found = [homogeneity(*(random.multinomial(n, probabilities(top)) for n in samples)) for _ in range(repeats)]
    for level in (0.05, 0.01):
        assert sum(p < level for p in found) <= binom.isf(1e-6, repeats, level)


@pytest.mark.parametrize("rows", [1, 5, 299])
def test_rows_of_one_distribution_are_seldom_biased_together(rows: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    tops = random.beta(8, 1, size=rows)

    def p_value() -> float:
        counts = random.binomial(1000, np.tile(tops, (2, 1)))
        pairs = [[row([k, 1000 - k]) for k in both] for both in counts.T.tolist()]
        return pooled([(stored, found) for stored, found in pairs])

    found = [p_value() for _ in range(100)]
    assert sum(p < 0.05 for p in found) <= binom.isf(1e-6, 100, 0.05)


def test_what_passed_is_found() -> None:
    """A row with a radius of 3.216 σ for 3.000 σ among 5; a misclassified image claimed as certified; a bias of one
    direction over 50 rows that shows in none of them; and counts raised by half their errors."""
    n = 100_000
    true, forged = (round(n * norm.cdf(radius)) for radius in (3.0, 3.216))
    assert disagreement(row([forged, n - forged]), row([true, n - true]), ALARM / 2 / 5)
    claimed = row([n] + [0] * 9, [100] + [0] * 9)
    assert disagreement(claimed, row([0] * 10, [0] * 5 + [100] + [0] * 4), ALARM / 2 / 299)
    biased = [(row([99_920, 80]), row([99_900, 100]))] * 50
    assert not any(disagreement(*pair, ALARM / 2 / 50) for pair in biased)
    assert pooled(biased) < ALARM / 2
    random = np.random.default_rng(0)
    errors = random.binomial(1000, 0.02, size=(2, 40))
    assert pooled([(row([1000 - k // 2, k // 2]), row([1000 - m, m])) for k, m in errors.T.tolist()]) < ALARM / 2


def test_of_the_same_noise_only_few_copies_may_flip() -> None:
    n = 100_000
    near, far = row([n - 99_000 + 20, 98_980]), row([n - 99_000 + 60, 98_940])
    stored = row([n - 99_000, 99_000])
    assert not disagreement(stored, near, ALARM / 299)
    assert "at least 60 of the same 100000 samples" in disagreement(stored, far, ALARM / 299)
    assert "no probabilities give both counts" in disagreement(row([500, 0]), row([9000, 1000]), ALARM / 299)
    assert fewest_flips(np.array([5, 3, 2]), np.array([4, 3, 3])) == 1
    assert fewest_flips(np.array([10, 3, 2]), np.array([4, 3, 0])) == 0  # the beginning of the longer one
    assert fewest_flips(np.array([10, 3, 2]), np.array([4, 0, 3])) == 1


def test_the_share_that_may_be_wrong() -> None:
    assert share_that_may_be_wrong(299, 10**6) == pytest.approx(0.01, abs=1e-4)
    assert share_that_may_be_wrong(5, 10**6) == pytest.approx(1 - 0.05 ** (1 / 5), abs=1e-4)
    assert share_that_may_be_wrong(7, 7) == 0
    for checked, rows in ((3, 10), (20, 50)):
        wrong = round(share_that_may_be_wrong(checked, rows) * rows)
        missed = [np.prod([(rows - k - i) / (rows - i) for i in range(checked)]) for k in (wrong, wrong + 1)]
        assert missed[0] >= 0.05 > missed[1]


def composed(composition: str, selector: list[int], counts: list[int], sigma: float) -> CertificateRow:
    """A row with these counts of its selector, or of a scale that was passed, and of its classifier."""
    more = {"composition": composition, "sigma_input": sigma, "selector_sigmas": [1.0]}
    more |= {"selector_selection_counts": [count // 10 for count in selector], "selector_counts": selector}
    return row(counts).model_copy(update=more)


def test_parts_of_composed_rows_are_compared_each_with_its_own() -> None:
    """A selector that chose otherwise by rounding may change all counts of the classifier, and nothing else may."""
    stored = composed("dual", [500, 500], [900, 100], 0.25)
    chosen = composed("dual", [500, 500], [100, 900], 0.5).model_copy(update={"selector_selection_counts": [49, 51]})
    assert not disagreement(stored, chosen.model_copy(update={"selector_selection_counts": [49, 50]}), ALARM)
    assert pooled([(stored, chosen)] * 50) == 1.0
    forged = composed("dual", [900, 100], [900, 100], 0.25)
    assert "samples are classified otherwise" in disagreement(stored, forged, ALARM)
    for kind in ("dual", "multi-scale"):
        same = composed(kind, [500, 500], [900, 100], 0.25)
        assert not disagreement(same, same, ALARM)
        assert disagreement(same, composed(kind, [500, 500], [800, 200], 0.25), ALARM)
