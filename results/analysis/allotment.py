"""How many noise samples each image should have, for the largest ACR at a given total.

The radius of an image grows with its samples, and slower the more there are. At the best allotment a sample more is
worth the same wherever it goes, as in Neyman's allocation over strata (Neyman 1934); here what grows is no precision
but the lower bound's radius. It is decided from the n0 samples that select the class, before the others are drawn:
given its number of samples, the estimation of an image is an ordinary binomial sample, and Clopper–Pearson holds at the
full alpha, as in `results.bounds.two_stage`.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from results.bounds.radius import certified_radius, lower_confidence_bound
from results.errors import BenchError

STEPS = 2.0 ** (np.arange(-32, 17) / 4)
"""The numbers of samples to choose from, in units of their mean over images, and none."""
QUANTILES = (np.arange(40) + 0.5) / 40
"""Of p_A after the selection, over which a radius is averaged."""


def allotted_samples(counts: NDArray[np.int64], n0: int, total: int, alpha: float) -> NDArray[np.int64]:
    """Samples of each image, (images,), whose sum is at most `total`, and 0 where they would be wasted.

    For a price of a sample each image takes the number that is worth most above its price; the price is the lowest at
    which all are within the total, and what is left goes to the first images that would take more at just that price.
    What an image's radius would be is averaged over the posterior of its p_A, whose prior is the beta distribution of
    1/2 and 1/10.

    Args:
        counts: (images,), of n0 selection samples of each image those of the selected class. Images that will not be
            estimated (misclassified) are left out.
        n0: at least 1.
        total: of the estimations of all images.
        alpha: of each bound, in (0, 1).

    Raises:
        BenchError: a total that has not one sample for each image.
    """
    if total < len(counts):
        raise BenchError(f"total = {total}: must be at least one sample for each of {len(counts)} images")
    sizes = np.unique(np.ceil(STEPS * (total / len(counts))).astype(np.int64))
    distinct, where = np.unique(counts, return_inverse=True)
    shares = betaincinv(distinct[:, None] + 0.5, n0 - distinct[:, None] + 0.1, QUANTILES)
    successes = np.floor(shares[:, :, None] * sizes)
    worth = certified_radius(lower_confidence_bound(successes, sizes, alpha), 1.0).mean(axis=1)
    sizes, worth = np.append(0, sizes), np.pad(worth, ((0, 0), (1, 0)))
    taken = partial(_taken, worth=worth, sizes=sizes)
    images = np.bincount(where)
    low, high = 0.0, 10.0 / sizes[1]  # at the higher price nobody takes a sample: no radius is above 10 σ
    for _ in range(60):
        price = (low + high) / 2
        low, high = (low, price) if taken(price) @ images <= total else (price, high)
    fewer, more = taken(high)[where], taken(low)[where]
    left = total - fewer.sum()  # for the first of those to whom more is worth exactly its price
    found: NDArray[np.int64] = np.where(np.cumsum(more - fewer) <= left, more, fewer)
    return found


def _taken(price: float, worth: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    chosen: NDArray[np.int64] = sizes[(worth - price * sizes).argmax(axis=1)]
    return chosen
