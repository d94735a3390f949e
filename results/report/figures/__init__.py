"""Seven figures after the thesis and five more, of the Parquet files of a run; matplotlib without its global state.

for name, figure in figures_of(run):
    save_figure(drawn(figure), folder, name)
"""

from __future__ import annotations

from collections.abc import Iterator

from matplotlib.figure import Figure

from results.analysis.envelope import envelopes
from results.analysis.groups import certified_groups
from results.analysis.sweeps import find_sweeps
from results.report.figures.curves import (
    BASELINE,
    baselines,
    figure_certified_accuracy,
    figure_decomposition,
    figure_envelope,
    figure_p_a,
)
from results.report.figures.illustrations import figure_class_overlap, figure_sample_weights
from results.report.figures.sensitivity import figure_sensitivity
from results.report.figures.steps import curve
from results.report.figures.style import drawn, save_figure
from results.report.figures.theory import figure_principal_variances, figure_robustness_gradient
from results.report.figures.training import (
    CONSISTENCY,
    compared,
    figure_accuracy_by_epoch,
    figure_cost,
    figure_gradient_by_epoch,
    maximising,
)
from results.store.run import Run

__all__ = ["curve", "drawn", "figures_of", "save_figure"]


def figures_of(run: Run, source: str = "thesis") -> Iterator[tuple[str, Figure]]:
    """The figures that the run has data for, by file name; each is built when it is asked for.

    Args:
        run: with at least one finished trial.
        source: of the published values beside certified accuracy, a key of `results.analysis.published.SOURCES`.

    Raises:
        ValueError: an unknown source; or as `results.analysis.groups.certified_groups`.
    """
    yield "certified_accuracy_curves", figure_certified_accuracy(run, source)
    if envelopes(certified_groups(run)):
        yield "best_of_sigma", figure_envelope(run)
    methods = compared(run)
    if CONSISTENCY in methods and len(methods) > 1:
        yield "accuracy_by_epoch", figure_accuracy_by_epoch(run)
    gaussian = baselines(run)
    if BASELINE in gaussian and len(gaussian) > 1:
        yield "decomposition_curves", figure_decomposition(run, source)
    if maximising(run):
        yield "gradient_by_epoch", figure_gradient_by_epoch(run)
    sweeps = find_sweeps(certified_groups(run))
    if sweeps:
        yield "sensitivity", figure_sensitivity(sweeps)
    yield "robustness_gradient", figure_robustness_gradient()
    yield "sample_weights", figure_sample_weights()
    yield "class_overlap", figure_class_overlap()
    if len(run.spectra):
        yield "principal_variances", figure_principal_variances(run)
    yield "p_a_distribution", figure_p_a(run)
    if run.trials["train_seconds"].notna().any():
        yield "cost", figure_cost(run)
