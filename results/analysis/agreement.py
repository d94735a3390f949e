"""Whether two certifications of the same rows can be of one classifier.

The noise of both is the same, and only samples whose two largest logits are as close as rounding may be classified
otherwise. What one has more samples of than the other, must be of the same multinomial distribution.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom, chi2_contingency, fisher_exact

from results.store.rows import CertificateRow

ALARM = 1e-3
"""Probability that rows which are all right are found wrong, in all tests together."""
FLIPS = {"fp32": 1e-4, "bf16": 5e-3}
"""Share of samples that may be classified otherwise by other roundings, several times what was measured on CPUs
(docs/performance.md)."""
EXPECTED = 5
"""Samples of a cell from which on the chi-square distribution describes it."""
Counts = NDArray[np.int64]


def disagreement(stored: CertificateRow, found: CertificateRow, level: float) -> str:
    """Why two rows cannot be of one image and classifier; empty where they can.

    Args:
        stored: the row of the run.
        found: the row that was certified again, perhaps with another n.
        level: probability that two which are is found otherwise.
    """
    pairs = list(zip(_parts(stored), _parts(found), strict=False))
    if stored.composition == "dual" and not _of_one_classifier(stored, found):
        pairs = pairs[:1]  # the selector's
    for old, new in pairs:
        if problem := _disagreement(old, new, FLIPS[stored.precision], level / len(pairs)):
            return problem
    return ""


def _of_one_classifier(stored: CertificateRow, found: CertificateRow) -> bool:
    """Whether the same part of a composed classifier was selected."""
    if stored.composition == "dual":
        first, second = (np.argmax(row.selector_selection_counts or [0]) for row in (stored, found))
        return bool(first == second)
    return stored.selector_sigmas == found.selector_sigmas


def _parts(row: CertificateRow) -> list[tuple[Counts, Counts]]:
    """The counts of the selection and of the estimation of each part in the order in which they were asked; of a
    classifier that is not composed, of itself."""
    lists = [np.array(counts, dtype=np.int64) for counts in (row.selection_counts, row.counts)]
    count = len(row.selector_sigmas or ())
    before = [
        np.reshape(np.array(counts, dtype=np.int64), (count, -1)) if count else ()
        for counts in (row.selector_selection_counts, row.selector_counts)
    ]
    return [*zip(*before, strict=True), (lists[0], lists[1])]


def _disagreement(old: tuple[Counts, Counts], new: tuple[Counts, Counts], flipping: float, level: float) -> str:
    """As `disagreement`, of one classifier, whose samples are classified otherwise with probability `flipping`."""
    if len(old[0]) != len(new[0]):
        return f"{len(old[0])} classes then, {len(new[0])} now"
    for before, after in zip(old, new, strict=True):
        flips, samples = fewest_flips(before, after), int(min(before.sum(), after.sum()))
        if binom.sf(flips - 1, samples, flipping) < level / 4:
            return f"at least {flips} of the same {samples} samples are classified otherwise"
    p = homogeneity(sum(old), sum(new))
    return f"no probabilities give both counts ({as_p(p)})" if p < level / 2 else ""


def answers_differ(differing: int, pairs: Sequence[tuple[CertificateRow, CertificateRow]]) -> float:
    """p-value of so many rows whose base classifier answered otherwise, to the image itself or to one noise sample.

    Args:
        pairs: all rows, stored and found.
    """
    share = max((FLIPS[stored.precision] for stored, _ in pairs), default=0.0)
    return float(binom.sf(differing - 1, 2 * len(pairs), share))


def as_p(value: float) -> str:
    """A p-value for a message: one digit, and never 0."""
    return f"p = {value:.1g}" if value else "p below 1e-300"


def fewest_flips(first: Counts, second: Counts) -> int:
    """The smallest number of samples with other answers that leads from one vector of counts to the other, where the
    shorter sample is the beginning of the longer one."""
    shorter, longer = sorted((first, second), key=lambda counts: int(counts.sum()))
    return int(np.maximum(shorter - longer, 0).sum())


def homogeneity(first: ArrayLike, second: ArrayLike) -> float:
    """p-value for two vectors of counts (classes,) being samples of one multinomial distribution: the smallest of a
    chi-square test of the whole vectors, with rare classes put together, and of Fisher's exact test of each class,
    times their number (Bonferroni). Agresti, Categorical Data Analysis (2013), 3.2 and 3.5; rare classes by Cochran's
    rule (Biometrics 10, 1954). It is 1 where there is nothing to tell apart: one class, or a vector of zeros.
    """
    table = np.array([first, second], dtype=np.int64)
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2 or not table.sum(axis=1).all():
        return 1.0
    totals = table.sum(axis=1, keepdims=True)
    classes = range(table.shape[1])
    p_values = [float(fisher_exact(np.hstack([table[:, [k]], totals - table[:, [k]]])).pvalue) for k in classes]
    order = np.argsort(table.sum(axis=0), kind="stable")
    expected = np.cumsum(table.sum(axis=0)[order]) * totals.min() / totals.sum()
    rare = int(np.searchsorted(expected, EXPECTED)) + 1  # the fewest of the rarest classes that are enough together
    parts = [table[:, order[:rare]].sum(axis=1), *table[:, order[rare:]].T]
    if len(parts) > 1:
        p_values.append(float(chi2_contingency(np.stack(parts, axis=1), correction=False).pvalue))
    return min(1.0, min(p_values) * len(p_values))


def pooled(pairs: Sequence[tuple[CertificateRow, CertificateRow]]) -> float:
    """p-value for the stored counts of the selected classes being neither larger nor smaller than the found ones, all
    rows together: the Cochran-Mantel-Haenszel test (Mantel & Haenszel 1959). A small bias of every row shows here.

    Args:
        pairs: of rows of `results.store.schema.CERTIFICATES`, stored and found, with counts of the same classes.
    """
    from statsmodels.stats.contingency_tables import StratifiedTable  # takes a second to import

    tables = []
    for stored, found in pairs:
        if not _of_one_classifier(stored, found):
            continue
        both = np.array([np.add(row.selection_counts or [], row.counts or []) for row in (stored, found)])
        top, totals = both[:, stored.selected], both.sum(axis=1)
        if 0 < top.sum() < totals.sum():
            tables.append(np.stack([top, totals - top], axis=1))
    if not tables:
        return 1.0
    return float(StratifiedTable([table.astype(float) for table in tables]).test_null_odds(correction=True).pvalue)


def share_that_may_be_wrong(checked: int, rows: int) -> float:
    """With 95 % confidence at most this share of the rows is wrong, where `checked` of them, drawn at random, are
    right: the largest of which none is drawn with a probability of 5 % (hypergeometric)."""
    if checked >= rows:
        return 0.0
    low, high = 0, rows - checked  # wrong rows; low of them are not excluded, high + 1 are
    while low < high:
        wrong = (low + high + 1) // 2
        # log P(none of `wrong` is drawn) = sum log((rows - wrong - i) / (rows - i))
        drawn = np.arange(checked)
        missed = float(np.log((rows - wrong - drawn) / (rows - drawn)).sum())
        low, high = (wrong, high) if missed >= np.log(0.05) else (low, wrong - 1)
    return low / rows
