"""Figures of the thesis and two more, each from the Parquet files of a run; matplotlib without its global state.

for name, figure in figures_of(run):
    save_figure(figure, folder, name)
"""

from __future__ import annotations

from collections.abc import Iterator

from matplotlib.figure import Figure

from results.report.figures.curves import BASELINE, baselines, figure_5_1, figure_5_3, figure_p_a
from results.report.figures.steps import curve
from results.report.figures.style import save_figure
from results.report.figures.theory import figure_3_1, figure_4_3
from results.report.figures.training import CONSISTENCY, compared, figure_5_2, figure_cost
from results.store.run import Run

__all__ = ["curve", "figures_of", "save_figure"]


def figures_of(run: Run, source: str = "thesis") -> Iterator[tuple[str, Figure]]:
    """The figures that the run has data for, by file name; each is built when it is asked for.

    Args:
        run: with at least one finished trial.
        source: of the published values in Figures 5.1 and 5.3, a key of `results.analysis.published.SOURCES`.

    Raises:
        ValueError: an unknown source; or as `results.analysis.groups.certified_groups`.
    """
    yield "figure_5_1", figure_5_1(run, source)
    methods = compared(run)
    if CONSISTENCY in methods and len(methods) > 1:
        yield "figure_5_2", figure_5_2(run)
    gaussian = baselines(run)
    if BASELINE in gaussian and len(gaussian) > 1:
        yield "figure_5_3", figure_5_3(run, source)
    yield "figure_3_1", figure_3_1()
    if len(run.spectra):
        yield "figure_4_3", figure_4_3(run)
    yield "p_a_ecdf", figure_p_a(run)
    if run.trials["train_seconds"].notna().any():
        yield "cost", figure_cost(run)
