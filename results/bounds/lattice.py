"""What a certificate is debited for in the sound mode of floating point (`certify.arithmetic = "sound"`).

The classifier of this mode is f(Q(x + ε)), where Q rounds every pixel to the lattice of step h = 1/(255 · 64) and f is
whatever the network's arithmetic makes of a lattice point. As Q is a function of x + ε, the smoothed classifier g is
an ordinary one over real numbers, and Theorem 1 of Cohen et al. 2019 holds for it as it stands, whatever f does with
the bits of its input (Voráček & Hein 2023; Jin et al. 2022 show what it may do with those of x + ε). What is computed
differs from g at x in two ways, and each is paid for:

1. x is put on the lattice before noise is added, as everything that comes as 8-bit pixels is already. That moves an
   image by at most h/2 in each of d numbers, by h √d / 2 in ℓ2: with Q(x) + Q(ε) a function of integers, what is
   certified is the answer at Q(x), and so a radius R there is a radius R − h √d / 2 for any x in floating point.
2. Q(ε) is drawn by 64-bit integers from thresholds that are rounded, and ends at `TAILS` σ. Its distribution is within
   `distance(d, σ)` of the true one in total variation over all d numbers, and so is the probability of each answer.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from results.bounds.radius import certified_radius, two_sided_radius

STEPS = 64
"""Of the lattice between two values of an 8-bit pixel."""
H = 1 / (255 * STEPS)
"""The step, in [0, 1] pixel units."""
TAILS = 9.0
"""Noise ends here, in units of σ."""
WORD = 2.0**-64


def debited(p_lower: ArrayLike, sigma: ArrayLike, pixels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The bound and the radius that count: those of the ordinary mode, or debited in the sound mode.

    Args:
        p_lower: lower confidence bound from the counts, any shape.
        sigma: standard deviation of the noise, in [0, 1] pixel units; broadcasts.
        pixels: numbers of an image in the sound mode, NaN in the ordinary one; broadcasts.

    Returns:
        p_lower less the distance of the noise, at least 0; σ Φ⁻¹ of it less the lattice's debit, 0 where that is not
        positive: an image without a radius is not certified.
    """
    p_lower, sigma, pixels = np.broadcast_arrays(*(np.asarray(given, np.float64) for given in (p_lower, sigma, pixels)))
    of_bound, of_radius = _debits(sigma, pixels)
    bound = np.maximum(p_lower - of_bound, 0.0)
    return bound, np.maximum(certified_radius(bound, sigma) - of_radius, 0.0)


def debited_two_sided(
    counts: NDArray[np.int64], selected: NDArray[np.int64], alpha: ArrayLike, sigma: ArrayLike, pixels: ArrayLike
) -> NDArray[np.float64]:
    """`two_sided_radius` with the debits of `debited`: the noise's distance from both bounds, the lattice's off the
    radius, 0 where that is not positive. Arguments as for the two."""
    sigma, pixels = np.broadcast_arrays(np.asarray(sigma, np.float64), np.asarray(pixels, np.float64))
    of_bound, of_radius = _debits(sigma, pixels)
    left: NDArray[np.float64] = np.maximum(two_sided_radius(counts, selected, alpha, sigma, of_bound) - of_radius, 0.0)
    return left


def _debits(sigma: NDArray[np.float64], pixels: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of bounds and of radii, both of the shape that the arguments have; 0 where pixels are NaN."""
    sound = np.isfinite(pixels)
    if not sound.any():  # as usual, and once for each certificate
        return np.zeros(pixels.shape), np.zeros(pixels.shape)
    numbers = np.where(sound, pixels, 0.0)
    return np.vectorize(distance)(numbers, sigma), np.vectorize(lattice_debit)(numbers)


def is_certified(p_lower: ArrayLike, radius: ArrayLike, pixels: ArrayLike | None) -> NDArray[np.bool_]:
    """Whether bound and radius as `debited` gives them are those of a certificate. In the sound mode an image without a
    radius has none; pixels: as there, or None."""
    sound = np.isfinite(np.asarray(np.nan if pixels is None else pixels, np.float64))
    return (np.asarray(p_lower) >= 0.5) & ((np.asarray(radius) > 0) | ~sound)


def most_steps(sigma: float) -> int:
    """The largest |Q(ε)| / h."""
    return math.ceil(TAILS * sigma / H)


def distance(pixels: float, sigma: float) -> float:
    """Bound on the total variation between the drawn Q(ε) and the true one, over `pixels` independent numbers.

    One number: each of 2K + 1 probabilities is off by less than two roundings of 2⁻⁶⁴, and the tails, 2 Φ(−9), are
    added to its ends.
    """
    return pixels * ((2 * most_steps(sigma) + 1) * 2 * WORD + math.erfc(TAILS / math.sqrt(2)))


def lattice_debit(pixels: float) -> float:
    """By how much a radius is less for an image that is not on the lattice: h √d / 2, in [0, 1] pixel units."""
    return H * math.sqrt(pixels) / 2
