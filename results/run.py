"""A merged run, or several together, as pandas."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSystem, LocalFileSystem

from results.schema import CERTIFICATES, EPOCHS, SPECTRA, THUMBNAILS, TRIALS, check_schema


@dataclass(frozen=True)
class Run:
    """The files of a run; `results.schema` documents their columns and units."""

    certificates: pd.DataFrame
    """One row per trial and test image."""
    trials: pd.DataFrame
    """One row per trial."""
    epochs: pd.DataFrame
    """One row per trained model and epoch."""
    spectra: pd.DataFrame = field(default_factory=lambda: SPECTRA.empty_table().to_pandas())
    """One row per set of training images and principal component, where a trial has a linear decomposition."""
    descriptions: tuple[dict[str, Any], ...] = ()
    """run.json of each run."""
    missing: tuple[str, ...] = ()
    """Trials of the runs that are not finished and so not in the tables above."""


def read_run(*sources: str | Path) -> Run:
    """The Parquet files of one run, or of several together.

    Args:
        sources: folders of runs, or URLs of such folders that pyarrow can open (file://, s3://, gs://, …).

    Returns:
        A trial that two runs hold with the same weights is there once.

    Raises:
        FileNotFoundError: no merged run there.
        ValueError: a file that is not Parquet, not of this schema version, or not to be opened (names it); or two
            runs hold the same trial with different weights.
    """
    if not sources:
        raise ValueError("give at least one run")
    opened = [_open(source) for source in sources]
    descriptions = [_description(filesystem, f"{folder}/run.json") for filesystem, folder in opened]
    certificates, trials = _read(opened, "certificates.parquet", CERTIFICATES), _read(opened, "trials.parquet", TRIALS)
    for trial_id, same in trials.groupby("trial_id", sort=False):
        if len(set(same["checkpoint_sha256"])) > 1:
            raise ValueError(f"two runs hold {trial_id}, each with weights of its own")
    finished = set(trials["trial_id"])
    if set(certificates["trial_id"]) != finished:
        odd = min(set(certificates["trial_id"]) ^ finished)
        raise ValueError(f"{sources[0]}: certificates.parquet and trials.parquet do not hold the same trials ({odd})")
    wanted = dict.fromkeys(trial for description in descriptions for trial in description.get("trials", []))
    return Run(
        certificates.drop_duplicates(["trial_id", "index"], ignore_index=True),
        trials.drop_duplicates("trial_id", ignore_index=True),
        _read(opened, "epochs.parquet", EPOCHS).drop_duplicates(["trial_id", "epoch"], ignore_index=True),
        _read(opened, "spectra.parquet", SPECTRA, optional=True).drop_duplicates(
            ["dataset", "images", "component"], ignore_index=True
        ),
        tuple(description for description in descriptions if description),
        tuple(trial for trial in wanted if trial not in finished),
    )


def read_thumbnails(source: str | Path) -> pd.DataFrame:
    """The small pictures of a run's test images: columns `dataset`, `index`, `png`; no rows where it has none."""
    return _read([_open(source)], "thumbnails.parquet", THUMBNAILS, optional=True)


def _open(source: str | Path) -> tuple[FileSystem, str]:
    if "://" not in str(source):
        return LocalFileSystem(), str(source)
    try:
        filesystem, folder = FileSystem.from_uri(str(source))
    except (OSError, pa.ArrowException, ValueError) as error:
        raise ValueError(f"{source}: cannot be opened: {_first_line(error)}") from None
    return filesystem, folder.rstrip("/")


def _read(
    opened: list[tuple[FileSystem, str]], name: str, schema: pa.Schema, *, optional: bool = False
) -> pd.DataFrame:
    """The file of that name in each run, one after the other."""
    tables = [schema.empty_table()]
    for filesystem, folder in opened:
        path = f"{folder}/{name}"
        try:
            table = pq.read_table(path, filesystem=filesystem)
        except FileNotFoundError:
            if optional:
                continue
            raise FileNotFoundError(f"{path} does not exist: `bench run` or `bench report` writes it") from None
        except (OSError, pa.ArrowException) as error:
            raise ValueError(f"{path}: not readable as Parquet: {_first_line(error)}") from None
        check_schema(table.schema, schema, path)
        tables.append(table)
    frame: pd.DataFrame = pa.concat_tables(tables).to_pandas()
    return frame


def _description(filesystem: FileSystem, path: str) -> dict[str, Any]:
    """run.json, which the Parquet files can do without."""
    try:
        with filesystem.open_input_stream(path) as file:
            value = json.loads(file.read())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not readable as JSON: {_first_line(error)}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: must hold a JSON object")
    return value


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
