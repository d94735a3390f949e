"""Certify rows of a run again and compare their counts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import fisher_exact

from bench.certification import certified_rows
from bench.data import dataset_name, load_images, resolve_data
from bench.models import kind_of
from bench.settings import Certified, ForeignModel
from bench.smoothing import Smoothed
from bench.sources import Source, examine, from_trial, read_settings, refuse_other_answers
from results.folder import RunFolder
from results.records import read_training_record
from results.run import read_run

SURPRISING = 1e-6
"""Two counts whose difference has a smaller p-value than this are not of the same classifier."""


@dataclass(frozen=True)
class Verdict:
    """What a second certification of one row gave."""

    trial_id: str
    index: int
    outcome: str
    """identical, within binomial error, other selection (of few copies, elsewhere), or different."""
    reason: str
    """What differs between the two certifications besides the counts; empty where nothing does."""
    stored: Mapping[Any, Any]
    found: dict[str, Any]


def verify_run(
    run: RunFolder, images: int, *, seed: int, data: str | None = None, factories: Collection[str] = ()
) -> list[Verdict]:
    """Certify `images` random rows of a merged run again, each from the stored weights of its trial.

    On like hardware and versions the counts must be equal to the last bit. Elsewhere roundings differ, and where the
    kind of device is another also the noise; there the counts of the selected class must be those of one binomial
    distribution (Fisher's exact test).

    Args:
        data: where the images are, if not where the trial found them.
        factories: as for `bench.sources.from_trial`.

    Raises:
        FileNotFoundError, SchemaError: no merged run there.
        DataError, SourceError, CheckpointError: the data or the model is not to be had.
        ValueError: the data is another; or all rows are of imported logs.
    """
    rows = rows_with_a_model(run)
    picked = rows.sample(min(images, len(rows)), random_state=np.random.default_rng(seed))
    verdicts = []
    for _, stored in picked.groupby("trial_id", sort=False):
        source, settings, smoothed = open_certified(run, stored, data, factories)
        indices = stored["index"].tolist()
        again = certified_rows(smoothed, kind_of(source.model), settings, indices, source.weights)
        verdicts += [_compare(old, new) for old, new in zip(stored.to_dict("records"), again, strict=True)]
    return verdicts


def rows_with_a_model(run: RunFolder) -> pd.DataFrame:
    """The certificates of a merged run, without those of imported logs, of which there is no model.

    Raises:
        FileNotFoundError, SchemaError: no merged run there.
        ValueError: no others.
    """
    certificates = read_run(run.path).certificates
    rows = certificates[certificates["estimator"] != "imported"]
    if rows.empty:
        raise ValueError(f"{run.path}: holds imported logs only, so there is no model to try")
    return rows.astype({"selected": "int64", "count_top": "int64"})


def open_certified(
    run: RunFolder, rows: pd.DataFrame, data: str | None, factories: Collection[str]
) -> tuple[Source, Certified, Smoothed]:
    """What made the rows of one trial: the model, the settings with the images where they are now, and both together.

    Raises:
        ValueError: the model or the images are not those of the rows.
    """
    trial_id = str(rows["trial_id"].iloc[0])
    source, settings = from_trial(run, trial_id, factories), read_settings(run, trial_id)
    if source.weights != rows["checkpoint_sha256"].iloc[0]:
        raise ValueError(f"{run.trial(trial_id).path}: its weights are not those that were certified")
    where = resolve_data(data or settings.data)
    name = dataset_name(where)
    if name != settings.dataset:
        raise ValueError(f"{where}: is {name}, but {trial_id} was certified on {settings.dataset}")
    if isinstance(settings, ForeignModel):
        _, answers = examine(source, load_images(where, "test", name))
        refuse_other_answers(source, trial_id, read_training_record(run.trial(trial_id).training), answers)
    classes = len(rows["counts"].iloc[0])
    smoothed = Smoothed(source.model, settings.sigma, classes, precision=rows["precision"].iloc[0])
    smoothed.engine.limit(int(rows["batch"].iloc[0]))
    return source, settings.model_copy(update={"data": where}), smoothed


def _compare(stored: Mapping[Any, Any], found: dict[str, Any]) -> Verdict:
    unlike = [key for key in ("device", "torch_version", "engine") if stored[key] != found[key]]
    reason = ", ".join(f"{key} {stored[key]} then, {found[key]} now" for key in unlike)
    same = stored["selected"] == found["selected"] and list(stored["counts"]) == list(found["counts"])
    if same:
        outcome = "identical"
    elif unlike and 0 in (stored["n"], found["n"]):
        outcome = "other selection"
    elif unlike and _share_a_distribution(stored, found):
        outcome = "within binomial error"
    else:
        outcome = "different"
    return Verdict(stored["trial_id"], int(stored["index"]), outcome, reason, stored, found)


def _share_a_distribution(stored: Mapping[Any, Any], found: dict[str, Any]) -> bool:
    selected = stored["selected"]
    table = np.array([[row["counts"][selected], row["n"] - row["counts"][selected]] for row in (stored, found)])
    return bool(fisher_exact(table).pvalue >= SURPRISING)


def outcomes(verdicts: list[Verdict]) -> pd.DataFrame:
    """One row per verdict, for a table."""
    return pd.DataFrame(
        [
            {
                "trial": verdict.trial_id,
                "image": verdict.index,
                "stored": f"{verdict.stored['count_top']} of {verdict.stored['n']}",
                "again": f"{verdict.found['count_top']} of {verdict.found['n']}",
                "outcome": verdict.outcome + (f" ({verdict.reason})" if verdict.reason else ""),
            }
            for verdict in verdicts
        ]
    )
