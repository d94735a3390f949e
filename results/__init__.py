"""What a finished run says: certificates as pandas, metrics, intervals, comparisons, tables. No torch, no ray.

    from results import average_certified_radius, certified_accuracy, compare, compare_seeds, read_run, tables

    run = read_run("runs/smoke")                # .certificates, .trials, .epochs, .spectra: DataFrames
    for trial_id, rows in run.certificates.groupby("trial_id"):
        print(trial_id, average_certified_radius(rows), certified_accuracy(rows, 0.25))
    print(compare(run, ["generalised_ld", "gaussian"]))   # paired tests, with Holm's correction
    print(compare_seeds(run))                   # the same over several training seeds
    print(tables(run)["certified_accuracy"])    # the tables of the report

`accuracy_interval` and `acr_interval` are of the test images, `detectable_difference` and `images_needed` are asked
before a run, `at_budget` gives certificates with fewer noise samples, `published_numbers` are those of the thesis and
the papers. `results.store.rows` documents the columns of a run. Below
`results` lie `bounds` (the mathematics of a certificate), `store` (the files of a run), `analysis` (numbers) and
`report` (what a person reads).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from results.analysis.budget import at_budget
    from results.analysis.comparison import compare
    from results.analysis.metrics import average_certified_radius, certified_accuracy
    from results.analysis.power import detectable_difference, images_needed
    from results.analysis.published import published_numbers
    from results.analysis.seeds import compare_seeds
    from results.analysis.statistics import Interval, accuracy_interval, acr_interval
    from results.report.frames import tables
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
    "compare_seeds",
    "detectable_difference",
    "images_needed",
    "published_numbers",
    "read_run",
    "tables",
]

_HOMES = {
    "at_budget": "analysis.budget",
    "compare": "analysis.comparison",
    "average_certified_radius": "analysis.metrics",
    "certified_accuracy": "analysis.metrics",
    "published_numbers": "analysis.published",
    "detectable_difference": "analysis.power",
    "images_needed": "analysis.power",
    "compare_seeds": "analysis.seeds",
    "Interval": "analysis.statistics",
    "accuracy_interval": "analysis.statistics",
    "acr_interval": "analysis.statistics",
    "tables": "report.frames",
    "Run": "store.run",
    "read_run": "store.run",
}


def __getattr__(name: str) -> object:
    """pandas and scipy take a second to import, which commands that only look at files do not have to pay."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """Also what is not imported yet, for completion and pydoc."""
    return sorted({*globals(), *__all__})
