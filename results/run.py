"""A merged run, as pandas."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from results.folder import RunFolder
from results.schema import CERTIFICATES, EPOCHS, TRIALS, check_schema


@dataclass(frozen=True)
class Run:
    """The three files of a run; `results.schema` documents their columns."""

    certificates: pd.DataFrame
    """One row per trial and test image."""
    trials: pd.DataFrame
    """One row per trial."""
    epochs: pd.DataFrame
    """One row per trained model and epoch."""


def read_run(path: str | Path) -> Run:
    """The Parquet files of a run folder.

    Raises:
        FileNotFoundError: no merged run there.
        ValueError: a file that is not Parquet or not of this schema version; names the file.
    """
    run = RunFolder(Path(path))
    return Run(_read(run.certificates, CERTIFICATES), _read(run.trials, TRIALS), _read(run.epochs, EPOCHS))


def _read(path: Path, schema: pa.Schema) -> pd.DataFrame:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: `bench run` or `bench report` writes it")
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path}: not readable as Parquet: {error}") from None
    check_schema(table.schema, schema, path)
    frame: pd.DataFrame = table.to_pandas()
    return frame
