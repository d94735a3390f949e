"""Step curves over many images, and how few of their points a picture needs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
CELLS = 400
"""In which each axis is divided to thin a curve: cells of a pixel and a half in a panel at 150 dpi."""


def curve(radii: NDArray[np.floating], correct: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Certified accuracy against radius, whose area is the ACR.

    Args:
        radii: (images,), in [0, 1] pixel units; rows of several seeds give the mean of their curves.
        correct: (images,).

    Returns:
        The radii at which certified accuracy falls, rising from 0, and the accuracy up to each: both (points,).
    """
    at = np.unique(np.concatenate([[0.0], radii[correct]]))
    ordered = np.sort(radii[correct])
    still = len(ordered) - np.searchsorted(ordered, at, side="left")
    return np.append(at, at[-1]), np.append(still, 0) / len(radii)


def distribution(values: Floats) -> tuple[Floats, Floats]:
    """The empirical distribution function on [1/2, 1]: where it rises, and the share of values up to there.

    Args:
        values: (count,), at most 1; those below 1/2 are in the share at 1/2.

    Returns:
        Both (points,), from 1/2 to 1.
    """
    at = np.unique(np.concatenate([[0.5, 1.0], values[values >= 0.5]]))
    return at, np.searchsorted(np.sort(values), at, side="right") / len(values)


def thinned(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Of a monotone step curve with y in [0, 1], the first point and the last in each cell of x and y.

    What is left, some 2 · CELLS points at most, runs through the same cells as the whole curve; so every jump longer
    than a cell is where it was.
    """
    span = max(float(x[-1] - x[0]), np.finfo(float).tiny)
    cells = np.stack([np.floor((x - x[0]) / span * CELLS), np.floor(y * CELLS)])
    last = np.append((np.diff(cells, axis=1) != 0).any(axis=0), True)
    last[0] = True
    return x[last], y[last]
