"""Shards and training records of a run -> certificates.parquet, trials.parquet, epochs.parquet, spectra.parquet."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from results.bounds.anytime import Design, anytime_bound
from results.bounds.lattice import debited, debited_two_sided, is_certified
from results.bounds.radius import largest_radius, lower_confidence_bound
from results.bounds.soft import EDGES, UNIT, expected_softmax_bound
from results.errors import StoreError
from results.store.compositions import SELECTOR_LISTS, composed_radii, may_be_skipped, odd_compositions
from results.store.folder import AnyPath, RunFolder, TrialFolder, read_each
from results.store.logs import check_imported
from results.store.records import RunRecord, TrainingRecord
from results.store.rows import TrialRow, table_of
from results.store.schema import CERTIFICATES, EPOCHS, SPECTRA, TRIALS, read_table, write_table
from results.store.secrecy import without_place
from results.store.settings import (
    AnyTrial,
    CertifiedTrial,
    CertifySettings,
    ComposedTrial,
    ImportedTrial,
    NativeTrial,
    beacon_seed,
    read_trial_settings,
    trial_settings,
)
from results.store.shards import evenly_spaced, read_shard


class MergeError(StoreError):
    """Certificates that must not be published; the message names the shard and what is wrong with it."""


@dataclass(frozen=True)
class Merged:
    """A run's Parquet files as tables, from its finished trials in the order of the grid."""

    certificates: pa.Table
    trials: pa.Table
    epochs: pa.Table
    spectra: pa.Table
    unfinished: list[str]
    """The ids of the trials that are not finished and so not in the tables."""


def merge_run(run: RunFolder, *, places: bool = False) -> list[str]:
    """Write the run's Parquet files, as `merged` gives them.

    Returns:
        The ids of the trials that are not finished and so not in the files.

    Raises:
        MergeError: as `merged`.
    """
    found = merged(run, places=places)
    write_table(run.certificates, found.certificates)
    write_table(run.trials, found.trials)
    write_table(run.epochs, found.epochs)
    write_table(run.spectra, found.spectra)
    return found.unfinished


def merged(run: RunFolder, only: Collection[str] | None = None, *, places: bool = False) -> Merged:
    """Put the finished trials of a run together.

    Args:
        only: the ids of those that are; what is finished is found out where not given.
        places: say also in which folders data and models were.

    Raises:
        MergeError: a trial's folder is gone; gaps, duplicates, mixed checkpoints or classifiers, counts that do not sum
            to n, or numbers that do not follow from the counts.
    """
    certificates, trials, unfinished = [], [], []
    epochs: dict[str, pa.Table] = {}
    spectra: dict[tuple[str, int], pa.Table] = {}
    for trial_id in RunRecord.read(run.description).trials:
        folder = run.trial(trial_id)
        if not folder.settings.exists():
            raise MergeError(f"{folder.settings}: is not there, but {run.description} names the trial")
        finished = folder.training.exists() and not folder.state.exists() if only is None else trial_id in only
        if not finished:
            unfinished.append(trial_id)
            continue
        settings, training = read_trial_settings(folder.settings), TrainingRecord.read(folder.training)
        rows = merge_shards(folder, trial_id, settings, training)
        certificates.append(rows)
        trials.append(_trial_row(trial_id, settings, training, rows, places=places))
        for trained in training.members or [trial_id]:
            if run.trial(trained).epochs.exists():  # not where a model was trained elsewhere
                epochs.setdefault(trained, read_table(run.trial(trained).epochs, EPOCHS).cast(EPOCHS))
            if run.trial(trained).spectrum.exists():
                spectrum = read_table(run.trial(trained).spectrum, SPECTRA).cast(SPECTRA)
                # The variances are those of the images alone, whatever σ and the model.
                spectra.setdefault((spectrum["dataset"][0].as_py(), spectrum["images"][0].as_py()), spectrum)
    return Merged(
        pa.concat_tables(certificates) if certificates else CERTIFICATES.empty_table(),
        table_of(trials, TRIALS),
        pa.concat_tables(epochs.values()) if epochs else EPOCHS.empty_table(),
        pa.concat_tables(spectra.values()) if spectra else SPECTRA.empty_table(),
        unfinished,
    )


def merge_shards(folder: TrialFolder, trial_id: str, settings: AnyTrial, training: TrainingRecord) -> pa.Table:
    """All certificates of a trial in the order of the test set.

    Raises:
        MergeError: as `merge_run`.
    """
    imported = isinstance(settings, ImportedTrial)
    expected = None if imported else set(evenly_spaced(training.test_images, settings.certify.images))
    holder: dict[int, AnyPath] = {}
    tables = []
    paths = folder.shard_files()
    read = partial(_read, trial_id=trial_id, checkpoint_sha256=training.checkpoint_sha256)
    for path, table in zip(paths, read_each(read, paths), strict=True):
        for index in table["index"].to_pylist():
            if index in holder:
                raise MergeError(f"{path}: holds image {index} a second time, after {holder[index].name}")
            if expected is not None and index not in expected:
                raise MergeError(f"{path}: holds image {index}, which this trial does not certify")
            holder[index] = path
        tables.append(table.replace_schema_metadata(CERTIFICATES.metadata))
    if imported and len(holder) != training.test_images:
        raise MergeError(f"{folder.shards}: {len(holder)} images, the log had {training.test_images}")
    missing = sorted((expected or holder.keys()) - holder.keys())
    if missing:
        raise MergeError(f"{folder.shards}: {len(missing)} images are missing, the first is {missing[0]}")
    merged = pa.concat_tables(tables).combine_chunks()
    _refuse_other_trial(holder, merged, settings)
    if isinstance(settings, ImportedTrial):
        check_imported(holder, merged)
    else:
        check_numbers(holder, merged, settings)
    _refuse_several_classifiers(folder.shards, merged)
    return merged.take(pc.sort_indices(merged, sort_keys=[("index", "ascending")])).combine_chunks()


def _refuse_several_classifiers(place: AnyPath, certificates: pa.Table) -> None:
    for name in ("precision", "classifier"):
        kinds = certificates[name].unique().to_pylist()
        if len(kinds) > 1:
            raise MergeError(f"{place}: {name} is {' and '.join(kinds)}: these are different classifiers")


def check_trial(row: Mapping[str, Any], certificates: pa.Table, rows: AnyPath, trials: AnyPath) -> None:
    """What can be checked of a trial without its files: that its certificates follow from their counts by the settings
    that its row has, and its row from these.

    Args:
        row: of `trials`, a file.
        certificates: its own, of the file `rows`.

    Raises:
        MergeError: it does not follow; names the file.
        StoreError: settings of no trial.
    """
    settings = trial_settings(json.loads(row["settings"]), trials)
    told = settings.model_dump(include={"sigma", "seed", "dataset"}) | {"method": settings.name}
    told |= settings.certify.model_dump(include={"n", "n0", "alpha"}) | {"images": certificates.num_rows}
    if isinstance(settings, NativeTrial):
        told |= {"model": settings.model, "epochs": settings.train.epochs}
    indices = certificates["index"].to_pylist()
    wanted = None if isinstance(settings, ImportedTrial) else settings.certify.images
    if not indices or len(set(indices)) < len(indices) or wanted not in (None, len(indices)):
        expected = "" if wanted is None else f", not {wanted}"
        raise MergeError(f"{rows}: {row['trial_id']}: {len(set(indices))} images in {len(indices)} rows{expected}")
    for name, own in told.items():
        if row[name] != own:
            raise MergeError(f"{trials}: {row['trial_id']}: {name} = {row[name]}, by its settings and rows {own}")
    holder = dict.fromkeys(indices, rows)
    _refuse_other_trial(holder, certificates, settings)
    for name in ("checkpoint_sha256", "dataset"):
        if certificates[name].unique().to_pylist() != [row[name]]:
            raise MergeError(f"{rows}: {row['trial_id']}: {name} is not that of {trials}")
    _refuse_several_classifiers(rows, certificates)
    if isinstance(settings, ImportedTrial):
        check_imported(holder, certificates)
    else:
        check_numbers(holder, certificates, settings)


def _refuse_other_trial(holder: dict[int, AnyPath], table: pa.Table, settings: AnyTrial) -> None:
    expected: dict[str, object] = {"method": settings.name, "sigma": settings.sigma, "seed": settings.seed}
    for name, own in expected.items():
        for index, value in zip(table["index"].to_pylist(), table[name].to_pylist(), strict=True):
            if value != own:
                raise MergeError(f"{holder[index]}: image {index}: {name} is not the trial's {own}")


def _read(path: AnyPath, *, trial_id: str, checkpoint_sha256: str) -> pa.Table:
    try:
        return read_shard(path, trial_id=trial_id, checkpoint_sha256=checkpoint_sha256)
    except StoreError as error:
        raise MergeError(str(error)) from None


def check_numbers(holder: dict[int, AnyPath], table: pa.Table, settings: CertifiedTrial) -> None:
    """What always holds for the certificates of a trial, checked from the counts up.

    Args:
        holder: the file of each image.

    Raises:
        MergeError: it does not hold.
    """
    for name in ("selection_counts", "counts", "selected", "count_top", "noise_seed"):
        if table[name].null_count:
            index = table["index"][pc.index(table[name].is_null(), True).as_py()].as_py()
            raise MergeError(f"{holder[index]}: image {index}: {name} is missing, which only imported logs lack")
    for index, reason in odd_compositions(table, settings):
        raise MergeError(f"{holder[index]}: image {index}: {reason}")
    lists = ("selection_counts", "counts")
    for name in lists:
        if pc.list_flatten(table[name]).null_count:
            raise MergeError(f"{next(iter(holder.values()))}: a number of {name} is missing")
    listed = (*lists, *SELECTOR_LISTS, "soft_weights")
    column = {name: table[name].to_numpy() for name in table.column_names if name not in listed}
    refuse = partial(_refuse, holder, column)
    certify = settings.certify
    _check_asked_for(refuse, column, certify)
    widths = {name: pc.list_value_length(table[name]).to_numpy() for name in lists}
    classes = widths["counts"][0]
    refuse((widths["counts"] != classes) | (widths["selection_counts"] != classes), "has counts of other classes")
    refuse(column["selected"] >= classes, "selected is not a class")
    for name in ("base_clean", "base_noisy"):
        refuse(column[name] >= classes, f"{name} is not a class")
    status, n = column["status"], column["n"]
    misclassified = status == "misclassified"
    refuse(~np.isin(status, ("certified", "abstained", "misclassified")), "its status is unknown")
    skipped = may_be_skipped(table, settings) & (column["selected"] != column["label"])
    refuse(
        misclassified != skipped, "misclassified must be where the selected class is not the label, if that is skipped"
    )
    refuse(misclassified != (n == 0), "n is 0 where misclassified, and only there")
    selection, counts = (np.array(table[name].to_pylist(), dtype=np.int64) for name in lists)
    refuse(selection.min(axis=1) < 0, "a count of the selection is negative")
    refuse(selection.sum(axis=1) != column["n0"], "the counts of the selection do not sum to n0")
    refuse(selection.argmax(axis=1) != column["selected"], "selected is not the most frequent class of the selection")
    # Not whichever of the sizes looks best once the samples are drawn: the bound would not hold at alpha.
    planned = samples_to_draw(selection, settings.bound)
    anytime = certify.estimator == "anytime"  # whose bound holds wherever it was stopped
    refuse(
        (status == "certified") & (n != planned) & (not anytime),
        "n is not the number of samples that its selection asks for",
    )
    refuse(n > planned, "n is above the number of samples that its selection asks for")
    refuse(counts.min(axis=1) < 0, "a count is negative")
    refuse(counts.sum(axis=1) != n, "the counts do not sum to n")
    top = counts[np.arange(len(counts)), column["selected"]]
    refuse(top != column["count_top"], "count_top is not the count of the selected class")
    bound = _lower_bounds(top, np.maximum(n, 1), selection.max(axis=1), settings.bound)
    certified = _check_radii(refuse, table, column, bound, settings)
    refuse(
        ~np.isclose(column["radius_two_sided"], two_sided_radii(counts, column, planned), 1e-9, 1e-12, equal_nan=True),
        "radius_two_sided does not follow from counts",
    )
    hope = lower_confidence_bound(top + planned - n, planned, settings.bound.alpha) >= 0.5
    refuse(
        (status == "abstained") & (n < planned) & hope & (not anytime),
        "its estimation stopped before abstention was certain",
    )
    refuse(column["predicted"] != np.where(certified, column["selected"], -1), "predicted does not follow from p_lower")
    refuse(column["correct"] != (column["predicted"] == column["label"]), "correct is wrong")
    _check_soft(refuse, column, table["soft_weights"], certify)


def _check_asked_for(refuse: Callable[..., None], column: Mapping[str, NDArray[Any]], certify: CertifySettings) -> None:
    for name, expected in (
        ("n0", certify.n0),
        ("alpha", certify.alpha),
        ("estimator", certify.estimator),
    ):
        refuse(column[name] != expected, f"{name} is not the trial's {expected}")
    seed = column["noise_seed"][0]
    if certify.beacon is not None:
        seed = beacon_seed(column["checkpoint_sha256"][0], certify.beacon)
    refuse(column["noise_seed"] != seed, "its noise is not seeded as the trial's")


def _check_soft(
    refuse: Callable[..., None], column: Mapping[str, NDArray[Any]], weights: pa.ChunkedArray, certify: CertifySettings
) -> None:
    there = np.array([n > 0 and certify.soft for n in column["n"]])
    refuse(weights.is_valid().to_numpy() != there, f"soft_weights are not as soft = {certify.soft} says")
    refuse(np.isfinite(column["radius_soft"].astype(np.float64)) != there, "radius_soft is not where soft_weights are")
    own = [given if given and len(given) == len(EDGES) else [0] * len(EDGES) for given in weights.to_pylist()]
    sums = np.array(own, dtype=np.int64)
    refuse(there & ((sums.min(axis=1) < 0) | (sums.sum(axis=1) != column["n"] * UNIT)), "soft_weights are not of n")
    if there.any():
        radius = np.full(len(there), np.nan)
        bound = expected_softmax_bound(sums[there], certify.alpha)
        pixels = column["lattice_pixels"][there].astype(np.float64)
        radius[there] = debited(bound, column["sigma"][there], pixels)[1]
        unlike = there & ~np.isclose(column["radius_soft"].astype(np.float64), radius, rtol=1e-9, atol=1e-9)
        refuse(unlike, "radius_soft does not follow from soft_weights")


def _lower_bounds(
    top: NDArray[np.int64], drawn: NDArray[np.int64], selection: NDArray[np.int64], certify: CertifySettings
) -> NDArray[np.float64]:
    """Of images with `top` of `drawn` samples of the class that so many samples of the selection chose."""
    if certify.estimator == "anytime":
        return anytime_bound(top, drawn, Design.of(selection, certify.n0, certify.n, certify.alpha), certify.alpha)
    return lower_confidence_bound(top, drawn, certify.alpha)


def _check_radii(
    refuse: Callable[..., None],
    table: pa.Table,
    column: Mapping[str, NDArray[Any]],
    bound: NDArray[np.float64],
    settings: CertifiedTrial,
) -> NDArray[np.bool_]:
    """Whether each row is certified; radii and status are those that follow from counts, and from the `bound` on the
    probability that they give."""
    is_composed = isinstance(settings, ComposedTrial)
    # Of the classifier that was selected, where it is composed.
    sigma, level = column["sigma_input" if is_composed else "sigma"], settings.bound.alpha
    drawn, pixels = np.maximum(column["n"], 1), column["lattice_pixels"].astype(np.float64)
    limit = largest_radius(drawn, level, sigma)
    refuse(column["radius"] > limit * (1 + 1e-9), "the radius is above its limit σ Φ⁻¹(alpha^(1/n))")
    arithmetic = settings.certify.arithmetic
    refuse(np.isfinite(pixels) != (arithmetic == "sound"), f"its arithmetic is not {arithmetic}")
    p_lower, radius = debited(bound, sigma, pixels)
    refuse(~np.isclose(column["p_lower"], p_lower, rtol=1e-9, atol=0), "p_lower does not follow from counts")
    certified = is_certified(column["p_lower"], radius, pixels)
    if is_composed:
        refuse(~np.isclose(column["classifier_radius"], radius, 1e-9, 1e-12), "classifier_radius does not follow")
        kept, radius, certified = composed_radii(table, settings.certify.alpha)
        own = column["selector_radius"].astype(np.float64)
        refuse(~np.isclose(own, kept, 1e-9, 1e-12, equal_nan=True), "selector_radius does not follow from counts")
    refuse(~np.isclose(column["radius"], radius, rtol=1e-9, atol=1e-12), "radius does not follow from p_lower")
    refuse(certified != (column["status"] == "certified"), "its status does not follow from p_lower")
    return certified


def samples_to_draw(selection: NDArray[np.int64], certify: CertifySettings) -> NDArray[np.int64]:
    """`CertifySettings.samples_to_draw` of each image.

    Args:
        selection: (images, classes), the counts of the selection.
    """
    distinct, where = np.unique(selection.max(axis=1), return_inverse=True)
    return np.array([certify.samples_to_draw(int(count)) for count in distinct], dtype=np.int64)[where]


def two_sided_radii(
    counts: NDArray[np.int64], column: Mapping[str, NDArray[Any]], planned: NDArray[np.int64]
) -> NDArray[np.float64]:
    """`debited_two_sided` of rows; NaN where an estimation was not made, or ended before the planned samples, or might
    have (anytime): the bounds are for a number of samples that does not depend on their answers; also of composed
    classifiers."""
    found = np.full(len(counts), np.nan)
    whole = (column["n"] == planned) & (planned > 0) & (column["estimator"] != "anytime") & (column["sigma"] > 0)
    if whole.any():
        names = ("selected", "alpha", "sigma", "lattice_pixels")
        selected, alpha, sigma, pixels = (column[name][whole] for name in names)
        found[whole] = debited_two_sided(counts[whole], selected, alpha, sigma, pixels.astype(np.float64))
    return found


def _refuse(
    holder: dict[int, AnyPath], column: dict[str, np.ndarray[Any, Any]], wrong: np.ndarray[Any, Any], reason: str
) -> None:
    if wrong.any():
        index = int(column["index"][wrong.argmax()])
        raise MergeError(f"{holder[index]}: image {index}: {reason}")


def _trial_row(
    trial_id: str, settings: AnyTrial, training: TrainingRecord, rows: pa.Table, *, places: bool
) -> TrialRow:
    seconds = pc.sum(rows["seconds"]).as_py()
    samples = pc.sum(rows["n"]).as_py() + pc.sum(rows["n0"]).as_py()
    for selectors in ("selector_selection_counts", "selector_counts"):
        samples += pc.sum(pc.list_flatten(rows[selectors])).as_py() or 0
    native = settings if isinstance(settings, NativeTrial) else None
    told = settings.model_dump(mode="json")
    told = told if places else without_place(told, settings.dataset)
    recorded = (TrialRow.model_fields.keys() & TrainingRecord.model_fields.keys()) - {"variant_of"}
    return TrialRow(
        **training.model_dump(include=recorded),
        **settings.model_dump(include={"sigma", "seed", "dataset"}),
        model=told["model"],
        trial_id=trial_id,
        method=settings.name,
        # by the grid, which may call a variant of a method as it likes, or as the method's class says
        variant_of=training.variant_of or (native.method if native and native.method != native.name else None),
        epochs=native.train.epochs if native else None,
        decomposition_ratio=native.decomposition_ratio if native else None,
        n=settings.certify.n,
        n0=settings.certify.n0,
        alpha=settings.certify.alpha,
        images=rows.num_rows,
        certify_seconds=seconds,
        certify_samples_per_second=samples / seconds if seconds else 0.0,
        certify_joules=None if rows["joules"].null_count else pc.sum(rows["joules"]).as_py(),
        settings=json.dumps(told, ensure_ascii=False),
    )
