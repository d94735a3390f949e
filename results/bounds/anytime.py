"""An anytime-valid lower bound (`estimator = "anytime"`): it holds at every number of samples at once, so that an
estimation may be looked at and stopped whenever one likes, whatever the samples answered.

The confidence sequence (Waudby-Smith & Ramdas 2024, section 4; for 0 and 1 a mixture of likelihood ratios, Robbins
1970). For a stake λ in [0, 1] and m in [0, 1]

    K_t(m) = Π_{i ≤ t} (1 + λ (X_i − m))

is the wealth of who bets λ of it on X being above m; no factor is negative. If E X ≤ m, the expectation of each factor
given the past is at most 1: K_t(m) is a nonnegative supermartingale that starts at 1, and so is a mixture over stakes
with weights that are fixed before the samples are drawn. By Ville's inequality it ever reaches 1/alpha with probability
at most alpha. Each factor falls as m grows, hence the m that are rejected are those below

    L_t = sup {m : Σ_j w_j K_t(m; λ_j) ≥ 1/alpha},

and P(L_t > E X for some t) ≤ alpha: were L_t above E X, then E X itself would be rejected. X is 1 where a sample is of
the selected class, so L_t follows from counts: K_t(m) = (1 + λ (1 − m))^k (1 − λ m)^(t − k).

Of alpha, the share `LOOKING` is for the sequence. The rest is for Clopper–Pearson at sizes that are fixed beforehand:
that of two-stage sampling, and n. The larger of the bounds counts, and all hold together (union bound).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from results.bounds import LOOKING
from results.bounds.radius import certified_radius, lower_confidence_bound
from results.bounds.two_stage import sufficient_for_each

Floats = NDArray[np.float64]
TOLERANCE = 0.04
"""Radius that may be given up, in units of σ, for all samples saved; for 10 000 of 100 000 a tenth of it."""
STAKES = 2.0 ** -np.arange(11)
"""λ: 1 is the best where all samples agree; near 1/2, and with n samples, it is 5 to 8 / √n."""
EIGHTHS = np.arange(8) / 8
PARTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Thirty-seconds of n at which an estimation is looked at here. The bound holds at all others too."""


@dataclass(frozen=True)
class Design:
    """What is fixed of images before their estimation, from the samples that select the class and from settings."""

    share: Floats
    """(images,): about how probable the selected class is."""
    planned: NDArray[np.int64]
    """(images,): the samples that two-stage sampling would draw."""
    n: int
    """Samples at most."""

    @classmethod
    def of(cls, counts: NDArray[np.int64], n0: int, n: int, alpha: float) -> Design:
        """Of images (images,) with so many of n0 selection samples of the selected class.

        Raises:
            ValueError: n or alpha outside its range.
        """
        # A beta prior of 1/2 and 1/10: where all agree, the rest is likely to agree too.
        share = (np.asarray(counts, np.float64) + 0.5) / (n0 + 0.6)
        return cls(share, sufficient_for_each(counts, n0, n, alpha), n)

    def at(self, place: NDArray[np.bool_]) -> Design:
        """Of some of the images."""
        return Design(self.share[place], self.planned[place], self.n)


def look_sizes(n: int) -> list[int]:
    """Numbers of samples after which an estimation is looked at: `PARTS` of n, rounded up. Those of `sample_sizes` are
    among them."""
    return sorted({-(-n * part // 32) for part in PARTS})


def anytime_bound(successes: ArrayLike, drawn: ArrayLike, design: Design, alpha: ArrayLike) -> Floats:
    """The lower bound on the probability of the selected class after `drawn` samples, whyever it was stopped there.

    Args:
        successes: (images,), samples of that class, from 0 to drawn.
        drawn: (images,), at least 1.
        design: of the images.
        alpha: probability that any of an image's bounds is ever above the true probability; broadcasts to (images,).

    Raises:
        ValueError: an argument outside its range.
    """
    k, t, level = np.broadcast_arrays(np.asarray(successes), np.asarray(drawn), np.asarray(alpha, np.float64))
    fixed = (1 - LOOKING) * level / np.where(design.planned < design.n, 2, 1)
    exact = lower_confidence_bound(k, t, fixed)
    bound = betting_bound(k, t, stake_weights(design, level), LOOKING * level)
    return np.where((t == design.planned) | (t == design.n), np.maximum(exact, bound), bound)


def stake_weights(design: Design, alpha: ArrayLike) -> Floats:
    """(images, stakes), with sum 1: most on the stake that grows fastest against a bound √(2 log(1/alpha)) standard
    errors below the share, after the planned samples; a half with every factor of two from it."""
    variance = design.share * (1 - design.share)
    best = np.minimum(np.sqrt(-2 * np.log(alpha) / (variance * design.planned)), 1.0)
    weights: Floats = 2.0 ** -np.abs(np.log2(STAKES / best[:, None]))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


def betting_bound(k: NDArray[np.int64], t: NDArray[np.int64], weights: Floats, alpha: Floats) -> Floats:
    """L_t, between 0 and k/t, where no wealth is above 1 (the logarithm is concave): by eighths of an interval. What is
    returned is rejected, or 0."""
    images, low, width = np.arange(len(k)), np.zeros(k.shape), k / t
    start = (np.log(weights) + np.log(alpha)[:, None])[:, None]
    k, failures = k[:, None, None], (t - k)[:, None, None]
    for _ in range(18):
        places = low[:, None] + width[:, None] * EIGHTHS
        m = places[:, 1:, None]
        wealth = start + k * np.log1p(STAKES * (1 - m)) + failures * np.log1p(-STAKES * m)
        with np.errstate(over="ignore"):
            rejected = (np.exp(wealth).sum(axis=2) >= 1).sum(axis=1)  # wealth falls as m grows
        low, width = places[images, rejected], width / 8
    return low


def may_stop(successes: int, drawn: int, design: Design, alpha: float) -> bool:
    """Whether the remaining samples of an image would add at most TOLERANCE · σ · (their share of n) to its radius,
    did the class stay as frequent. Design: of that image alone."""
    n = design.n
    counts, sizes = np.array([successes, successes * n // drawn]), np.array([drawn, n])
    both = Design(np.repeat(design.share, 2), np.repeat(design.planned, 2), n)
    now, whole = certified_radius(anytime_bound(counts, sizes, both, alpha), 1.0)
    return bool(whole - now <= TOLERANCE * (1 - drawn / n))
