"""Everything a run shows, from its Parquet files alone."""

from __future__ import annotations

from results.figures import figure_5_1, save_figure
from results.folder import RunFolder, write_text
from results.formats import to_csv, to_latex, to_markdown
from results.run import read_run
from results.tables import ResultTable, table_5_1, table_5_2


def write_report(folder: RunFolder) -> list[ResultTable]:
    """Write tables/ and figures/ of a merged run; returns the tables.

    Raises:
        FileNotFoundError, ValueError: as `read_run`; ValueError also where no trial is finished.
    """
    run = read_run(folder.path)
    if run.trials.empty:
        raise ValueError(f"{folder.path}: no trial is finished, so there is nothing to report")
    tables = [table_5_1(run)]
    if run.trials["train_seconds"].notna().any():
        tables.append(table_5_2(run))
    for table in tables:
        for suffix, text in (("md", to_markdown(table)), ("csv", to_csv(table)), ("tex", to_latex(table))):
            write_text(folder.tables / f"{table.name}.{suffix}", text)
    save_figure(figure_5_1(run), folder.figures, "figure_5_1")
    return tables
