"""Accuracy of the base classifier beside that of the smoothed one: without noise, and on one noise sample.

Together they tell a model that was not trained with noise (right without it, at chance with it) from one whose labels
are numbered otherwise than those of the data (at chance with and without).
"""

from __future__ import annotations

import pandas as pd

from results.analysis.statistics import wilson

CLEAN, NOISY = "base_clean", "base_noisy"
AT_CHANCE = 0.1
"""Of the way from chance to 1: an accuracy whose interval is below is one of guessing."""
HIGH = 0.5
"""Of the same way: an accuracy whose interval is above is that of a classifier that knows its data."""


def has_base_answers(certificates: pd.DataFrame) -> bool:
    """Whether the answers of the base classifier are known for all rows; imported logs have none."""
    return bool(certificates[[CLEAN, NOISY]].notna().all(axis=None))


def base_accuracy(certificates: pd.DataFrame, column: str) -> float:
    """Share of rows of one trial on which the base classifier is right; NaN where its answers are not known.

    Args:
        column: CLEAN or NOISY.
    """
    if not has_base_answers(certificates):
        return float("nan")
    return float((certificates[column] == certificates["label"]).mean())


def suspicions(certificates: pd.DataFrame) -> list[str]:
    """What the base classifiers' accuracies give away, in a sentence for each method and σ.

    "At chance" is said where the upper end of the 95 % interval is below AT_CHANCE of the way from chance to 1, chance
    being the share of the most frequent label, or 1 / classes if that is more: of a few images nothing is said.

    Args:
        certificates: rows of any number of trials, with the columns of `results.store.rows.CertificateRow`.
    """
    sentences = []
    for (method, sigma), rows in certificates.groupby(["method", "sigma"], sort=False):
        if not has_base_answers(rows):
            continue
        images = rows["index"].nunique()
        chance = max(1 / len(rows["counts"].iloc[0]), float(rows["label"].value_counts(normalize=True).iloc[0]))
        skill = {}
        for column in (CLEAN, NOISY):
            lower, upper = wilson(float((rows[column] == rows["label"]).mean()) * images, images)
            skill[column] = tuple((float(end) - chance) / max(1 - chance, 1e-9) for end in (lower, upper))
        if skill[NOISY][1] >= AT_CHANCE:
            continue
        clean, noisy = (100 * float((rows[column] == rows["label"]).mean()) for column in (CLEAN, NOISY))
        what = (
            f"{method} at σ = {sigma:g}: the base classifier is right on {clean:.1f} % of the images without noise and "
            f"on {noisy:.1f} % with one noise sample each; chance is {100 * chance:.1f} %"
        )
        if skill[CLEAN][0] > HIGH:
            sentences.append(f"{what}. So it was not trained with this noise, or meets it before a step that it knows.")
        elif skill[CLEAN][1] < AT_CHANCE:
            sentences.append(
                f"{what}. So it is untrained, its classes are numbered otherwise than those of the data, or it expects "
                "pixels in another range."
            )
    return [sentence.replace(" %", "\u00a0%") for sentence in sentences]
