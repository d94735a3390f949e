"""Curtailed two-stage sampling (`estimator = "two-stage"`): how many samples an image needs, decided before they are
drawn; curtailed, since an estimation ends where its outcome is certain.

Two-stage sampling (Stein 1945; for certification Chen et al. 2022): the n0 samples that select the class also say
roughly how probable it is, and with that how much radius a smaller n would cost. The n samples of the estimation are
drawn afresh, so given their number they are an ordinary binomial sample: Clopper–Pearson holds at the full alpha.
Alpha spending over stages and a betting confidence sequence must pay for looking at their own sample again and again;
on four published logs both lost more radius at the same saving (docs/performance.md). What comes near it is a sequence
that knows the selection and keeps most of alpha for this size and n: `results.bounds.anytime`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from results.bounds.radius import certified_radius, lower_confidence_bound

HALVINGS = 5
"""Of n, at most."""
TOLERANCE = 0.03
"""Radius that may be given up, in units of σ, for all samples saved; for a share of them as large a share."""


def sample_sizes(n: int) -> list[int]:
    """The numbers of samples to choose from: n, n/2, … n/32, rounded up."""
    return [-(-n // 2**halvings) for halvings in range(HALVINGS + 1)]


def sufficient_samples(count: int, n0: int, n: int, alpha: float) -> int:
    """The smallest of `sample_sizes(n)` whose radius falls short of that of n samples by at most
    TOLERANCE · σ · (share of samples saved), if the selected class stays as frequent as in the selection.

    Args:
        count: samples of the selection that gave the selected class, from 0 to n0.
        n0: samples of the selection, at least 1.
        n: samples at most, at least 1.
        alpha: of the bound, in (0, 1).

    Raises:
        ValueError: n or alpha outside its range.
    """
    share = count / n0
    sizes = np.array(sample_sizes(n))
    radii = certified_radius(lower_confidence_bound(np.floor(share * sizes), sizes, alpha), 1.0)
    enough = radii[0] - radii <= TOLERANCE * (1 - sizes / n)
    return int(sizes[enough].min())


def sufficient_for_each(counts: NDArray[np.int64], n0: int, n: int, alpha: float) -> NDArray[np.int64]:
    """`sufficient_samples` for each of `counts` (images,)."""
    distinct, where = np.unique(counts, return_inverse=True)
    return np.array([sufficient_samples(int(count), n0, n, alpha) for count in distinct], dtype=np.int64)[where]
