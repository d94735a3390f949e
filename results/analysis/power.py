"""Which difference between two methods a run could detect: to be asked before it, not after.

The test is that of `results.analysis.seeds` (with one seed a paired t test of two trained models, whose power is that
of the sign-flip test of `bench compare` on many images). Its power at a difference δ, with v_s = sd_seed² / S and
v_i = sd_image² / n the variances that seeds and images add to the mean, is

    P(|Z √(v_s + v_i) + δ| > √(t_S² v_s U + t_n² v_i)),    Z standard normal, U χ² with S − 1 degrees over S − 1,

images being so many that their mean square is its mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtri, ndtr, stdtrit

ALPHA = 0.05
"""Of a two-sided test."""
POWER = 0.8
ASSUMED = (
    "Assumed of the difference: over images a standard deviation of .94 σ (radius · correct) and .42 (certified "
    "correctly), as of Gaussian and consistency in published logs at σ = .25; over trainings of one method .014 σ and "
    ".9 points, as two programs' logs of the same methods. Methods that are more alike need fewer images."
)
SD_IMAGES_ACR = 0.94
"""Standard deviation of the paired difference of radius · correct over the images, in units of σ: of Gaussian and
consistency at σ = .25 on the 500 images of Cohen et al.'s log. (Gaussian and MACER's ResNet-20 at .50: .64.)"""
SD_IMAGES_ACCURACY = 0.42
"""Likewise of certified correctly or not, as shares, at the radius where it is largest (.75)."""
SD_TRAINING_ACR = 0.014
"""Standard deviation of the ACR of one method from training to training, in units of σ: from what consistency, MACER
and SmoothMix reach by the programs of Jeong et al. 2023 and of Sun et al. 2025 at σ = .25, .5 and 1, eight pairs of
logs of 10 000 images. Two programs differ in more than their seeds, so it is rather too large."""
SD_TRAINING_ACCURACY = 0.0091
"""Likewise of the accuracy at radius 0, as a share; at larger radii it is less."""
_QUANTILES = 200
_MOST = 1e12
"""Images that nobody has."""


@dataclass(frozen=True)
class Detectable:
    """What a run could detect at one σ, of two methods."""

    sigma: float
    images: int
    seeds: int
    acr: float
    """Difference of ACR, in [0, 1] pixel units."""
    acr_corrected: float
    """The same where Holm's method corrects for so many pairs and this is the first that it looks at."""
    pairs: int
    accuracy: float
    """Difference of certified accuracy, as a share; never corrected."""


def detectable_difference(
    images: ArrayLike,
    sd_image: ArrayLike,
    *,
    seeds: ArrayLike = 1,
    sd_seed: ArrayLike = 0.0,
    alpha: float = ALPHA,
    power: float = POWER,
) -> NDArray[np.float64]:
    """The smallest true difference of two methods that a two-sided test at alpha finds with that power.

    Args:
        images: n, test images, the same for both; any shape, such as a column of pandas.
        sd_image: standard deviation of the difference over the images, with whatever differs by image and seed together
            (√(sd_image² + sd_rest² / S) of `compare_seeds`); broadcasts, as the rest.
        seeds: S, training seeds of each method. With 1 it is the difference of the two trained models, not of methods,
            and sd_seed does not count.
        sd_seed: standard deviation of the difference over the seeds: of independent trainings √2 times one method's.

    Returns:
        In the units of the standard deviations.

    Raises:
        ValueError: fewer than 2 images or 1 seed, a negative standard deviation, or alpha or power outside (0, 1).
    """
    shape = np.broadcast_arrays(*(np.asarray(given, np.float64) for given in (images, sd_image, seeds, sd_seed)))
    n, by_image, s, by_seed = shape
    if np.any(n < 2) or np.any(s < 1) or np.any(by_image < 0) or np.any(by_seed < 0):
        raise ValueError("images must be at least 2, seeds at least 1, and standard deviations at least 0")
    if not (0 < alpha < 1 and alpha < power < 1):
        raise ValueError(f"alpha = {alpha} and power = {power}: must be above 0 and below 1, and power above alpha")
    given = np.stack([part.ravel() for part in shape], axis=1).tolist()
    found = [_detectable(*each, alpha=alpha, power=power) for each in given]
    return np.array(found, dtype=np.float64).reshape(n.shape)


def images_needed(
    difference: ArrayLike,
    sd_image: ArrayLike,
    *,
    seeds: ArrayLike = 1,
    sd_seed: ArrayLike = 0.0,
    alpha: float = ALPHA,
    power: float = POWER,
) -> NDArray[np.float64]:
    """The fewest test images with which `detectable_difference` is at most `difference`; infinite where no number of
    images makes up for so few seeds. Arguments and errors as there; differences are above 0."""
    shape = np.broadcast_arrays(*(np.asarray(given, np.float64) for given in (difference, sd_image, seeds, sd_seed)))
    if np.any(shape[0] <= 0):
        raise ValueError("difference must be above 0")

    def needed(wanted: float, by_image: float, s: float, by_seed: float) -> float:
        def enough(n: float) -> bool:
            found = detectable_difference(n, by_image, seeds=s, sd_seed=by_seed, alpha=alpha, power=power)
            return float(found) <= wanted

        low, high = 1.0, 2.0
        while not enough(high):
            low, high = high, 2 * high
            if high > _MOST:
                return float("inf")
        while high - low > 1:
            middle = float(np.floor((low + high) / 2))
            low, high = (low, middle) if enough(middle) else (middle, high)
        return high

    found = [needed(*each) for each in zip(*(part.ravel() for part in shape), strict=True)]
    return np.array(found, dtype=np.float64).reshape(shape[0].shape)


def detectable(sigma: float, images: int, seeds: int, pairs: int) -> Detectable:
    """What a run of so many images and seeds could detect between two methods, by what published logs differ in."""
    of_acr = partial(
        detectable_difference, images, SD_IMAGES_ACR * sigma, seeds=seeds, sd_seed=2**0.5 * SD_TRAINING_ACR * sigma
    )
    of_accuracy = detectable_difference(images, SD_IMAGES_ACCURACY, seeds=seeds, sd_seed=2**0.5 * SD_TRAINING_ACCURACY)
    return Detectable(
        sigma, images, seeds, float(of_acr()), float(of_acr(alpha=ALPHA / pairs)), pairs, float(of_accuracy)
    )


def _detectable(n: float, by_image: float, s: float, by_seed: float, *, alpha: float, power: float) -> float:
    of_images = by_image**2 / n
    of_seeds, chances = 0.0, np.array(1.0)
    if s > 1:
        middles: NDArray[np.float64] = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
        of_seeds, chances = by_seed**2 / s, chdtri(s - 1, middles) / (s - 1)
    error = np.sqrt(of_seeds + of_images)
    if error == 0:
        return 0.0
    for_seeds = float(stdtrit(s - 1, alpha / 2)) if s > 1 else 0.0
    margins = np.sqrt(for_seeds**2 * of_seeds * chances + stdtrit(n - 1, alpha / 2) ** 2 * of_images) / error

    def reached(difference: float) -> float:
        return float(np.mean(ndtr(difference - margins) + ndtr(-difference - margins)))

    low, high = 0.0, 1.0
    while reached(high) < power:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) >= power else (middle, high)
    return float(high * error)
