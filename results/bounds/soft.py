"""The certificate of the expected softmax: of another classifier than the one of Cohen et al. 2019.

Let F_c(x) in [0, 1] be the softmax of the base classifier at class c, and G_c(x) = E F_c(x + ε), ε ~ N(0, σ²I). The
soft smoothed classifier answers argmax_c G_c(x); it averages probabilities where the usual one counts answers. Φ⁻¹(G_c)
is 1/σ-Lipschitz (Salman et al. 2019, Lemma 2; from the Neyman–Pearson lemma, as Theorem 1 of Cohen et al. 2019). Hence
from G_c(x) ≥ p ≥ 1/2, G_c > 1/2 within σ Φ⁻¹(p) of x, where it is the answer, for the G sum to 1.

The lower bound is that of `results.bounds.anytime` with equal weights, for X = F_c(x + ε) in place of 0 and 1: what is
needed of X is E X and that it lies in [0, 1]. So it holds wherever an estimation ended. It follows from whole numbers
that are stored: every X lies between two of `EDGES`, and is replaced by as much weight on either as has X for its mean
(rounded down). As log(1 + λ (X − m)) is concave in X and grows with it, that makes no wealth larger.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from results.bounds.anytime import STAKES

SCALE = 2**25
"""X is rounded down to multiples of its inverse."""
UNIT = 2**20
"""The weight of one sample."""
EDGES = np.array(
    [UNIT * place for place in range(32)] + [SCALE - SCALE // 2**place for place in range(6, 17)] + [SCALE]
)
"""In units of 1/SCALE: 0, 1/32, … 31/32, and 1 − 2⁻⁶, … 1 − 2⁻¹⁶, 1, since radii are large near 1. Every difference is
a power of two."""
HALVINGS = 44
AT_ONCE = 512
"""Images."""


def expected_softmax_bound(weights: NDArray[np.int64], alpha: float) -> NDArray[np.float64]:
    """A lower bound on E X, at confidence 1 − alpha.

    Args:
        weights: (images, edges), `UNIT` for each sample; some of each image.
        alpha: probability that an image's bound is above the expectation, in (0, 1).
    """
    parts = [weights[first : first + AT_ONCE] for first in range(0, len(weights), AT_ONCE)]
    return np.concatenate([_bounds(part / UNIT, alpha) for part in parts]) if parts else np.zeros(0)


def _bounds(samples: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
    edges = EDGES / SCALE
    low, high = np.zeros(len(samples)), samples @ edges / samples.sum(axis=1)  # where no wealth is above 1
    enough = len(STAKES) / alpha
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        gains = np.log1p(STAKES[:, None] * (edges - middle[:, None, None]))
        with np.errstate(over="ignore"):
            wealth = np.exp(np.einsum("ise,ie->is", gains, samples)).sum(axis=1)
        low, high = np.where(wealth >= enough, middle, low), np.where(wealth >= enough, high, middle)
    return low
