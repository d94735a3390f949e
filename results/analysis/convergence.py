"""How fast trainings converge: the epochs that they take to a common level of accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

LEVEL = 0.95
"""Of the best final accuracy: what counts as converged."""
_ROUNDING = 1e-12


def final_accuracies(epochs: pd.DataFrame) -> list[float]:
    """`noisy_test_accuracy` after the last epoch of each trial, in the order of the rows.

    Args:
        epochs: rows of epochs.parquet, of one method at one σ; one or several seeds.
    """
    last = epochs.sort_values("epoch", kind="stable").groupby("trial_id", sort=False).tail(1)
    by_trial = last.set_index("trial_id")["noisy_test_accuracy"]
    return [float(by_trial[trial]) for trial in epochs["trial_id"].unique()]


def common_level(rows: Sequence[pd.DataFrame]) -> float:
    """LEVEL times the best final accuracy among the rows, each the mean of its seeds.

    Args:
        rows: as `final_accuracies` takes them, of one σ and one data set; at least one.
    """
    finals = [final_accuracies(epochs) for epochs in rows]
    return LEVEL * max(sum(accuracies) / len(accuracies) for accuracies in finals)


def epochs_to_level(epochs: pd.DataFrame, level: float) -> list[int | None]:
    """Of each trial, in the order of the rows, the first epoch, counted from 1, after which its accuracy is at least
    `level`; None where it never is. Rows as for `final_accuracies`."""
    reached = epochs[epochs["noisy_test_accuracy"] >= level - _ROUNDING]
    first = reached.groupby("trial_id")["epoch"].min()
    return [int(first[trial]) + 1 if trial in first.index else None for trial in epochs["trial_id"].unique()]
