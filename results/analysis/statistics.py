"""Intervals for what a table shows, each saying which uncertainty it is.

Three uncertainties stay apart. That of the noise is in every certificate already (Clopper–Pearson at alpha,
`results.bounds.radius`). That of the test images is given here: what might these numbers be on other images of the
same kind? That of the training seed is shown as the numbers of the seeds themselves, their mean and standard deviation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri

Floats = NDArray[np.float64]
Shares = TypeVar("Shares", float, Floats)

CONFIDENCE = 0.95
"""Of every interval here."""
RESAMPLES = 2000
"""Of a bootstrap."""
_CHUNK = 1_000_000  # numbers resampled at a time
_FEW = 100  # distinct values
NO_SPREAD = 1e-12  # standard deviations up to this are rounding


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval; both ends NaN where the data is too little for one."""

    lower: float
    upper: float

    def __bool__(self) -> bool:
        """Whether there is one."""
        return not math.isnan(self.lower)

    def __contains__(self, value: float) -> bool:
        return self.lower <= value <= self.upper


def accuracy_interval(certificates: pd.DataFrame, radius: float) -> Interval:
    """Wilson interval of certified accuracy at `radius`, for the uncertainty of the test images.

    With several seeds it is that of their mean, and conservative: the mean varies less than one seed's accuracy.

    Args:
        certificates: rows of one method at one σ with columns `index`, `correct`, `radius`; one or several seeds.
        radius: ℓ2, in [0, 1] pixel units.

    Returns:
        Of a share, so within [0, 1].
    """
    values = per_image(certificates, certificates["correct"] & (certificates["radius"] >= radius))
    lower, upper = wilson(values.sum(), len(values))
    # The ends are exact where none or all are certified; the formula's last digit is not.
    return Interval(0.0 if values.max() == 0 else float(lower), 1.0 if values.min() == 1 else float(upper))


def wilson(successes: Shares, count: int) -> tuple[Shares, Shares]:
    """The ends of the Wilson interval of a share (Wilson 1927; statsmodels has it too, and takes a second to import).

    Args:
        successes: a number, or many (any shape); of several seeds, their mean.
        count: of all, at least 1.

    Returns:
        Lower and upper ends, each of the shape of `successes`.
    """
    quantile = -ndtri((1 - CONFIDENCE) / 2)
    share, square = successes / count, quantile**2
    scale = 1 + square / count
    centre = (share + square / (2 * count)) / scale
    half = quantile * np.sqrt(share * (1 - share) / count + square / (4 * count**2)) / scale
    return centre - half, centre + half


def simultaneous_band(accuracies: Floats, images: int, seeds: int = 1) -> tuple[Floats, Floats]:
    """The band that holds a whole curve of certified accuracy, at all radii at once, with 95 %: ± √(ln(2/.05)
    / 2n), for the uncertainty of the test images.

    An empirical distribution function, here of the radius for which an image is certified correctly, is nowhere further
    from the true one with so much confidence (Dvoretzky, Kiefer & Wolfowitz 1956, with the constant of Massart 1990).
    Of the mean curve of several seeds each has .05 divided by their number (Bonferroni).

    Args:
        accuracies: of the curve, in [0, 1], at any radii.
        images: n, distinct test images.
        seeds: of whose curves it is the mean.

    Returns:
        The lower and the upper ends, within [0, 1].
    """
    half = math.sqrt(math.log(2 * seeds / (1 - CONFIDENCE)) / (2 * images))
    return np.maximum(accuracies - half, 0.0), np.minimum(accuracies + half, 1.0)


def acr_interval(certificates: pd.DataFrame, generator: np.random.Generator) -> Interval:
    """Studentised bootstrap interval of the ACR, for the uncertainty of the test images: images are resampled, with
    all seeds of an image together. Rows as for `accuracy_interval`; see `bootstrap_mean`.
    """
    return bootstrap_mean(per_image(certificates, certificates["radius"] * certificates["correct"]), generator)


def difference_interval(first: float, one: Interval, second: float, other: Interval) -> Interval:
    """95 % interval of `first` − `second`, independent estimates with a 95 % interval each, whose margins add up in
    squares (MOVER, Zou & Donner 2008). With Wilson's intervals it is Newcombe's hybrid score interval (1998, Statistics
    in Medicine 17, 873, method 10), `confint_proportions_2indep(method="newcomb")` of statsmodels.
    """
    lower = math.hypot(first - one.lower, other.upper - second)
    upper = math.hypot(one.upper - first, second - other.lower)
    return Interval(first - second - lower, first - second + upper)


def bootstrap_mean(values: NDArray[np.float64], generator: np.random.Generator) -> Interval:
    """Studentised (bootstrap-t) interval of a mean (Efron & Tibshirani 1993, section 12.5).

    Its simulated coverage on 100 images and more is 94 to 97 %; where too few values differ there is no interval
    (docs/performance.md).

    Args:
        values: (count,).
        generator: of the resamples.
    """
    return studentised_interval(values, studentised(values, generator))


def studentised(values: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """(mean* − mean) / sd* of RESAMPLES resamples of `values` (count,): (RESAMPLES,). Where a resample has no spread it
    is ±infinity, or 0 if its mean is the same."""
    count = len(values)
    distinct, multiplicity = np.unique(values, return_counts=True)
    if len(distinct) <= _FEW:  # how often each is drawn is multinomial
        weights = generator.multinomial(count, multiplicity / count, size=RESAMPLES) / count
        means = weights @ distinct
        return _standardise(means - values.mean(), np.sqrt(np.maximum(weights @ distinct**2 - means**2, 0)))
    found = []
    step = max(1, _CHUNK // count)
    for first in range(0, RESAMPLES, step):
        size = (min(step, RESAMPLES - first), count)
        sample = values[generator.integers(count, size=size, dtype=np.int32)]
        found.append(_standardise(sample.mean(axis=1) - values.mean(), sample.std(axis=1)))
    return np.concatenate(found)


def studentised_interval(values: NDArray[np.float64], statistics: NDArray[np.float64]) -> Interval:
    """The interval of the mean of `values` (count,) that their `studentised` statistics give; none where the values are
    equal or too few of them differ. It reaches no further than the values themselves and 0."""
    mean, error = values.mean(), values.std()
    if error <= NO_SPREAD:
        return Interval(np.nan, np.nan)  # equal values say nothing about others
    low, high = np.quantile(statistics, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], method="inverted_cdf")
    if not np.isfinite([low, high]).all():
        return Interval(np.nan, np.nan)  # too few values differ: many a resample has none of them
    # A few values that differ make for long tails; the mean stays among values that occur, and 0.
    lower, upper = max(mean - high * error, min(values.min(), 0.0)), min(mean - low * error, max(values.max(), 0.0))
    return Interval(float(lower), float(upper))


def _standardise(shift: NDArray[np.float64], spread: NDArray[np.float64]) -> NDArray[np.float64]:
    known = spread > NO_SPREAD
    endless = np.where(shift == 0, 0.0, np.copysign(np.inf, shift))
    standardised: NDArray[np.float64] = np.where(known, shift / np.where(known, spread, 1), endless)
    return standardised


def per_image(certificates: pd.DataFrame, values: pd.Series) -> NDArray[np.float64]:
    """The mean over the seeds for each image, in the order of their indices."""
    if certificates["index"].is_unique:  # one seed; grouping takes ten times as long
        return np.asarray(values, dtype=np.float64)[np.argsort(certificates["index"].to_numpy())]
    return np.asarray(values.astype(np.float64).groupby(certificates["index"]).mean(), dtype=np.float64)
