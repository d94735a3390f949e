"""Certified accuracy and average certified radius (Cohen et al. 2019; Zhai et al. 2020), and what they cost."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

RADII = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""At which tables give certified accuracy, besides 0."""


def certified_accuracy(certificates: pd.DataFrame, radius: float) -> float:
    """Share of all test images that are predicted correctly with a certified radius of at least `radius`.

    Args:
        certificates: rows of one trial with columns `correct` (bool) and `radius` (ℓ2, [0, 1] pixel units).
        radius: at least 0; at 0 this is the accuracy of the smoothed classifier, an abstention being an error.

    Raises:
        ValueError: no rows, rows of several trials, or a negative radius.
    """
    _one_trial(certificates)
    if radius < 0:
        raise ValueError(f"radius = {radius}: must be at least 0")
    return float((certificates["correct"] & (certificates["radius"] >= radius)).mean())


def certified_accuracies(certificates: pd.DataFrame, radii: NDArray[np.float64]) -> NDArray[np.float64]:
    """`certified_accuracy` at each of the radii; of several trials on the same images, the mean.

    Args:
        radii: (radii,), at least 0.

    Returns:
        (radii,).
    """
    certified = np.sort(certificates["radius"].to_numpy()[certificates["correct"].to_numpy()])
    found: NDArray[np.float64] = (len(certified) - np.searchsorted(certified, radii, side="left")) / len(certificates)
    return found


def average_certified_radius(certificates: pd.DataFrame) -> float:
    """ACR: mean over all test images of radius · [correct], in [0, 1] pixel units. Rows as for `certified_accuracy`.

    Raises:
        ValueError: no rows, or rows of several trials.
    """
    _one_trial(certificates)
    return float((certificates["radius"] * certificates["correct"]).mean())


def label_probabilities(certificates: pd.DataFrame) -> NDArray[np.float64]:
    """p_A of the label of each row, as the share of its samples that gave it; 0 where nothing was estimated.

    Without counts (imported), it is the lower bound p_lower where the prediction is the label, else 0.

    Args:
        certificates: rows with the columns of `results.store.schema.CERTIFICATES`, of any number of trials.

    Returns:
        (rows,), in their order.
    """
    rows = certificates
    n, label, lists = (rows[name].to_numpy() for name in ("n", "label", "counts"))
    count = np.where(rows["selected"] == rows["label"], rows["count_top"], 0.0)
    # an image that another class was selected for has counts under --full
    other = (rows["selected"] != rows["label"]).to_numpy() & rows["counts"].notna().to_numpy() & (n > 0)
    for row in np.flatnonzero(other):
        counts = lists[row]
        count[row] = counts[label[row]] if label[row] < len(counts) else 0
    bound = np.where(rows["correct"], rows["p_lower"], 0.0)
    found = np.where(rows["estimator"] == "imported", bound, count / np.maximum(n, 1))
    return found.astype(np.float64)


def worker_hours(trials: pd.DataFrame) -> pd.Series:
    """Hours of training and certification of each trial, summed over workers; NaN where it was trained elsewhere.

    `train_seconds` is wall clock and counts once per worker, `certify_seconds` is summed already.
    """
    return (trials["train_seconds"] * trials["workers"] + trials["certify_seconds"]) / 3600


def _one_trial(certificates: pd.DataFrame) -> None:
    if certificates.empty:
        raise ValueError("no certificates")
    if "trial_id" in certificates and len(certificates["trial_id"].unique()) > 1:
        raise ValueError("the certificates are of several trials: group them by trial_id first")
