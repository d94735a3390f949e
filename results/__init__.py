"""Certificates -> Parquet -> metrics, statistics, tables, figures and report. No torch, no ray.

from results import read_run, certified_accuracy, average_certified_radius, compare
run = read_run("runs/smoke")
run.certificates.groupby("trial_id").apply(average_certified_radius, include_groups=False)
compare(run, ["ours", "gaussian"])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from results.analysis.budget import at_budget
    from results.analysis.comparison import compare
    from results.analysis.metrics import average_certified_radius, certified_accuracy
    from results.analysis.statistics import Interval, accuracy_interval, acr_interval
    from results.store.run import Run, read_run

__all__ = [
    "Interval",
    "Run",
    "accuracy_interval",
    "acr_interval",
    "at_budget",
    "average_certified_radius",
    "certified_accuracy",
    "compare",
    "read_run",
]

_HOMES = {
    "at_budget": "analysis.budget",
    "compare": "analysis.comparison",
    "average_certified_radius": "analysis.metrics",
    "certified_accuracy": "analysis.metrics",
    "Run": "store.run",
    "read_run": "store.run",
    "Interval": "analysis.statistics",
    "accuracy_interval": "analysis.statistics",
    "acr_interval": "analysis.statistics",
}


def __getattr__(name: str) -> object:
    """pandas and scipy take a second to import, which commands that only look at files do not have to pay."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
