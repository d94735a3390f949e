"""Accuracy of the base classifier beside that of the smoothed one: without noise, and on one noise sample.

Together they tell a model that was not trained with noise (right without it, at chance with it) from one whose labels
are numbered otherwise than those of the data (at chance with and without).
"""

from __future__ import annotations

import pandas as pd

from results.analysis.statistics import wilson

CLEAN, NOISY = "base_clean", "base_noisy"
AT_CHANCE = 0.15
"""Of the way from chance to 1: an accuracy may be one of guessing whose interval ends below, and begins below twice
that of chance."""
HIGH = 0.3
"""Of the same way: where the interval of an accuracy is above, the classifier knows its data."""
ENOUGH = 20
"""Images of a class, of which a classifier that has not lost it selects the class for one at least."""


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
    """What is wrong with classifiers: what their base classifiers' accuracies give away, and classes that a model never
    selects. A sentence for each method and σ.

    Chance is the share of the most frequent label, or 1 / classes if that is more. Intervals are of 95 %, so that of a
    few images nothing is said.

    Args:
        certificates: rows of any number of trials, with the columns of `results.store.rows.CertificateRow`.
    """
    sentences = []
    for (method, sigma), rows in certificates.groupby(["method", "sigma"], sort=False):
        if not has_base_answers(rows):
            continue
        images = rows["index"].nunique()
        chance = max(1 / len(rows["counts"].iloc[0]), float(rows["label"].value_counts(normalize=True).iloc[0]))
        intervals = [wilson(float((rows[name] == rows["label"]).mean()) * images, images) for name in (CLEAN, NOISY)]
        of_clean, of_noisy = [(float(lower), float(upper)) for lower, upper in intervals]
        if not _at_chance(of_noisy, chance):
            if lost := _lost_classes(rows):
                sentences.append(f"{method} at σ = {sigma:g}: {lost}")
            continue
        clean, noisy = (100 * float((rows[column] == rows["label"]).mean()) for column in (CLEAN, NOISY))
        what = (
            f"{method} at σ = {sigma:g}: the base classifier is right on {clean:.1f} % of the images without noise and "
            f"on {noisy:.1f} % with one noise sample each; chance is {100 * chance:.1f} %"
        )
        if of_clean[0] > chance + HIGH * (1 - chance):
            sentences.append(
                f"{what}. So it was not trained with this noise, or what stands before it, such as a denoiser, does "
                "not fit it."
            )
        elif _at_chance(of_clean, chance):
            sentences.append(
                f"{what}. So it is untrained, its classes are numbered otherwise than those of the data, or it expects "
                "pixels in another range."
            )
    return [sentence.replace(" %", "\u00a0%") for sentence in sentences]


def _lost_classes(rows: pd.DataFrame) -> str:
    """Which classes of the data a model selects for no image at all, in words."""
    seeds = {}
    for seed, own in rows.groupby("seed"):
        counts = own["label"].value_counts()
        lost = counts[(counts >= ENOUGH) & ~counts.index.isin(own["selected"])].sort_index()
        if not lost.empty:
            classes = " and ".join(map(str, lost.index))
            seeds[seed] = f"class{'es' * (len(lost) > 1)} {classes}, to which {lost.sum()} of {len(own)} images belong"
    if not seeds:
        return ""
    of_all = len(set(seeds.values())) == 1 and len(seeds) == rows["seed"].nunique()
    told = [next(iter(seeds.values()))] if of_all else [f"with seed {seed} {lost}" for seed, lost in seeds.items()]
    return f"no image is taken for {'; '.join(told)}. So its training has collapsed."


def _at_chance(interval: tuple[float, float], chance: float) -> bool:
    return interval[0] < 2 * chance and interval[1] < chance + AT_CHANCE * (1 - chance)
