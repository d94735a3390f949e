"""A run's Parquet files and report, brought up to what its folder holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from results.analysis.published import find_source
from results.store.folder import RunFolder

if TYPE_CHECKING:
    from results.report.table import ResultTable


@dataclass(frozen=True)
class Report:
    """What a report shows."""

    tables: Sequence[ResultTable]
    unfinished: Sequence[str]
    """The ids of the trials that are not in them."""


def update_report(
    folder: RunFolder, published: str | None = None, *, again: bool = True, places: bool = False
) -> Report:
    """Merge what is finished and write tables, figures and page. A folder without shards is reported from its Parquet
    files as they are.

    Args:
        published: as for `results.report.tables.table_certified_accuracy`.
        again: also where the report is of what the run holds now.
        places: as for `write_report`.

    Raises:
        FileNotFoundError: no run there.
        BenchError: as `merge_run` and `write_report`.
    """
    if not folder.description.exists() and not folder.certificates.exists():
        raise FileNotFoundError(2, "No such file or directory", str(folder.description))
    if published is not None:
        find_source(published)

    # These take a second to import.
    from results.report.tables import tables_of
    from results.store.lock import RunLock
    from results.store.reported import is_current
    from results.store.run import read_run

    # In turn: an older state must not be written over a newer one.
    with RunLock(folder, name="report", wait=True):
        if again or not is_current(folder):
            return _made_again(folder, published, places=places)
        run = read_run(folder.path)
        return Report(list(tables_of(run)), run.missing)


def _made_again(folder: RunFolder, published: str | None, *, places: bool) -> Report:
    from results.report.write import write_report
    from results.store.merge import merge_run
    from results.store.reported import note_report, sources

    unfinished: list[str] = []
    made_from = ""
    if folder.has_trials():
        made_from = sources(folder)
    if made_from or not folder.certificates.exists():
        unfinished = merge_run(folder, places=places)
    tables = write_report(folder, published, places=places)
    if made_from and published is None and not places:
        note_report(folder, made_from)
    return Report(tables, unfinished)
