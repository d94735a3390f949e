"""Certify rows of a run again and compare their counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
from rich.progress import track

from bench.certify.composed import kind_of_trial, smoothed_source
from bench.certify.examine import examine_trial, refuse_other_answers
from bench.certify.shard import OpenedModel, certified_rows
from bench.certify.smoothing import SmoothedClassifier
from bench.data import dataset_name, load_images, resolve_data
from bench.models.sources import Source, from_trial, read_settings
from results.analysis.agreement import ALARM, answers_differ, as_p, disagreement, pooled, share_that_may_be_wrong
from results.analysis.base_classifier import suspicions
from results.errors import StoreError
from results.store.folder import RunFolder
from results.store.merge import check_numbers
from results.store.records import TrainingRecord
from results.store.rows import CertificateRow
from results.store.run import read_run
from results.store.schema import CERTIFICATES
from results.store.settings import CertifiedTrial, ComposedTrial, ExternalTrial


@dataclass(frozen=True)
class Verdict:
    """What a second certification of one row gave."""

    trial_id: str
    index: int
    outcome: str
    """identical, within rounding, or different."""
    reason: str
    """What differs between the two certifications besides the counts, and why the counts cannot be right; empty where
    nothing does."""
    stored: CertificateRow
    found: CertificateRow


@dataclass(frozen=True)
class Verification:
    """What a second certification of rows of a run gave."""

    verdicts: list[Verdict]
    rows: int
    """Of the run, that have a model."""
    suspicions: list[str]
    """As `results.analysis.base_classifier.suspicions`, of all rows."""
    pooled: float
    """p-value of the counts that are not identical, all rows together (`results.analysis.agreement.pooled`)."""

    @property
    def biased(self) -> bool:
        """Whether the rows differ in one direction by more than chance."""
        return self.pooled < ALARM / 2

    @property
    def base_differs(self) -> bool:
        """Whether the base classifiers' answers to single samples differ more often than roundings explain."""
        pairs = [(verdict.stored, verdict.found) for verdict in self.verdicts]
        differing = sum(not _same_base_answers(*pair) for pair in pairs)
        return answers_differ(differing, pairs) < ALARM / 4

    @property
    def holds(self) -> bool:
        """Whether nothing speaks against the run."""
        different = any(verdict.outcome == "different" for verdict in self.verdicts)
        return not self.biased and not self.base_differs and not different

    def conclusion(self) -> str:
        """A sentence: what a second certification of so many rows shows."""
        count = Counter(verdict.outcome for verdict in self.verdicts)
        checked = len(self.verdicts)
        found = ", ".join(f"{count[outcome]} {outcome}" for outcome in OUTCOMES if count[outcome])
        sentence = f"{checked} of {self.rows} rows certified again: {found}"
        if self.biased:
            return f"{sentence}; together they differ in one direction by more than chance ({as_p(self.pooled)})"
        if count["different"]:
            return sentence
        if self.base_differs:
            return f"{sentence}; the base classifier answers more of them otherwise than roundings explain"
        share = share_that_may_be_wrong(checked, self.rows)
        shows = (
            f"with 95 % confidence at most {100 * share:.2g} % of the rows are wrong" if share else "no row is wrong"
        )
        return f"{sentence}: {shows}"


COUNTED = (
    *("selection_counts", "counts", "soft_weights", "sigma_input"),
    *("selector_selection_counts", "selector_counts"),
)
OUTCOMES = ("identical", "within rounding", "different")


def verify_run(
    run: RunFolder, images: int, *, seed: int, data: str | None = None, factories: Collection[str] = ()
) -> Verification:
    """Certify `images` random rows of a merged run again, each from the stored weights of its trial.

    On like hardware and versions all counts must be equal to the last sample. On any other the noise is still the same,
    and few samples may be classified otherwise (`results.analysis.agreement`). All rows of the run must follow from
    their counts, and their labels be those of the data.

    Args:
        seed: of the choice of rows. Whoever can foresee it can forge the others.
        data: where the images are, if not where the trial found them.
        factories: as for `bench.models.sources.from_trial`.

    Raises:
        FileNotFoundError, SchemaError: no merged run there.
        DataError, SourceError, CheckpointError, ModelError: the data or the model is not to be had.
        StoreError: the data is another; all rows are of imported logs; or a row contradicts itself or the data.
    """
    rows = rows_with_a_model(run)
    for trial_id, own in rows.groupby("trial_id", sort=False):
        table = pa.Table.from_pandas(own, CERTIFICATES, preserve_index=False)
        settings = read_settings(run, str(trial_id))
        check_numbers(dict.fromkeys(own["index"].tolist(), run.certificates), table, settings)
    picked = rows.sample(min(images, len(rows)), random_state=np.random.default_rng(seed))
    level = ALARM / 4 / len(picked)
    verdicts = []
    for trial_id, stored in track(list(picked.groupby("trial_id", sort=False)), "certifying again", transient=True):
        source, settings, smoothed = open_certified(run, stored, data, factories)
        _refuse_other_labels(run, rows[rows["trial_id"] == trial_id], settings)
        for _, group in stored.groupby("batch", sort=False):
            for engine in smoothed.engines:
                engine.limit(int(group["batch"].iloc[0]))
            indices = group["index"].tolist()
            again = certified_rows(
                OpenedModel(smoothed, kind_of_trial(source, settings), source.weights), settings, indices
            )
            verdicts += [_compare(old, new, level) for old, new in zip(_rows_of(group), again, strict=True)]
    others = [
        (verdict.stored, verdict.found) for verdict in verdicts if not _same_counts(verdict.stored, verdict.found)
    ]
    return Verification(verdicts, len(rows), suspicions(rows), pooled(others))


def _rows_of(certificates: pd.DataFrame) -> list[CertificateRow]:
    table = pa.Table.from_pandas(certificates, CERTIFICATES, preserve_index=False)
    return [CertificateRow.model_validate(row) for row in table.to_pylist()]


def _refuse_other_labels(run: RunFolder, rows: pd.DataFrame, settings: CertifiedTrial) -> None:
    labels = load_images(settings.data, "test", settings.dataset).labels
    outside = rows["index"] >= len(labels)
    wrong = outside | (rows["label"] != labels[rows["index"].where(~outside, 0)])
    if wrong.any():
        index = rows["index"][wrong].iloc[0]
        raise StoreError(f"{run.certificates}: image {index}: its label is not that of {settings.dataset}")


def rows_with_a_model(run: RunFolder) -> pd.DataFrame:
    """The certificates of a merged run, without those of imported logs, of which there is no model.

    Raises:
        FileNotFoundError, SchemaError: no merged run there.
        StoreError: no others.
    """
    certificates = read_run(run.path).certificates
    rows = certificates[certificates["estimator"] != "imported"]
    if rows.empty:
        raise StoreError(f"{run.path}: holds imported logs only, so there is no model to try")
    return rows.astype({"selected": "int64", "count_top": "int64", "noise_seed": "int64"})


def open_certified(
    run: RunFolder, rows: pd.DataFrame, data: str | None, factories: Collection[str]
) -> tuple[Source, CertifiedTrial, SmoothedClassifier]:
    """What made the rows of one trial: the model, the settings with the images where they are now, and both together.

    Raises:
        StoreError: the model or the images are not those of the rows.
    """
    trial_id = str(rows["trial_id"].iloc[0])
    source, settings = from_trial(run, trial_id, factories), read_settings(run, trial_id)
    if source.weights != rows["checkpoint_sha256"].iloc[0]:
        raise StoreError(f"{run.trial(trial_id).path}: its weights are not those that were certified")
    if (rows["noise_seed"] != settings.noise_seed(source.weights)).any():
        raise StoreError(f"{run.trial(trial_id).path}: its noise is not seeded by its settings, or weights and beacon")
    where = resolve_data(data or settings.data)
    name = dataset_name(where)
    if name != settings.dataset:
        raise StoreError(f"{where}: is {name}, but {trial_id} was certified on {settings.dataset}")
    if isinstance(settings, ExternalTrial | ComposedTrial):
        _, answers = examine_trial(source, settings, load_images(where, "test", name))
        refuse_other_answers(source, trial_id, TrainingRecord.read(run.trial(trial_id).training), answers)
    classes = len(rows["counts"].iloc[0])
    certified = settings.certify.model_copy(update={"precision": rows["precision"].iloc[0]})
    smoothed = smoothed_source(source, settings.model_copy(update={"certify": certified}), classes)
    for engine in smoothed.engines:
        engine.limit(int(rows["batch"].iloc[0]))
    return source, settings.model_copy(update={"data": where}), smoothed


def _compare(stored: CertificateRow, found: CertificateRow, level: float) -> Verdict:
    differs = {"device", "torch_version", "engine", "batch", "classifier"}
    then, now = (row.model_dump(include=differs) for row in (stored, found))
    unlike = [key for key in then if then[key] != now[key]]
    reason = ", ".join(f"{key} {then[key]} then, {now[key]} now" for key in unlike)
    if _same_counts(stored, found) and _same_base_answers(stored, found):
        outcome = "identical"
    elif not unlike:
        outcome = "different"
        reason = "the base classifier answers otherwise" if _same_counts(stored, found) else ""
    else:
        outcome = "within rounding"
        if problem := disagreement(stored, found, level):
            outcome, reason = "different", f"{problem}; {reason}"
    return Verdict(stored.trial_id, stored.index, outcome, reason, stored, found)


def _same_counts(stored: CertificateRow, found: CertificateRow) -> bool:
    return all(getattr(stored, name) == getattr(found, name) for name in COUNTED)


def _same_base_answers(stored: CertificateRow, found: CertificateRow) -> bool:
    return (stored.base_clean, stored.base_noisy) == (found.base_clean, found.base_noisy)


def _counted(row: CertificateRow) -> str:
    if row.n:
        return f"{row.count_top} of {row.n}"
    return f"{max(row.selection_counts or [0])} of {row.n0}, misclassified"


def outcomes(verdicts: list[Verdict]) -> pd.DataFrame:
    """One row per verdict, for a table; what differs most stands last."""
    return pd.DataFrame(
        [
            {
                "trial": verdict.trial_id,
                "image": verdict.index,
                "stored": _counted(verdict.stored),
                "again": _counted(verdict.found),
                "outcome": verdict.outcome + (f" ({verdict.reason})" if verdict.reason else ""),
            }
            for verdict in sorted(verdicts, key=lambda verdict: OUTCOMES.index(verdict.outcome))
        ]
    )
