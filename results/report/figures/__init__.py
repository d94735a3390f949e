"""Seven figures after the thesis and five more, of the Parquet files of a run; matplotlib without its global state.

for name, figure in figures_of(run):
    save_figure(drawn(figure), folder, name)
"""

from __future__ import annotations

from collections.abc import Iterator

from matplotlib.figure import Figure

from results.analysis.envelope import envelopes
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
from results.report.subject import Subject
from results.store.run import Run

__all__ = ["drawn", "figures_of", "save_figure"]


def figures_of(run: Run | Subject, source: str = "thesis") -> Iterator[tuple[str, Figure]]:
    """The figures that the run has data for, by file name; each is built when it is asked for.

    Args:
        run: with at least one finished trial.
        source: of the published values beside certified accuracy, a key of `results.analysis.published.SOURCES`.

    Raises:
        ValueError: an unknown source; or as `results.analysis.groups.certified_groups`.
    """
    subject = Subject.of(run)
    yield "certified_accuracy_curves", figure_certified_accuracy(subject, source)
    if envelopes(subject.groups):
        yield "best_of_sigma", figure_envelope(subject)
    methods = compared(subject.run)
    if CONSISTENCY in methods and len(methods) > 1:
        yield "accuracy_by_epoch", figure_accuracy_by_epoch(subject)
    gaussian = baselines(subject.run)
    if BASELINE in gaussian and len(gaussian) > 1:
        yield "decomposition_curves", figure_decomposition(subject, source)
    if maximising(subject.run):
        yield "gradient_by_epoch", figure_gradient_by_epoch(subject)
    sweeps = find_sweeps(subject.groups)
    if sweeps:
        yield "sensitivity", figure_sensitivity(sweeps)
    yield "robustness_gradient", figure_robustness_gradient()
    yield "sample_weights", figure_sample_weights()
    yield "class_overlap", figure_class_overlap()
    if len(subject.run.spectra):
        yield "principal_variances", figure_principal_variances(subject.run)
    yield "p_a_distribution", figure_p_a(subject)
    if subject.run.trials["train_seconds"].notna().any():
        yield "cost", figure_cost(subject)
