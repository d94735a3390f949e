"""The certificates of a table as a whole: each is false with probability at most alpha, and so of many some are."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
import pandas as pd
from scipy.special import bdtr

from results.analysis.budget import recertified
from results.bounds.anytime import Design, anytime_bound
from results.bounds.composition import composed_row
from results.bounds.lattice import debited, is_certified
from results.bounds.radius import lower_confidence_bound
from results.printable import PER_INPUT

CONFIDENCE = 0.95


def false_at_most(certificates: int, alpha: float) -> int:
    """How many of so many certificates are false at most, with probability `CONFIDENCE`: the quantile of
    Binomial(certificates, alpha), since each has noise of its own and is false with probability at most alpha."""
    return bisect_left(range(certificates + 1), CONFIDENCE, key=lambda false: float(bdtr(false, certificates, alpha)))


def holding_together(certificates: pd.DataFrame, trials: pd.DataFrame) -> pd.DataFrame:
    """The certificates of a trial such that all hold at once with probability `CONFIDENCE`: each at (1 − CONFIDENCE)
    divided by the number of its images (Bonferroni), or at its own alpha where that is less, from the counts there are.

    Args:
        certificates: rows of one trial with the columns of `results.store.schema.CERTIFICATES` and counts.
        trials: rows with the columns of `results.store.schema.TRIALS`, that trial among them.

    Returns:
        The rows with `alpha, p_lower, radius, predicted, status, correct` anew. What is no certificate stays none.
    """
    was = (certificates["status"] == "certified").to_numpy()
    level = np.minimum(certificates["alpha"].to_numpy(), (1 - CONFIDENCE) / len(certificates))
    top, n = certificates["count_top"].to_numpy().astype(np.int64), certificates["n"].to_numpy()
    pixels = certificates["lattice_pixels"].to_numpy(np.float64, na_value=np.nan)
    if (certificates["estimator"] == "anytime").all():
        n0, alpha = certificates[["n0", "alpha"]].iloc[0]
        most = trials.set_index("trial_id").loc[certificates["trial_id"].iloc[0], "n"]
        selection = certificates["selection_counts"].map(max).to_numpy(dtype=np.int64)
        design = Design.of(selection, int(n0), int(most), float(alpha))
        bounds = anytime_bound(top, np.maximum(n, 1), design, level)
    else:
        bounds = lower_confidence_bound(top, np.maximum(n, 1), level)
    bound = np.where(was, bounds, 0.0)
    p_lower, radius = debited(bound, certificates["sigma"], pixels)
    certified = is_certified(p_lower, radius, pixels)
    for place in np.flatnonzero(was & (certificates["sigma"] == PER_INPUT).to_numpy()):
        found = composed_row(certificates.iloc[place].to_dict(), float(level[place]))
        p_lower[place], radius[place], certified[place] = found.p_lower, found.radius, found.certified
    return recertified(certificates, certified, alpha=level, p_lower=p_lower, radius=radius)
