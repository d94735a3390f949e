"""Whether a run's report is of what the run holds now: then it need not be made again, which takes seconds."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from results.errors import StoreError
from results.store.folder import AnyPath, RunFolder, listing
from results.store.records import ReportRecord, RunRecord

MADE_FROM = (".json", ".parquet")
"""Suffixes of a trial's files from which the report is made: settings, training, epochs, spectrum, state, shards."""
PROGRAM = (".css", ".csv", ".html", ".js", ".py")
"""Of the files of which the program that makes it consists; what Python compiles of them comes and goes."""


def sources(run: RunFolder) -> str:
    """A digest of what the report is made from: the files of all trials by name and time, the run's description without
    the command that was the last, and this program.

    Raises:
        FileNotFoundError: no run.json.
        StoreError: it is not one.
    """
    description = RunRecord.read(run.description)
    members = [member for names in description.members.values() for member in names]
    folders = [run.trial(name) for name in dict.fromkeys([*description.trials, *members])]
    found = [
        (str(path), written)
        for folder in folders
        for path, written in [*listing(folder.path), *listing(folder.shards)]
        if path.suffix in MADE_FROM
    ]
    lasting = description.model_dump(exclude={"command", "time"})
    program = max(path.stat().st_mtime_ns for path in Path(__file__).parents[1].rglob("*") if path.suffix in PROGRAM)
    return hashlib.sha256(json.dumps([sorted(found), lasting, program], sort_keys=True).encode()).hexdigest()


def note_report(run: RunFolder, made_from: str) -> None:
    """Keep what the report that has just been written was made from, as `sources` gave it before."""
    ReportRecord(made_from=made_from, files=_files(run)).write(run.report)


def is_current(run: RunFolder) -> bool:
    """Whether the report is of what the run holds now, and all its files are as they were written."""
    try:
        record = ReportRecord.read(run.report)
    except (OSError, StoreError):  # none yet, or damaged
        return False
    return record.files == _files(run) and record.made_from == sources(run)


def _files(run: RunFolder) -> dict[str, int]:
    """The time of each file of the report (ns since 1970), and of the thumbnails that it shows."""
    own: list[AnyPath] = [run.certificates, run.trials, run.epochs, run.spectra, run.thumbnails, run.page]
    top = [(path, written) for path, written in listing(run.path) if path in own]
    return {str(path): written for path, written in [*top, *listing(run.tables), *listing(run.figures)]}
