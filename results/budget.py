"""What the same certificates would have been with fewer noisy copies, or at another alpha, from their counts alone.

ACR grows with n, and not equally for all methods: a ranking may depend on the budget (Sun et al. 2025).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from results.bounds import certified_radius, lower_confidence_bound

BUDGETS = (1_000, 10_000, 100_000)
MOST_COPIES = 10**9
"""Of which numpy draws no hypergeometric numbers."""


def at_budget(
    certificates: pd.DataFrame,
    n: int,
    generator: np.random.Generator,
    *,
    trials: pd.DataFrame,
    alpha: float | None = None,
) -> pd.DataFrame:
    """The certificates that n of each image's copies give: a random subset of them, so that the count of the selected
    class is hypergeometric. One draw, as one run with that n would be.

    An image of which fewer copies were drawn (`estimator` sequential) keeps them all. An image that was not estimated
    (misclassified), or whose estimation ended early because abstention was certain, stays without a certificate; so
    does an abstention of a sequential estimation with fewer copies than the trial's n, for the row does not tell
    whether these were all.

    Args:
        certificates: rows with the columns of `results.schema.CERTIFICATES`, of any number of trials.
        n: at least 1; at most the n of every trial.
        trials: rows of `results.schema.TRIALS`, those trials among them: they say how many copies were planned.
        alpha: of the new bounds; that of the rows where not given.

    Returns:
        The rows with `n, count_top, alpha, p_lower, radius, predicted, status, correct` anew. `counts` keep all copies.

    Raises:
        ValueError: imported rows, which have no counts; n or alpha out of range; a row of a trial that is not among the
            trials; or a subset to be drawn of MOST_COPIES copies or more.
    """
    if certificates["count_top"].isna().any():
        raise ValueError("imported certificates have no counts, so nothing follows from them for another n or alpha")
    drawn, top = certificates["n"].to_numpy(), certificates["count_top"].to_numpy().astype(np.int64)
    planned, status = planned_copies(certificates, trials), certificates["status"].to_numpy()
    if n < 1:
        raise ValueError(f"n = {n}: must be at least 1")
    if (n > planned).any():
        raise ValueError(f"n = {n}: must be at most the {planned.min()} copies of the trial")
    judged = is_fully_drawn(certificates, trials)
    copies = np.where(judged, np.minimum(drawn, n), 0)
    fewer = judged & (copies < drawn)
    if (fewer & (drawn >= MOST_COPIES)).any():
        raise ValueError(
            f"n = {n}: cannot be drawn from {drawn.max()} copies; only from fewer than {MOST_COPIES}, or all of them"
        )
    kept = np.where(judged, top, 0)
    kept[fewer] = generator.hypergeometric(top[fewer], (drawn - top)[fewer], copies[fewer])
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


def planned_copies(certificates: pd.DataFrame, trials: pd.DataFrame) -> np.ndarray:
    """The n of each row's trial: (rows,), int64.

    Raises:
        ValueError: a row of a trial that is not among the trials.
    """
    planned = certificates["trial_id"].map(trials.set_index("trial_id")["n"])
    if planned.isna().any():
        unknown = certificates["trial_id"][planned.isna()].iloc[0]
        raise ValueError(f"the certificates are of {unknown}, which is not among the trials")
    copies: np.ndarray = planned.to_numpy().astype(np.int64)
    return copies


def is_fully_drawn(certificates: pd.DataFrame, trials: pd.DataFrame) -> np.ndarray:
    """Whether each row's estimation went to its end, as far as is known, so that its counts are an ordinary sample:
    (rows,). Whatever is certified did; an abstention that did not draw all copies of the trial may have ended early."""
    status = certificates["status"]
    whole = (status == "abstained") & (certificates["n"] == planned_copies(certificates, trials))
    drawn: np.ndarray = ((status == "certified") | whole).to_numpy()
    return drawn


def _bounds(counts: np.ndarray, n: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """`lower_confidence_bound`, computed once for equal arguments: images share counts."""
    distinct, where = np.unique(np.stack([counts, n, alpha]), axis=1, return_inverse=True)
    bounds: np.ndarray = lower_confidence_bound(distinct[0], distinct[1], distinct[2])[where.reshape(-1)]
    return bounds
