"""Paired statistics: do two methods differ on the same test images?"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from results.analysis.groups import SAME, Group, arithmetic_of, refuse_twins, trained_models
from results.analysis.metrics import RADII
from results.analysis.permutation import sign_flip_test
from results.analysis.statistics import NO_SPREAD, Interval, per_image, wilson
from results.bounds.prediction import fair_coin_p_value
from results.errors import BenchError
from results.printable import named_sigma
from results.store.run import Run

SEED = 0  # of the signs
METHOD = (
    "Primary endpoint: ACR, by a sign-flip permutation test over the images and its interval. Holm: over the pairs at "
    "all σ and of all training seeds, so over all of this table; one over seeds is corrected by itself. Secondary, not "
    "corrected: accuracy at each radius, by McNemar's exact test and Newcombe's interval. Intervals (95 %) and "
    "p-values: uncertainty of the test images, not of training."
)
OF_TRIALS = ("trial_id", "method", "sigma", "seed", "members", *SAME)
"""Columns of trials that a comparison needs; `members` may be lacking."""
OF_CERTIFICATES = ("trial_id", "index", "label", "correct", "radius", "estimator", "lattice_pixels")
"""Columns of certificates that it needs."""


class CompareError(BenchError):
    """Trials that no paired statistic compares; the message says why."""


def compare(run: Run, methods: list[str] | None = None) -> pd.DataFrame:
    """Every pair of methods at equal σ and training seed, image by image.

    The primary endpoint of a pair is ACR, by a sign-flip permutation test over the images
    (`results.analysis.permutation`). Holm's method corrects its p-values over all that is returned, so that equal
    methods are told apart in at most 5 % of such outputs. Certified accuracy at each radius, by McNemar's exact test,
    is secondary: its p-values are not corrected and decide nothing. The uncertainty is that of the test images: another
    training seed may decide otherwise.

    Args:
        run: as `read_run` gives it.
        methods: rows of the tables; all where not given.

    Returns:
        A row for each pair and quantity:
        `sigma`, `seed`;
        `first`, `second`: the methods;
        `shared_models`: trained models that both consist of, as an ensemble and its members' own row do: such methods
        are not independent;
        `endpoint`: "primary" or "secondary";
        `quantity`: "acr", or "accuracy" at `radius`;
        `first_value`, `second_value`, `difference`: first minus second; accuracies as shares, radii in [0, 1] pixel
        units;
        `lower`, `upper`: 95 % interval of the difference: of an accuracy Newcombe's, of the ACR the permutation test's,
        NaN where too few images differ;
        `only_first`, `only_second`: images that only one certifies correctly at the radius (accuracy only);
        `effect`: of an accuracy Cohen's g, the share of `only_first` among both, minus 1/2; of the ACR Cohen's d of the
        paired differences, their mean over their standard deviation (NaN where that is 0);
        `p_value`: NaN where there is no interval;
        `p_holm`: of the primary endpoint, over all rows; a pair without a p-value counts as one with 1. Else NaN.

    Raises:
        CompareError: an unknown method, nothing to compare, or as `check_comparable`.
        BenchError: two trials of one method, σ and seed.
    """
    refuse_twins(run.trials)
    wanted = known_methods(run, methods)
    certificates = dict(list(run.certificates[[*OF_CERTIFICATES]].groupby("trial_id", sort=False)))
    rows: list[dict[str, object]] = []
    for (sigma, seed), cell in run.trials.filter(items=OF_TRIALS).groupby(["sigma", "seed"]):
        trials = [trial for method in wanted for trial in cell[cell["method"] == method].to_dict("records")]
        for first, second in combinations(trials, 2):
            one, other = certificates[first["trial_id"]], certificates[second["trial_id"]]
            check_comparable(first, second, one, other)
            names = {"sigma": sigma, "seed": seed, "first": first["method"], "second": second["method"]}
            names["shared_models"] = len(trained_models(first) & trained_models(second))
            rows += [names | row for row in _pair(one, other)]
    if not rows:
        raise CompareError("there are no two methods with the same σ and training seed")
    table = pd.DataFrame(rows)
    primary = table.loc[table["endpoint"] == "primary", "p_value"]
    corrected = pd.Series(holm(primary.fillna(1.0)), primary.index)
    return table.assign(p_holm=corrected.where(primary.notna()))


def known_methods(run: Run, methods: list[str] | None) -> list[str]:
    """The methods that are named, each once, or all of the run; CompareError where one is not there."""
    known = list(dict.fromkeys(run.trials["method"]))
    wanted = known if methods is None else list(dict.fromkeys(methods))
    for method in wanted:
        if method not in known:
            raise CompareError(f"no trial is {method}; there are {', '.join(known)}")
    return wanted


@dataclass(frozen=True)
class Lead:
    """By how much the method with the largest ACR at a σ is ahead of the next one."""

    sigma: float
    best: Group
    acr: float
    next: Group | None
    """None: there is no other with which it compares."""
    difference: float = 0.0
    interval: Interval | None = None
    """95 %, of the permutation test."""
    p_value: float = np.nan
    """Corrected for all pairs of methods at all σ (Bonferroni), among which these two were chosen by their ACR; NaN
    where too few images differ."""
    others: int = 0
    """Methods at the σ with which these do not compare."""


def leads(groups: Sequence[Group]) -> list[Lead]:
    """Who has the largest ACR at each σ, and by how much: among the most methods there that compare with each other, by
    the means over their training seeds, image by image.

    Args:
        groups: as `certified_groups` gives them.
    """
    there = {sigma: [group for group in groups if group.sigma == sigma] for sigma in _sigmas(groups)}
    by_sigma = {sigma: max(_classes(own), key=len) for sigma, own in there.items()}
    pairs = sum(len(alike) * (len(alike) - 1) // 2 for alike in by_sigma.values())
    return [
        replace(_lead(sigma, alike, pairs), others=len(there[sigma]) - len(alike)) for sigma, alike in by_sigma.items()
    ]


def _sigmas(groups: Sequence[Group]) -> list[float]:
    return sorted({group.sigma for group in groups})


def _classes(groups: list[Group]) -> list[list[Group]]:
    """The groups, in lists of those that compare with each other."""
    found: list[list[Group]] = []
    for group in groups:
        alike = next((known for known in found if _compare(known[0], group)), None)
        if alike is None:
            found.append([group])
        else:
            alike.append(group)
    return found


def _compare(first: Group, second: Group) -> bool:
    one, other = (own.trials.head(1).filter(items=OF_TRIALS).to_dict("records")[0] for own in (first, second))
    try:
        check_comparable(one, other, first.seeds[0], second.seeds[0])
    except CompareError:
        return False
    return True


def _lead(sigma: float, alike: list[Group], pairs: int) -> Lead:
    def radii(group: Group) -> NDArray[np.float64]:
        rows = group.certificates
        return per_image(rows, rows["radius"] * rows["correct"])

    means = [float(radii(group).mean()) for group in alike]
    order = sorted(range(len(alike)), key=lambda place: -means[place])
    best = alike[order[0]]
    if len(order) == 1:
        return Lead(sigma, best, means[order[0]], None)
    second = alike[order[1]]
    difference = radii(best) - radii(second)
    p_value, interval = sign_flip_test(difference, np.random.default_rng(SEED))
    corrected = min(p_value * pairs, 1.0)  # in this order NaN stays NaN
    return Lead(sigma, best, means[order[0]], second, float(difference.mean()), interval, corrected)


def check_comparable(
    first: Mapping[Hashable, Any], second: Mapping[Hashable, Any], one: pd.DataFrame, other: pd.DataFrame
) -> None:
    """Raise CompareError, with the reason, unless both trials certify the same images in the same way: the columns of
    SAME, the images, their labels, the estimator and the arithmetic agree.

    Args:
        first: the row of trials of the first.
        second: that of the second.
        one: the certificates of the first.
        other: those of the second.
    """
    pair = f"{first['method']} and {second['method']} at {named_sigma(first['sigma'])} cannot be compared"
    for name in SAME:
        if first[name] != second[name]:
            raise CompareError(f"{pair}: {name} is {first[name]} for one and {second[name]} for the other")
    left, right = (rows[["index", "label", "estimator"]].sort_values("index") for rows in (one, other))
    if left["index"].tolist() != right["index"].tolist():
        raise CompareError(f"{pair}: their test images are different ones")
    if left["label"].tolist() != right["label"].tolist():
        raise CompareError(f"{pair}: the same images have different labels")
    kinds = {left["estimator"].iloc[0], right["estimator"].iloc[0]}
    if len(kinds) > 1 and kinds != {"fixed", "imported"}:  # a log is of as many samples for every image
        raise CompareError(f"{pair}: their estimators are {' and '.join(sorted(kinds))}")
    if arithmetic_of(one) != arithmetic_of(other):
        raise CompareError(f"{pair}: their arithmetics are float and sound")


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """p-values corrected for their number m (Holm 1979, Scandinavian Journal of Statistics 6, 65): the k-th smallest
    times m − k + 1, at least those before it and at most 1.

    Args:
        p_values: (m,), none of them NaN.

    Returns:
        (m,), in the same order.
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values)
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)), 1.0)
    return corrected


def mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided p-value of McNemar's exact test (1947, Psychometrika 12, 153): twice the probability that of the
    images that count for one of two alone, so few or fewer count for the same one, if each is as likely to count for
    either; at most 1.

    Args:
        only_first: images that count for the first alone.
        only_second: for the second alone.
    """
    return fair_coin_p_value(only_first, only_first + only_second)


def newcombe(both: int, only_first: int, only_second: int, neither: int) -> Interval:
    """95 % interval of the difference of two shares of the same images, from their Wilson intervals and correlation:
    method 10 of Newcombe 1998 (Statistics in Medicine 17, 2635).

    Args:
        both: images that count for both.
        only_first: for the first alone.
        only_second: for the second alone.
        neither: for none; the four are not all 0.
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
    p_value, interval = sign_flip_test(difference, np.random.default_rng(SEED))
    return {
        "endpoint": "primary",
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
        "p_value": p_value,
    }


def _accuracy(radius: float, first: NDArray[np.bool_], second: NDArray[np.bool_]) -> dict[str, object]:
    both, only_first = int((first & second).sum()), int((first & ~second).sum())
    only_second, neither = int((~first & second).sum()), int((~first & ~second).sum())
    discordant = only_first + only_second
    interval = newcombe(both, only_first, only_second, neither)
    return {
        "endpoint": "secondary",
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
        "p_value": mcnemar(only_first, only_second),
    }
