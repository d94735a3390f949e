"""Certificates -> Parquet -> metrics, tables and figures. No torch, no ray.

from results import read_run, certified_accuracy, average_certified_radius
certificates = read_run("runs/smoke").certificates
certificates.groupby("trial_id").apply(average_certified_radius, include_groups=False)
"""

from results.metrics import average_certified_radius, certified_accuracy
from results.run import Run, read_run

__all__ = ["Run", "average_certified_radius", "certified_accuracy", "read_run"]
