"""Everything a run shows, from its Parquet files alone."""

from __future__ import annotations

from results.errors import BenchError
from results.report.figures import drawn, figures_of, save_figure
from results.report.figures.style import words_of
from results.report.formats import to_csv, to_latex, to_markdown
from results.report.page import Picture, write_page
from results.report.subject import Subject
from results.report.table import ResultTable
from results.report.tables import tables_of
from results.store.folder import AnyPath, RunFolder, listing, remove_leftovers, write_text
from results.store.run import read_run, read_thumbnails

TABLES = ("certified_accuracy", "base_accuracy", "best_of_sigma", "seeds", "cost", "beyond_acr", "convergence")
FIGURES = (
    *("certified_accuracy_curves", "best_of_sigma", "accuracy_by_epoch", "decomposition_curves", "gradient_by_epoch"),
    *("sensitivity", "robustness_gradient", "sample_weights", "class_overlap", "principal_variances"),
    *("p_a_distribution", "cost"),
)
"""Names in reports. What the run has no data for any more is removed: it would look like part of the report."""

WITHOUT_CHART = ("gradient_by_epoch", "sensitivity", "robustness_gradient", "sample_weights", "class_overlap")
"""Figures that the page shows as pictures; it draws the others itself."""


def write_report(folder: RunFolder, source: str | None = None, *, places: bool = False) -> list[ResultTable]:
    """Write tables/, figures/ and report.html of a merged run; returns the tables.

    Args:
        folder: of the run.
        source: as for `tables.table_certified_accuracy`.
        places: say also where on this machine data, grid and program were.

    Raises:
        FileNotFoundError, ValueError: as `read_run`; ValueError also where no trial is finished, or for an unknown
            source.
    """
    run = read_run(folder.path)
    if run.trials.empty:
        missing = f" (not finished: {', '.join(run.missing)})" if run.missing else ""
        raise BenchError(f"{folder.path}: no trial is finished, so there is nothing to report{missing}")
    subject = Subject(run)
    tables, figures = list(tables_of(subject, source)), list(figures_of(subject, source or "thesis"))
    for place in (folder.path, folder.tables, folder.figures):
        remove_leftovers(place)
    files = {name: drawn(figure) for name, figure in figures}
    pictures = [
        Picture(figure.get_suptitle(), words_of(figure), files[name]["png"])
        for name, figure in figures
        if name in WITHOUT_CHART
    ]
    # What can still be refused comes before the first file is written.
    write_page(subject, tables, read_thumbnails(folder.path), folder.page, pictures, places=places)
    for table in tables:
        for suffix, text in (("md", to_markdown(table)), ("csv", to_csv(table)), ("tex", to_latex(table))):
            write_text(folder.tables / f"{table.name}.{suffix}", text)
    for name, content in files.items():
        save_figure(content, folder.figures, name)
    _remove_others(folder.tables, set(TABLES) - {table.name for table in tables})
    _remove_others(folder.figures, set(FIGURES) - files.keys())
    return tables


def _remove_others(folder: AnyPath, names: set[str]) -> None:
    for path, _ in listing(folder):
        if path.stem in names:
            path.unlink(missing_ok=True)
