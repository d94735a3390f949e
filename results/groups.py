"""The rows of tables and the lines of figures: one method at one σ, with all its seeds."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from results import published
from results.run import Run


@dataclass(frozen=True)
class Group:
    """One method at one σ, all seeds."""

    sigma: float
    method: str
    title: str
    certificates: pd.DataFrame
    trials: pd.DataFrame

    @property
    def seeds(self) -> list[pd.DataFrame]:
        """The certificates of each trial, in the order of the run."""
        return [rows for _, rows in self.certificates.groupby("trial_id", sort=False)]


def certified_groups(run: Run, order: tuple[str, ...] = published.TABLE_5_1_ORDER) -> list[Group]:
    """By σ; within it in the given order of methods, then in the run's own.

    Raises:
        ValueError: two trials of one method, σ and seed, so that the row would not be of one thing.
    """
    trials = run.trials
    twice = trials[trials.duplicated(["method", "sigma", "seed"])]
    if len(twice):
        first = twice.iloc[0]
        raise ValueError(
            f"two trials are {first['method']} at σ = {first['sigma']:g} with seed {first['seed']}: "
            "give one of them another name"
        )
    methods = list(dict.fromkeys([*order, *trials["method"]]))
    names = trials.groupby("title")["method"].nunique()
    certificates = dict(list(run.certificates.groupby(["sigma", "method"], sort=False)))
    groups = []
    for _, rows in trials.groupby(["sigma", "method"], sort=False):
        sigma, method, title = rows[["sigma", "method", "title"]].iloc[0]
        # Variants of one method share its title: then the rows' own names tell them apart.
        shown = method if names[title] > 1 else title
        groups.append(Group(sigma, method, shown, certificates[sigma, method], rows))
    return sorted(groups, key=lambda group: (group.sigma, methods.index(group.method)))
