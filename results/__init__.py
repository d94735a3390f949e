"""Certificates -> Parquet -> metrics, statistics, tables, figures and report. No torch, no ray.

from results import read_run, certified_accuracy, average_certified_radius, compare
run = read_run("runs/smoke")
run.certificates.groupby("trial_id").apply(average_certified_radius, include_groups=False)
compare(run, ["ours", "gaussian"])
"""

from results.budget import at_budget
from results.compare import compare
from results.metrics import average_certified_radius, certified_accuracy
from results.run import Run, read_run
from results.statistics import Interval, accuracy_interval, acr_interval

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
