"""Do two methods differ, whatever training seeds and test images they met? Both are random, and crossed.

Of two methods, trained with the same S seeds and certified on the same n images, image i has the difference

    d_si = μ + a_s + b_i + e_si,

a_s of the seeds (variance σ_a²), b_i of the images (σ_b²), e_si of both together (σ_e²): the model with two crossed
random effects (Clark 1973, "The language-as-fixed-effect fallacy"). The seeds of two methods are paired, since
trainings with one seed share initial weights, order and noise. With the mean squares of the analysis of variance

    MS_s = n Σ_s (d_s· − d··)² / (S − 1),       of mean σ_e² + n σ_a²,
    MS_i = S Σ_i (d_·i − d··)² / (n − 1),       of mean σ_e² + S σ_b²,
    MS_e = Σ_si (d_si − d_s· − d_·i + d··)² / ((S − 1)(n − 1)),     of mean σ_e²,

the variance of d·· is σ_a²/S + σ_b²/n + σ_e²/(Sn), at most (E MS_s + E MS_i) / (Sn). The 95 % interval is

    d·· ± √((t_S² MS_s + t_n² MS_i) / (Sn)),

t_S and t_n being the .975 quantiles of t with S − 1 and n − 1 degrees of freedom. It covers μ at least as often as it
says (Banerjee 1960): let λ_s + λ_i = 1 be the shares of E MS_s and E MS_i in their sum, U_s and U_i the mean squares
over their means, and G the distribution function of χ² with one degree of freedom, which is concave. Where a_s, b_i and
e_si are normal, d·· is independent of U_s and of U_i, and the coverage is at least

    E G(λ_s t_S² U_s + λ_i t_n² U_i) ≥ λ_s E G(t_S² U_s) + λ_i E G(t_n² U_i) = .95.

Of images there are many, so that only the few a_s have to be normal. Satterthwaite's degrees of freedom are usual for
such a sum; in simulations they reject true hypotheses at .05 up to 13 % of the time with two seeds, and 8 % with three
(docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from results.analysis.comparison import OF_CERTIFICATES, OF_TRIALS, check_comparable, holm, known_methods
from results.analysis.groups import refuse_twins, trained_models
from results.analysis.metrics import RADII
from results.analysis.statistics import CONFIDENCE, NO_SPREAD, Interval
from results.store.run import Run

FEWEST = 20
"""Images that differ, below which no interval is given."""
METHOD = (
    "Over the training seeds that both have: seed and image as crossed random effects (two-way analysis of variance of "
    "the paired differences; Clark 1973, Banerjee 1960). Intervals (95 %) and p-values are of the methods: of other "
    "seeds and other images of the same kind. Holm: over ACR of all pairs at all σ; accuracies are not corrected. "
    "sd: of the difference over the seeds, and over the images."
)
COLUMNS = (
    "sigma", "first", "second", "shared_models", "seeds", "images", "endpoint", "quantity", "radius", "first_value",
    "second_value", "difference", "lower", "upper", "p_value", "sd_seed", "sd_image", "sd_rest", "p_holm",
)  # fmt: skip


@dataclass(frozen=True)
class Crossed:
    """The mean of differences with two crossed random effects."""

    mean: float
    interval: Interval
    """95 %; none where fewer than `FEWEST` images differ."""
    p_value: float
    """Two-sided, of a mean of 0; NaN where there is no interval."""
    sd_seed: float
    """σ_a, σ_b and σ_e as their mean squares give them; 0 where that would be negative."""
    sd_image: float
    sd_rest: float


def crossed(differences: NDArray[np.float64]) -> Crossed:
    """What differences (seeds, images) say of their mean, both effects being random.

    Raises:
        ValueError: fewer than two seeds or two images.
    """
    seeds, images = differences.shape
    if seeds < 2 or images < 2:
        raise ValueError(f"differences {differences.shape}: must be of at least two seeds and two images")
    mean = float(differences.mean())
    by_seed, by_image = differences.mean(axis=1), differences.mean(axis=0)
    rest = differences - by_seed[:, None] - by_image + mean
    squares = images * ((by_seed - mean) ** 2).sum(), seeds * ((by_image - mean) ** 2).sum(), (rest**2).sum()
    freedom = (seeds - 1, images - 1, (seeds - 1) * (images - 1))
    of_seeds, of_images, of_rest = (float(sum_) / df for sum_, df in zip(squares, freedom, strict=True))
    differing = int((np.abs(differences).max(axis=0) > NO_SPREAD).sum())
    interval, p_value = Interval(np.nan, np.nan), float("nan")
    errors = of_seeds / (seeds * images), of_images / (seeds * images)
    if differing >= FEWEST and sum(errors) > NO_SPREAD**2:
        half = _margin(errors, freedom[:2], 1 - CONFIDENCE)
        interval, p_value = Interval(mean - half, mean + half), _p_value(mean, errors, freedom[:2])
    return Crossed(
        mean,
        interval,
        p_value,
        sd_seed=_root((of_seeds - of_rest) / images),
        sd_image=_root((of_images - of_rest) / seeds),
        sd_rest=_root(of_rest),
    )


def _margin(errors: Sequence[float], freedom: Sequence[int], alpha: float) -> float:
    """√(Σ t² error) with the two-sided quantiles at alpha."""
    return _root(sum(float(stdtrit(df, alpha / 2)) ** 2 * error for error, df in zip(errors, freedom, strict=True)))


def _p_value(mean: float, errors: Sequence[float], freedom: Sequence[int]) -> float:
    """The alpha at which the margin is |mean|: between those at which each error alone would have it."""
    total = sum(errors)
    ends = [2 * float(stdtr(df, -abs(mean) / _root(total))) for df in freedom]
    low, high = min(ends), max(ends)  # a margin of all errors at one df is larger, the smaller that df
    for _ in range(60):
        middle = np.sqrt(low * high) if low > 0 else high / 2
        low, high = (low, middle) if _margin(errors, freedom, middle) < abs(mean) else (middle, high)
    return float(high)


def _root(value: float) -> float:
    return float(np.sqrt(max(value, 0.0)))


def compare_seeds(run: Run, methods: list[str] | None = None) -> pd.DataFrame:
    """Every pair of methods at equal σ over the training seeds that both have, if these are two or more. Seeds of the
    certification alone, which have the same weights, count as one.

    Args:
        run: as `read_run` gives it.
        methods: rows of the tables; all where not given.

    Returns:
        A row for each pair and quantity, none where no two methods share two seeds:
        `sigma`, `first`, `second`, `shared_models` (over all seeds), `seeds`, `images`: how many;
        `endpoint`, `quantity`, `radius`, `first_value`, `second_value`, `difference`: as of `compare`, means over the
        seeds;
        `lower`, `upper`, `p_value`: of `crossed`; NaN where too few images differ;
        `sd_seed`, `sd_image`, `sd_rest`: standard deviations of the difference, σ_a, σ_b and σ_e above;
        `p_holm`: of ACR, over all rows; a pair without a p-value counts as one with 1. Else NaN.

    Raises:
        CompareError: an unknown method, or trials that no paired statistic compares.
        BenchError: two trials of one method, σ and seed.
    """
    refuse_twins(run.trials)
    wanted = known_methods(run, methods)
    certificates = dict(list(run.certificates[[*OF_CERTIFICATES]].groupby("trial_id", sort=False)))
    rows: list[dict[str, Any]] = []
    for sigma, cell in run.trials.filter(items=(*OF_TRIALS, "checkpoint_sha256")).groupby("sigma"):
        by_method = {method: _by_seed(cell[cell["method"] == method]) for method in wanted}
        for first, second in combinations(wanted, 2):
            shared = [seed for seed in by_method[first] if seed in by_method[second]]
            if len(shared) < 2:
                continue
            trials = [[by_method[method][seed] for seed in shared] for method in (first, second)]
            for other in (*trials[0][1:], *trials[1]):
                one = trials[0][0]
                check_comparable(one, other, certificates[one["trial_id"]], certificates[other["trial_id"]])
            models = [set().union(*map(trained_models, own)) for own in trials]
            names = {"sigma": sigma, "first": first, "second": second, "shared_models": len(models[0] & models[1])}
            rows += [
                names | row for row in _pair(*([certificates[each["trial_id"]] for each in own] for own in trials))
            ]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    primary = table.loc[table["endpoint"] == "primary", "p_value"].astype(float)
    if primary.empty:
        return table
    corrected = pd.Series(holm(primary.fillna(1.0)), primary.index)
    return table.assign(p_holm=corrected.where(primary.notna()))


def _by_seed(trials: pd.DataFrame) -> dict[int, dict[Hashable, Any]]:
    trainings = trials.sort_values("seed").drop_duplicates("checkpoint_sha256")
    return {trial["seed"]: trial for trial in trainings.to_dict("records")}


def _pair(first: Sequence[pd.DataFrame], second: Sequence[pd.DataFrame]) -> list[dict[str, Any]]:
    """Of the certificates of each seed."""
    radii, correct = (
        np.stack([[rows.sort_values("index")[name].to_numpy() for rows in own] for own in (first, second)])
        for name in ("radius", "correct")
    )  # (2, seeds, images)
    values = {("primary", "acr", np.nan): radii * correct}
    largest = float((radii * correct).max())
    for radius in (0.0, *(radius for radius in RADII if radius <= largest)):
        values["secondary", "accuracy", radius] = (correct & (radii >= radius)).astype(np.float64)
    found = []
    for (endpoint, quantity, radius), (one, other) in values.items():
        effect = crossed(one - other)
        found.append(
            {
                "seeds": one.shape[0],
                "images": one.shape[1],
                "endpoint": endpoint,
                "quantity": quantity,
                "radius": radius,
                "first_value": float(one.mean()),
                "second_value": float(other.mean()),
                "difference": effect.mean,
                "lower": effect.interval.lower,
                "upper": effect.interval.upper,
                "p_value": effect.p_value,
                "sd_seed": effect.sd_seed,
                "sd_image": effect.sd_image,
                "sd_rest": effect.sd_rest,
            }
        )
    return found
