"""What the same certificates would have been with fewer noisy copies, or at another alpha, from their counts alone.

ACR grows with n, and not equally for all methods: a ranking may depend on the budget (Sun et al. 2025).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from results.bounds import certified_radius, lower_confidence_bound

BUDGETS = (1_000, 10_000, 100_000)


def at_budget(
    certificates: pd.DataFrame, n: int, generator: np.random.Generator, *, alpha: float | None = None
) -> pd.DataFrame:
    """The certificates that n of each image's copies give: a random subset of them, so that the count of the selected
    class is hypergeometric. One draw, as one run with that n would be.

    An image of which fewer copies were drawn (`estimator` two-stage) keeps them all. An image that was not estimated
    (misclassified), or whose estimation ended early because abstention was certain, stays without a certificate; so
    does every abstention of a two-stage estimation, whose planned copies the row does not tell.

    Args:
        certificates: rows with the columns of `results.schema.CERTIFICATES`, of any number of trials.
        n: at least 1; at most the n of every trial whose estimator is fixed.
        alpha: of the new bounds; that of the rows where not given.

    Returns:
        The rows with `n, count_top, alpha, p_lower, radius, predicted, status, correct` anew. `counts` keep all copies.

    Raises:
        ValueError: imported rows, which have no counts; n or alpha out of range.
    """
    if certificates["count_top"].isna().any():
        raise ValueError("imported certificates have no counts, so nothing follows from them for another n or alpha")
    drawn, top = certificates["n"].to_numpy(), certificates["count_top"].to_numpy().astype(np.int64)
    fixed = (certificates["estimator"] == "fixed").to_numpy()
    full = full_budget(certificates)
    if n < 1:
        raise ValueError(f"n = {n}: must be at least 1")
    limits = full[fixed & (full > 0)]
    if (n > limits).any():
        raise ValueError(f"n = {n}: must be at most the {limits.min()} copies that were drawn")
    status = certificates["status"].to_numpy()
    judged = (status == "certified") | ((status == "abstained") & fixed & (drawn == full))
    copies = np.where(judged, np.minimum(drawn, n), 0)
    kept = generator.hypergeometric(top, drawn - top, copies)
    level = certificates["alpha"].to_numpy() if alpha is None else np.full(len(kept), alpha)
    p_lower = np.where(judged, _bounds(kept, np.maximum(copies, 1), level), 0.0)
    certified = p_lower >= 0.5
    selected = certificates["selected"].to_numpy().astype(np.int64)
    predicted = np.where(certified, selected, -1)
    return certificates.assign(
        n=copies,
        count_top=kept,
        alpha=level,
        p_lower=p_lower,
        radius=certified_radius(p_lower, certificates["sigma"].to_numpy()),
        predicted=predicted,
        status=np.where(certified, "certified", np.where(status == "misclassified", status, "abstained")),
        correct=predicted == certificates["label"].to_numpy(),
    )


def full_budget(certificates: pd.DataFrame) -> np.ndarray:
    """For each row the largest number of copies of a certified row of its trial: its n, as far as rows tell. 0 where a
    trial certifies nothing, with few copies as with many."""
    certified = certificates["n"].where(certificates["status"] == "certified", 0)
    largest: np.ndarray = certified.groupby(certificates["trial_id"]).transform("max").to_numpy()
    return largest


def _bounds(counts: np.ndarray, n: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """`lower_confidence_bound`, computed once for equal arguments: images share counts."""
    distinct, where = np.unique(np.stack([counts, n, alpha]), axis=1, return_inverse=True)
    bounds: np.ndarray = lower_confidence_bound(distinct[0], distinct[1], distinct[2])[where.reshape(-1)]
    return bounds
