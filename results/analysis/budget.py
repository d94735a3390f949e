"""What the same certificates would have been with fewer noise samples, or at another alpha, from their counts alone.

ACR grows with n, and not equally for all methods: a ranking may depend on the budget (Sun et al. 2025).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from results.bounds.lattice import debited, is_certified
from results.bounds.radius import lower_confidence_bound
from results.bounds.two_stage import sufficient_for_each
from results.errors import BenchError
from results.printable import PER_INPUT

BUDGETS = (1_000, 10_000, 100_000)
"""Copies n at which `table_beyond_acr` shows ACR, where they are fewer than a run's own."""
MOST = 10**9
"""Copies of which numpy's hypergeometric distribution takes no subset."""


def at_budget(
    certificates: pd.DataFrame,
    n: int,
    generator: np.random.Generator,
    *,
    trials: pd.DataFrame,
    alpha: float | None = None,
) -> pd.DataFrame:
    """The certificates that n of each image's samples give: a random subset of them, so that the count of the selected
    class is hypergeometric. One draw, as one run with that n would be.

    An image of which fewer samples were drawn (`estimator` two-stage) keeps them all. An image that was not estimated
    (misclassified), or whose estimation ended early because abstention was certain, stays without a certificate.

    Args:
        certificates: rows with the columns of `results.store.schema.CERTIFICATES`, of any number of trials.
        n: at least 1; at most the n of every trial whose estimator is fixed.
        generator: of the subsets.
        trials: rows with the columns of `results.store.schema.TRIALS`, those of the certificates among them: how many
            samples were planned.
        alpha: of the new bounds; that of the rows where not given.

    Returns:
        The rows with `n, count_top, alpha, p_lower, radius, predicted, status, correct` anew. `counts` and
        `radius_two_sided` are still those of all samples.

    Raises:
        BenchError: imported rows, which have no counts; anytime ones, whose n their own answers decided; composed
            classifiers; n or alpha out of range; rows of 1e9 samples or more, of which numpy draws no subset;
            certificates of no trial.
    """
    if (certificates["estimator"] == "anytime").any():
        raise BenchError(
            "anytime certificates were stopped by their answers, so nothing follows for another n or alpha"
        )
    if certificates["count_top"].isna().any():
        raise BenchError("imported certificates have no counts, so nothing follows from them for another n or alpha")
    if (certificates["sigma"] == PER_INPUT).any():
        raise BenchError(
            "certificates of composed classifiers are not thinned: of fewer samples another part may answer"
        )
    planned = planned_budget(certificates, trials)
    _refuse_budget(certificates, planned, n, alpha)
    drawn, top = certificates["n"].to_numpy(), certificates["count_top"].to_numpy().astype(np.int64)
    status = certificates["status"].to_numpy()
    judged = (status != "misclassified") & (drawn == planned)
    samples = np.where(judged, np.minimum(drawn, n), 0)
    kept = generator.hypergeometric(top, drawn - top, samples)
    level = certificates["alpha"].to_numpy() if alpha is None else np.full(len(kept), alpha)
    pixels = certificates["lattice_pixels"].to_numpy(np.float64, na_value=np.nan)
    bound = np.where(judged, _bounds(kept, np.maximum(samples, 1), level), 0.0)
    p_lower, radius = debited(bound, certificates["sigma"], pixels)
    certified = is_certified(p_lower, radius, pixels)
    return recertified(certificates, certified, n=samples, count_top=kept, alpha=level, p_lower=p_lower, radius=radius)


def recertified(certificates: pd.DataFrame, certified: np.ndarray, **anew: np.ndarray) -> pd.DataFrame:
    """The rows with these columns anew, and `predicted, status, correct` by whether each is certified now. What was
    misclassified stays so where it is not."""
    status = certificates["status"].to_numpy()
    predicted = np.where(certified, certificates["selected"].to_numpy().astype(np.int64), -1)
    return certificates.assign(
        **anew,
        predicted=predicted,
        status=np.where(certified, "certified", np.where(status == "certified", "abstained", status)),
        correct=predicted == certificates["label"].to_numpy(),
    )


def planned_budget(certificates: pd.DataFrame, trials: pd.DataFrame) -> np.ndarray:
    """For each row the samples that its estimation was to draw: its trial's n, or what its selection asked for.

    Raises:
        BenchError: a row's trial is not among the trials.
    """
    own = trials.set_index("trial_id").reindex(certificates["trial_id"])
    if own["n"].isna().any():
        missing = certificates["trial_id"][own["n"].isna().to_numpy()].iloc[0]
        raise BenchError(f"the trial {missing} of the certificates is not among the trials")
    planned: np.ndarray = own["n"].to_numpy().astype(np.int64)
    two_stage = (certificates["estimator"] == "two-stage").to_numpy()
    for trial_id in certificates["trial_id"][two_stage].unique():
        at = (certificates["trial_id"] == trial_id).to_numpy()
        n0, alpha = certificates[["n0", "alpha"]][at].iloc[0]
        counts = certificates["selection_counts"][at].map(max).to_numpy(dtype=np.int64)
        planned[at] = sufficient_for_each(counts, int(n0), int(planned[at][0]), float(alpha))
    return planned


def _refuse_budget(certificates: pd.DataFrame, planned: np.ndarray, n: int, alpha: float | None) -> None:
    """Raise BenchError where n or alpha is out of range, or a row has too many samples."""
    fixed, most = (certificates["estimator"] == "fixed").to_numpy(), certificates["n"].max()
    if n < 1:
        raise BenchError(f"n = {n}: must be at least 1")
    if alpha is not None and not 0 < alpha < 1:
        raise BenchError(f"alpha = {alpha}: must be above 0 and below 1")
    if (n > planned[fixed]).any():
        raise BenchError(f"n = {n}: must be at most the {planned[fixed].min()} samples that were planned")
    if most >= MOST:
        raise BenchError(f"rows of {most} samples cannot be thinned: numpy draws subsets of less than {MOST}")


def _bounds(counts: np.ndarray, n: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """`lower_confidence_bound`, computed once for equal arguments: images share counts."""
    distinct, where = np.unique(np.stack([counts, n, alpha]), axis=1, return_inverse=True)
    bounds: np.ndarray = lower_confidence_bound(distinct[0], distinct[1], distinct[2])[where.reshape(-1)]
    return bounds
