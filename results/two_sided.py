"""The two-sided radius of stored certificates: from p_A and the runner-up's p_B, beside the radius from p_A alone."""

from __future__ import annotations

import numpy as np
import pandas as pd

from results.bounds import two_sided_certified_radius
from results.budget import is_fully_drawn


def two_sided_radius(certificates: pd.DataFrame, trials: pd.DataFrame) -> pd.Series:
    """σ/2 (Φ⁻¹(p_A) − Φ⁻¹(p_B)) of the selected class of each row, at its own alpha. How both bounds hold together with
    probability 1 − alpha says `bounds.two_sided_certified_radius`. It is for comparison: `radius`, and all that follows
    from it, stays that from p_A alone. Larger than that where the other copies are spread over several classes, it may
    also certify an image on which that abstains, and is a little smaller where they are not.

    Two-stage sampling changes nothing: it decides on n from the copies of the selection, which are not counted here.

    Args:
        certificates: rows with the columns of `results.schema.CERTIFICATES`, of any number of trials.
        trials: rows of `results.schema.TRIALS`, those trials among them.

    Returns:
        "radius_two_sided" of each row, an ℓ2 distance in [0, 1] pixel units, 0 where nothing is certified. NaN where
        there are no counts of n copies (imported; misclassified and not estimated; thinned by `at_budget`), and where
        the estimation ended before its n copies, for that it did depends on the counts. A two-stage abstention with
        fewer copies than the trial's n is among these: its row does not tell how many it was to have.

    Raises:
        ValueError: a row of a trial that is not among the trials.

    Example:
        run.certificates.assign(radius_two_sided=two_sided_radius(run.certificates, run.trials))
    """
    radii = np.full(len(certificates), np.nan)
    known = is_fully_drawn(certificates, trials) & certificates["counts"].notna().to_numpy()
    of_classes = certificates["counts"].where(known).map(len, na_action="ignore")
    for num_classes in of_classes.dropna().unique():
        rows = np.flatnonzero(of_classes == num_classes)
        these = certificates.iloc[rows]
        counts = np.stack(these["counts"].tolist())
        whole = counts.sum(axis=1) == these["n"].to_numpy()
        rows, these, counts = rows[whole], these[whole], counts[whole]
        selected = these["selected"].to_numpy().astype(np.int64)[:, None]
        top = np.take_along_axis(counts, selected, axis=1)[:, 0]
        others = counts.copy()
        np.put_along_axis(others, selected, -1, axis=1)
        n, alpha, sigma = (these[name].to_numpy() for name in ("n", "alpha", "sigma"))
        radii[rows] = two_sided_certified_radius(top, others.max(axis=1), n, alpha, sigma, int(num_classes))
    return pd.Series(radii, certificates.index, name="radius_two_sided")
