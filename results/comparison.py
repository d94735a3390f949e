"""Paired statistics: do two methods differ on the same test images?"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtr

from results.groups import SAME, refuse_twins
from results.metrics import RADII
from results.run import Run
from results.statistics import NO_SPREAD, RESAMPLES, Interval, studentised, studentised_interval, wilson

SEED = 0  # of the bootstrap
METHOD = (
    "Accuracy: McNemar's exact test, Newcombe's interval. ACR: studentised bootstrap over the images, and Student's t "
    "where the bootstrap's p-value is below what its resamples resolve. Intervals (95 %) and p-values: uncertainty of "
    "the test images, not of training. Holm: over the pairs at all σ, for each quantity and training seed."
)


class CompareError(ValueError):
    """Trials that no paired statistic compares; the message says why."""


def compare(run: Run, methods: list[str] | None = None) -> pd.DataFrame:
    """Every pair of methods at equal σ and training seed, image by image.

    Certified accuracy at each radius by McNemar's exact test; ACR by a studentised bootstrap over the images. The
    p-values of a quantity are corrected by Holm's method over all pairs, for each training seed by itself. The
    uncertainty is that of the test images: another training seed may decide otherwise.

    Args:
        methods: rows of the tables; all where not given.

    Returns:
        A row for each pair and quantity:
        `sigma`, `seed`;
        `first`, `second`: the methods;
        `quantity`: "acr", or "accuracy" at `radius`;
        `first_value`, `second_value`, `difference`: first minus second; accuracies as shares, radii in [0, 1] pixel
        units;
        `lower`, `upper`: 95 % interval of the difference: of an accuracy Newcombe's, of the ACR the bootstrap's, NaN
        where too few images differ;
        `only_first`, `only_second`: images that only one certifies correctly at the radius (accuracy only);
        `effect`: of an accuracy Cohen's g, the share of `only_first` among both, minus 1/2; of the ACR Cohen's d of the
        paired differences, their mean over their standard deviation (NaN where that is 0);
        `p_value`, `p_holm`.

    Raises:
        CompareError: an unknown method, nothing to compare, or trials with other images, n, n0 or alpha.
        ValueError: two trials of one method, σ and seed.
    """
    from statsmodels.stats.multitest import multipletests  # a second to import

    refuse_twins(run.trials)
    known = list(dict.fromkeys(run.trials["method"]))
    wanted = known if methods is None else list(dict.fromkeys(methods))
    for method in wanted:
        if method not in known:
            raise CompareError(f"no trial is {method}; there are {', '.join(known)}")
    certificates = dict(list(run.certificates.groupby("trial_id", sort=False)))
    rows: list[dict[str, object]] = []
    for (sigma, seed), cell in run.trials.groupby(["sigma", "seed"]):
        trials = [trial for method in wanted for trial in cell[cell["method"] == method].to_dict("records")]
        for first, second in combinations(trials, 2):
            one, other = certificates[first["trial_id"]], certificates[second["trial_id"]]
            check_comparable(first, second, one, other)
            names = {"sigma": sigma, "seed": seed, "first": first["method"], "second": second["method"]}
            rows += [names | row for row in _pair(one, other)]
    if not rows:
        raise CompareError("there are no two methods with the same σ and training seed")
    table = pd.DataFrame(rows)
    families = table.groupby(["seed", "quantity", "radius"], dropna=False)["p_value"]
    return table.assign(p_holm=families.transform(lambda values: multipletests(values, method="holm")[1]))


def check_comparable(
    first: Mapping[Hashable, Any], second: Mapping[Hashable, Any], one: pd.DataFrame, other: pd.DataFrame
) -> None:
    """Raise CompareError, with the reason, unless both trials certify the same images in the same way."""
    pair = f"{first['method']} and {second['method']} at σ = {first['sigma']:g} cannot be compared"
    for name in SAME:
        if first[name] != second[name]:
            raise CompareError(f"{pair}: {name} is {first[name]} for one and {second[name]} for the other")
    left, right = one.sort_values("index"), other.sort_values("index")
    if left["index"].tolist() != right["index"].tolist():
        raise CompareError(f"{pair}: their test images are different ones")
    if left["label"].tolist() != right["label"].tolist():
        raise CompareError(f"{pair}: the same images have different labels")
    kinds = {left["estimator"].iloc[0], right["estimator"].iloc[0]}
    if len(kinds) > 1 and kinds != {"fixed", "imported"}:  # a log is of as many copies for every image
        raise CompareError(f"{pair}: their estimators are {' and '.join(sorted(kinds))}")


def newcombe(both: int, only_first: int, only_second: int, neither: int) -> Interval:
    """95 % interval of the difference of two shares of the same images, from their Wilson intervals and correlation:
    method 10 of Newcombe 1998 (Statistics in Medicine 17, 2635).

    Args:
        both, only_first, only_second, neither: how many images count for whom.
    """
    count = both + only_first + only_second + neither
    ends = [wilson(float(both + only), count) for only in (only_first, only_second)]
    (lower_1, upper_1), (lower_2, upper_2) = ends
    p_1, p_2 = (both + only_first) / count, (both + only_second) / count
    margins = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    covariance = float(both * neither - only_first * only_second)
    if covariance > 0:
        covariance = max(covariance - count / 2, 0)  # Newcombe's continuity correction
    correlation = covariance / np.sqrt(margins) if margins else 0.0

    def half(first: float, second: float) -> float:
        return float(np.sqrt(first**2 - 2 * correlation * first * second + second**2))

    difference = p_1 - p_2
    return Interval(difference - half(p_1 - lower_1, upper_2 - p_2), difference + half(upper_1 - p_1, p_2 - lower_2))


def _pair(one: pd.DataFrame, other: pd.DataFrame) -> list[dict[str, object]]:
    one, other = one.sort_values("index"), other.sort_values("index")
    first, second = ((rows["radius"] * rows["correct"]).to_numpy() for rows in (one, other))
    rows = [_acr(first, second)]
    largest = max(first.max(), second.max())
    for radius in (0.0, *(radius for radius in RADII if radius <= largest)):
        certified = [(rows["correct"] & (rows["radius"] >= radius)).to_numpy() for rows in (one, other)]
        rows.append(_accuracy(radius, *certified))
    return rows


def _acr(first: NDArray[np.float64], second: NDArray[np.float64]) -> dict[str, object]:
    difference = first - second
    mean, spread = float(difference.mean()), float(difference.std())
    statistics = studentised(difference, np.random.default_rng(SEED))
    interval = studentised_interval(difference, statistics)
    return {
        "quantity": "acr",
        "radius": np.nan,
        "first_value": float(first.mean()),
        "second_value": float(second.mean()),
        "difference": mean,
        "lower": interval.lower,
        "upper": interval.upper,
        "only_first": np.nan,
        "only_second": np.nan,
        "effect": mean / spread if spread > NO_SPREAD else np.nan,
        "p_value": _bootstrap_p_value(mean, spread, statistics, len(difference)),
    }


def _bootstrap_p_value(mean: float, spread: float, statistics: NDArray[np.float64], count: int) -> float:
    """Two-sided, of no difference; below .05 where the 95 % interval leaves 0 out. Student's t where no resample is as
    far out."""
    if spread <= NO_SPREAD:
        return 1.0 if abs(mean) <= NO_SPREAD else min(1.0, 2.0 ** (1 - count))  # the sign test: all differ one way
    observed = mean / spread
    above, below = int((statistics >= observed).sum()), int((statistics <= observed).sum())
    resolved = min(1.0, 2 * (1 + min(above, below)) / (1 + RESAMPLES))
    if min(above, below) > 0 or count < 2:
        return resolved
    return min(resolved, float(2 * stdtr(count - 1, -abs(observed) * np.sqrt(count - 1))))


def _accuracy(radius: float, first: NDArray[np.bool_], second: NDArray[np.bool_]) -> dict[str, object]:
    from statsmodels.stats.contingency_tables import mcnemar

    both, only_first = int((first & second).sum()), int((first & ~second).sum())
    only_second, neither = int((~first & second).sum()), int((~first & ~second).sum())
    discordant = only_first + only_second
    interval = newcombe(both, only_first, only_second, neither)
    return {
        "quantity": "accuracy",
        "radius": radius,
        "first_value": float(first.mean()),
        "second_value": float(second.mean()),
        "difference": (only_first - only_second) / len(first),
        "lower": interval.lower,
        "upper": interval.upper,
        "only_first": only_first,
        "only_second": only_second,
        "effect": only_first / discordant - 0.5 if discordant else 0.0,
        "p_value": min(1.0, float(mcnemar([[both, only_first], [only_second, neither]], exact=True).pvalue))
        if discordant
        else 1.0,
    }
