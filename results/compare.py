"""Paired statistics: do two methods differ on the same test images?"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from results.metrics import RADII
from results.run import Run
from results.statistics import RESAMPLES, bootstrap_mean, studentised, studentised_interval

SEED = 0  # of the bootstrap
SAME = ("dataset", "n", "n0", "alpha", "images")


class CompareError(ValueError):
    """Trials that no paired statistic compares; the message says why."""


def compare(run: Run, methods: list[str] | None = None) -> pd.DataFrame:
    """Every pair of methods at equal σ and training seed, image by image.

    Certified accuracy at each radius by McNemar's exact test; ACR by a studentised bootstrap over the images. The
    p-values of each quantity are corrected by Holm's method over all pairs. The uncertainty is that of the test images:
    another training seed may decide otherwise.

    Args:
        methods: rows of the tables; all where not given.

    Returns:
        A row for each pair and quantity:
        `sigma`, `seed`;
        `first`, `second`: the methods;
        `quantity`: "acr", or "accuracy" at `radius`;
        `first_value`, `second_value`, `difference`: first minus second; accuracies as shares, radii in [0, 1] pixel
        units;
        `lower`, `upper`: 95 % interval of the difference, studentised bootstrap over images;
        `only_first`, `only_second`: images that only one certifies correctly at the radius (accuracy only);
        `effect`: of an accuracy Cohen's g, the share of `only_first` among both, minus 1/2; of the ACR Cohen's d of the
        paired differences, their mean over their standard deviation;
        `p_value`, `p_holm`.

    Raises:
        CompareError: an unknown method, nothing to compare, or trials with other images, n, n0 or alpha.
    """
    from statsmodels.stats.multitest import multipletests  # a second to import

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
    same = table.groupby(["quantity", "radius"], dropna=False)["p_value"]
    return table.assign(p_holm=same.transform(lambda values: multipletests(values, method="holm")[1]))


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
    if first["trial_id"] == second["trial_id"] or left["estimator"].iloc[0] != right["estimator"].iloc[0]:
        kinds = f"{left['estimator'].iloc[0]} and {right['estimator'].iloc[0]}"
        if "imported" not in kinds:
            raise CompareError(f"{pair}: their estimators are {kinds}")


def _pair(one: pd.DataFrame, other: pd.DataFrame) -> list[dict[str, object]]:
    one, other = one.sort_values("index"), other.sort_values("index")
    first, second = ((rows["radius"] * rows["correct"]).to_numpy() for rows in (one, other))
    rows = [_acr(first, second)]
    largest = max(first.max(), second.max())
    for radius in (0.0, *(radius for radius in RADII if radius <= largest)):
        certified = [(rows["correct"] & (rows["radius"] >= radius)).to_numpy() for rows in (one, other)]
        rows.append(_accuracy(radius, *certified))
    return rows


def _acr(first: np.ndarray, second: np.ndarray) -> dict[str, object]:
    difference = first - second
    spread = float(difference.std())
    statistics = studentised(difference, np.random.default_rng(SEED))
    interval = studentised_interval(difference, statistics)
    observed = abs(difference.mean()) / spread if spread > 0 else 0.0
    return {
        "quantity": "acr",
        "radius": np.nan,
        "first_value": float(first.mean()),
        "second_value": float(second.mean()),
        "difference": float(difference.mean()),
        "lower": interval.lower,
        "upper": interval.upper,
        "only_first": np.nan,
        "only_second": np.nan,
        "effect": float(difference.mean()) / spread if spread > 0 else 0.0,
        "p_value": (1 + int((np.abs(statistics) >= observed).sum())) / (1 + RESAMPLES) if spread > 0 else 1.0,
    }


def _accuracy(radius: float, first: np.ndarray, second: np.ndarray) -> dict[str, object]:
    from statsmodels.stats.contingency_tables import mcnemar

    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    table = [[int((first & second).sum()), only_first], [only_second, int((~first & ~second).sum())]]
    discordant = only_first + only_second
    difference = first.astype(np.float64) - second
    interval = bootstrap_mean(difference, np.random.default_rng(SEED))
    return {
        "quantity": "accuracy",
        "radius": radius,
        "first_value": float(first.mean()),
        "second_value": float(second.mean()),
        "difference": float(difference.mean()),
        "lower": interval.lower,
        "upper": interval.upper,
        "only_first": only_first,
        "only_second": only_second,
        "effect": only_first / discordant - 0.5 if discordant else 0.0,
        "p_value": min(1.0, float(mcnemar(table, exact=True).pvalue)) if discordant else 1.0,
    }
