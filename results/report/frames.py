"""The tables of a run as pandas, for a notebook."""

from __future__ import annotations

import pandas as pd

from results.report.formats import flat_columns
from results.report.tables import tables_of
from results.store.run import Run


def tables(run: Run, source: str | None = None) -> dict[str, pd.DataFrame]:
    """The tables that the run has data for: `certified_accuracy`, `base_accuracy`, `best_of_sigma`, `seeds`, `cost`,
    `beyond_acr`, `convergence`; a row is a method at a σ, of `best_of_sigma` a method, with its σ as a text.

    Args:
        run: with at least one finished trial.
        source: whose published numbers stand beside the measured ones, a key of `results.analysis.published.SOURCES`;
            the thesis's where not given.

    Returns:
        By name, with the columns of its CSV file (`results.report.formats.flat_columns`): `sigma`, `method`, and for a
        quantity such as `acr` also `acr_lower`, `acr_upper`, `acr_published`, … as far as they are known; of
        `best_of_sigma` also `r0.50_sigma`, ….

    Raises:
        ValueError: an unknown source; or as `results.analysis.groups.certified_groups`.
    """
    return {table.name: pd.DataFrame(flat_columns(table)) for table in tables_of(run, source)}
