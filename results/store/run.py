"""A merged run, or several together, as pandas."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from results.errors import StoreError
from results.printable import printable
from results.store.folder import RunFolder, location, not_merged
from results.store.record import Record
from results.store.records import RunRecord
from results.store.remote import RemotePath
from results.store.rows import CertificateRow, EpochRow, SpectrumRow, ThumbnailRow, TrialRow, check_values
from results.store.schema import CERTIFICATES, EPOCHS, SPECTRA, THUMBNAILS, TRIALS, read_table

ROWS: dict[str, type[Record]] = {
    "certificates": CertificateRow,
    "trials": TrialRow,
    "epochs": EpochRow,
    "spectra": SpectrumRow,
    "thumbnails": ThumbnailRow,
}
"""What a row of each Parquet file is."""


PLANNED = ("method", "title", "colour_group", "sigma", "model", "dataset", "settings")
"""Of the columns of trials, those that are known before a trial is finished."""


@dataclass(frozen=True)
class Run:
    """The files of a run; `results.store.rows` documents their columns and units."""

    certificates: pd.DataFrame
    """One row per trial and test image."""
    trials: pd.DataFrame
    """One row per trial."""
    epochs: pd.DataFrame
    """One row per trained model and epoch."""
    spectra: pd.DataFrame = field(default_factory=lambda: SPECTRA.empty_table().to_pandas())
    """One row per set of training images and principal component, where a trial has a linear decomposition."""
    descriptions: tuple[RunRecord, ...] = ()
    """run.json of each run."""
    missing: tuple[str, ...] = ()
    """Trials of the runs that are not finished and so not in the tables above."""
    planned: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=PLANNED))
    """One row per trial that a run going on has or will have; none where what is finished is read alone."""


def read_run(*sources: str | Path | RemotePath) -> Run:
    """The Parquet files of one run, or of several together.

    Args:
        sources: folders of runs, or URLs of such folders that pyarrow can open (file://, s3://, gs://, …).

    Returns:
        A trial that two runs hold with the same weights is there once.

    Raises:
        FileNotFoundError: no merged run there.
        StoreError: a file that is not Parquet, not of this schema version, or not to be opened (names it); two runs
            hold the same trial with different weights; or, where the files are all there is, without run.json
            and a folder trials/, certificates whose radii do not follow from their counts.
        OSError: a file that this user may not read.
    """
    if not sources:
        raise ValueError("give at least one run")
    runs = [RunFolder(location(source)) for source in sources]
    # The Parquet files can do without.
    descriptions = [RunRecord.read(run.description) for run in runs if run.description.exists()]
    both = [(_table(run, "certificates", CERTIFICATES), _table(run, "trials", TRIALS)) for run in runs]
    for run, tables in zip(runs, both, strict=True):
        if not run.has_trials():
            _check_alone(run, *tables)
    certificates, trials = (frame_of(pa.concat_tables(tables)) for tables in zip(*both, strict=True))
    for trial_id, same in trials.groupby("trial_id", sort=False):
        if len(set(same["checkpoint_sha256"])) > 1:
            raise StoreError(f"two runs hold {trial_id}, each with weights of its own")
    finished = set(trials["trial_id"])
    if set(certificates["trial_id"]) != finished:
        odd = min(set(certificates["trial_id"]) ^ finished)
        remedy = ": `bench report` writes them again" if runs[0].has_trials() else ""
        raise StoreError(
            f"{sources[0]}: certificates.parquet and trials.parquet do not hold the same trials ({odd}){remedy}"
        )
    wanted = dict.fromkeys(trial for description in descriptions for trial in description.trials)
    return Run(
        certificates.drop_duplicates(["trial_id", "index"], ignore_index=True),
        trials.drop_duplicates("trial_id", ignore_index=True),
        _read(runs, "epochs", EPOCHS).drop_duplicates(["trial_id", "epoch"], ignore_index=True),
        _read(runs, "spectra", SPECTRA, optional=True).drop_duplicates(
            ["dataset", "images", "component"], ignore_index=True
        ),
        tuple(descriptions),
        tuple(trial for trial in wanted if trial not in finished),
    )


def _check_alone(run: RunFolder, certificates: pa.Table, trials: pa.Table) -> None:
    """Of files of which there is nothing else, what a merge checks as far as they tell."""
    from results.store.merge import check_trial  # which most runs do without

    for row in trials.to_pylist():
        own = certificates.filter(pc.equal(certificates["trial_id"], row["trial_id"])).combine_chunks()
        check_trial(row, own, run.certificates, run.trials)


def read_thumbnails(source: str | Path | RemotePath) -> pd.DataFrame:
    """The small pictures of a run's test images: columns `dataset`, `index`, `png`; no rows where it has none."""
    return _read([RunFolder(location(source))], "thumbnails", THUMBNAILS, optional=True)


def _read(runs: Sequence[RunFolder], name: str, schema: pa.Schema, *, optional: bool = False) -> pd.DataFrame:
    """The Parquet file of that name in each run, one after the other."""
    return frame_of(pa.concat_tables(_table(run, name, schema, optional=optional) for run in runs))


def _table(run: RunFolder, name: str, schema: pa.Schema, *, optional: bool = False) -> pa.Table:
    """The Parquet file of that name; an empty one where it may be lacking and is."""
    path = run.path / f"{name}.parquet"
    try:
        table = read_table(path, schema)
    except FileNotFoundError:
        if not optional:
            raise not_merged(path) from None
        return schema.empty_table()
    check_values(table, ROWS[name], path)
    return table


def frame_of(table: pa.Table) -> pd.DataFrame:
    """A table of a run as pandas has it, with nothing in its texts that gives orders to a reader's program."""
    frame: pd.DataFrame = table.to_pandas()
    for column in table.schema:
        if pa.types.is_string(column.type):
            frame[column.name] = frame[column.name].map(printable, na_action="ignore")
        elif column.type == pa.list_(pa.string()):
            frame[column.name] = frame[column.name].map(_printable_each, na_action="ignore")
    return frame


def _printable_each(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(map(printable, texts))
