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
    from results.budget import at_budget
    from results.comparison import compare
    from results.metrics import average_certified_radius, certified_accuracy
    from results.run import Run, read_run
    from results.statistics import Interval, accuracy_interval, acr_interval
    from results.two_sided import two_sided_radius

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
    "two_sided_radius",
]

_HOMES = {
    "at_budget": "budget",
    "compare": "comparison",
    "average_certified_radius": "metrics",
    "certified_accuracy": "metrics",
    "Run": "run",
    "read_run": "run",
    "Interval": "statistics",
    "accuracy_interval": "statistics",
    "acr_interval": "statistics",
    "two_sided_radius": "two_sided",
}


def __getattr__(name: str) -> object:
    """pandas and scipy take a second to import, which commands that only look at files do not have to pay."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
