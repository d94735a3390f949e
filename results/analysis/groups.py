"""The rows of tables and the lines of figures: one method at one σ, with all its seeds."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from results.analysis import published
from results.analysis.published import CIFAR10
from results.errors import BenchError
from results.printable import named_sigma
from results.store.run import Run


@dataclass(frozen=True)
class Group:
    """One method at one σ, all seeds."""

    sigma: float
    method: str
    title: str
    certificates: pd.DataFrame
    trials: pd.DataFrame

    @cached_property
    def seeds(self) -> list[pd.DataFrame]:
        """The certificates of each trial, in the order of the run."""
        return [rows for _, rows in self.certificates.groupby("trial_id", sort=False)]

    @property
    def of_certification(self) -> bool:
        """Whether its seeds, of which there are several, are of the certification's noise alone: the weights of all are
        the same. Else they are of the training, and of the noise with it."""
        return len(self.trials) > 1 and len(set(self.trials["checkpoint_sha256"])) == 1

    def published_among(self, reference: dict[published.Key, dict[str, float]]) -> dict[str, float]:
        """The published numbers of this method and σ; none where the data is not that of the published ones."""
        same_data = of_published_data(self.trials).all()
        return reference.get((self.sigma, self.method), {}) if same_data else {}


SAME = ("dataset", "images", "n", "n0", "alpha")
"""Columns of trials that must agree before their certificates are put together or compared."""


def setting_of(group: Group, *names: str) -> tuple[object, ...]:
    """What groups agree in that may be ranked against each other: these columns of their trials, and which images they
    certify by which estimator and arithmetic; as `results.analysis.comparison.check_comparable`."""
    rows = group.seeds[0]
    estimator = rows["estimator"].iloc[0]
    how = "fixed" if estimator == "imported" else estimator, arithmetic_of(rows)
    return (*group.trials[list(names)].iloc[0], hash(tuple(sorted(rows["index"]))), *how)


def arithmetic_of(rows: pd.DataFrame) -> str:
    """Of the certificates of a trial: float or sound; of the latter every radius is less by what it costs."""
    return "float" if rows["lattice_pixels"].isna().all() else "sound"


def certified_groups(run: Run) -> list[Group]:
    """The groups of a run, `in_order` of the thesis's table of certified accuracy.

    Raises:
        BenchError: two trials of one method, σ and seed; seeds of a method with other images, n, n0, alpha, estimator
            or arithmetic, whose mean would be of nothing; or a trial without certificates.
    """
    trials = run.trials
    refuse_twins(trials)
    names = trials.groupby("title")["method"].nunique()
    certificates = dict(list(run.certificates.groupby(["sigma", "method"], sort=False)))
    groups = []
    for _, rows in trials.groupby(["sigma", "method"], sort=False):
        sigma, method, title = rows[["sigma", "method", "title"]].iloc[0]
        # Variants of one method share its title: then the rows' own names tell them apart.
        shown = method if names[title] > 1 else title
        if (sigma, method) not in certificates:
            raise BenchError(
                f"{method} at {named_sigma(sigma)} is among the trials and has no certificates: the run's files do not "
                "belong together; bench report makes them anew"
            )
        group = Group(sigma, method, shown, certificates[sigma, method], rows)
        _refuse_unlike_seeds(group)
        groups.append(group)
    return in_order(groups, trials, published.ACCURACY_ORDER)


def in_order(groups: Iterable[Group], trials: pd.DataFrame, order: tuple[str, ...]) -> list[Group]:
    """Groups by σ; within it in the given order of methods, then in that of the trials."""
    methods = list(dict.fromkeys([*order, *trials["method"]]))
    return sorted(groups, key=lambda group: (group.sigma, methods.index(group.method)))


def of_published_data(trials: pd.DataFrame) -> pd.Series:
    """Whether the data of each is CIFAR-10, or a copy or part of it; beside other data no published number stands."""
    named = trials["dataset"].str.match(r"(?i)cifar-?10(?![\d.]|[-_]?[cp\d]\b)")  # nor CIFAR-10-C, CIFAR-10.1
    others = trials["classes"].map(lambda classes: tuple(classes) != CIFAR10, na_action="ignore")
    return named & ~(trials["classes"].notna() & others.eq(True))


def trained_models(trial: Mapping[Hashable, Any]) -> set[str]:
    """The trial ids of the trained models that a row of trials consists of: an ensemble's members, or itself."""
    members = trial.get("members")
    return set(members) if isinstance(members, list | tuple | np.ndarray) and len(members) else {trial["trial_id"]}


def refuse_twins(trials: pd.DataFrame) -> None:
    """Raise BenchError where two trials are of one method, σ and seed."""
    twins = trials[trials.duplicated(["method", "sigma", "seed"])]
    if len(twins):
        first = twins.iloc[0]
        raise BenchError(
            f"two trials are {first['method']} at {named_sigma(first['sigma'])} with seed {first['seed']}: "
            "give one of them another name"
        )


def _refuse_unlike_seeds(group: Group) -> None:
    if len(group.trials) == 1:
        return
    what = f"the seeds of {group.method} at {named_sigma(group.sigma)} cannot be averaged"
    for name in SAME:
        values = group.trials[name].unique()
        if len(values) > 1:
            raise BenchError(f"{what}: {name} is {' or '.join(map(str, values))}")
    kinds = group.certificates["estimator"].unique()
    if len(kinds) > 1:
        raise BenchError(f"{what}: their estimators are {' and '.join(kinds)}")
    if len({arithmetic_of(rows) for rows in group.seeds}) > 1:
        raise BenchError(f"{what}: their arithmetics are float and sound")
    if len({tuple(sorted(rows["index"])) for rows in group.seeds}) > 1:
        raise BenchError(f"{what}: their test images are different ones")
