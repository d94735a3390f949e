"""The rows of a run's Parquet files: one class for each, from which schema, checks and documentation follow."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.compute as pc
from annotated_types import Ge, Le
from pydantic import Field

from results.errors import StoreError
from results.printable import shortened
from results.store.record import Record
from results.store.settings import Composition

Natural = Annotated[int, Field(ge=0, le=2**53)]
Amount = Annotated[float, Field(ge=0, le=1e300)]
Share = Annotated[float, Field(ge=0, le=1)]
Sigma = Annotated[float, Field(ge=0, le=100)]
Status = Literal["certified", "abstained", "misclassified"]
NOISE: Literal["philox4x64-10/1"] = "philox4x64-10/1"
"""What `noise` is in the certificates that this version makes. Counts of other noise are others."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class CertificateRow(Record):
    """certificates.parquet: one test image of one trial. What is null, an imported log does not say."""

    trial_id: str
    method: str
    """Row of the tables: a method, or a variant that the grid names."""
    sigma: Sigma
    """Standard deviation of the noise, in [0, 1] pixel units; 0: every image has its own, `sigma_input`."""
    seed: Natural
    dataset: str
    split: str
    index: Natural
    """Position in the split."""
    label: Natural
    predicted: Annotated[int, Field(ge=-1, le=2**53)]
    """−1: no class is certified."""
    status: Status
    """misclassified: the selected class is not the label, and nothing was estimated."""
    correct: bool
    """predicted == label."""
    radius: Amount
    """ℓ2, in [0, 1] pixel units; 0 unless certified."""
    radius_two_sided: Amount | None = None
    """By p_A and p_B (thesis Eq. 2.6), each at half of alpha; null also where an estimation was not made to its end, or
    its end depended on its answers (anytime)."""
    radius_soft: Amount | None = None
    """Of the soft smoothed classifier, argmax of the expected softmax, at the same image, `selected` and alpha
    (`results.bounds.soft`); 0: none is certified; null: not asked for, or nothing estimated."""
    p_lower: Share
    """Lower confidence bound on the probability of `selected`, at confidence 1 − alpha."""
    selected: Natural | None = None
    """The class that the n0 samples chose."""
    count_top: Natural | None = None
    """counts[selected]."""
    n: Natural
    """Samples drawn: the trial's n; fewer where sampling is two-stage or anytime, or where abstention was certain
    earlier (take such a row for an abstention at any other alpha too); 0: misclassified."""
    n0: Natural
    alpha: Share
    estimator: Literal["fixed", "two-stage", "anytime", "imported"]
    """imported: of another program's log, with the n and alpha that were stated for it."""
    classifier: str
    """network, mean of 3 logits, 2-consensus of 3; unknown: imported."""
    lattice_pixels: Natural | None = None
    """Numbers of an image, where arithmetic is sound: bound and radius are debited for them (`results.bounds.lattice`);
    null: they are not."""
    selection_counts: list[Natural] | None = None
    """Of the n0 samples, one per class."""
    counts: list[Natural] | None = None
    """Of the n samples, one per class."""
    soft_weights: list[Natural] | None = None
    """The softmax of `selected` among the n samples: 2²⁰ for each, on the two of `results.bounds.soft.EDGES` that it
    lies between; null as `radius_soft`."""
    base_clean: Natural | None = None
    """The class that the base classifier gives the image itself; null: imported, or composed, which has no one base
    classifier."""
    base_noisy: Natural | None = None
    """The class that it gives one noise sample of the image, which is none of the n0 and n; null: as `base_clean`."""
    seconds: Amount
    joules: Amount | None = None
    """Of the whole accelerator, by its driver's counter; null: not reported."""
    precision: str
    """fp32, bf16; unknown: imported, as engine, device and torch_version."""
    engine: str
    """triton, cudnn, inductor (compiled), eager; unknown: imported."""
    batch: Natural | None = None
    """Samples of a forward pass; roundings differ with it."""
    device: str
    device_kind: str | None = None
    """cpu, cuda."""
    noise: Literal["philox4x64-10/1"] | None = None
    """How the noise was drawn, on any device: the generator, and the version of what is made of it."""
    noise_seed: Natural | None = None
    """What its streams are derived from, with the role and the index: a digest of the settings, or of the weights and
    the beacon where `certify.beacon` is given (`results.store.settings.beacon_seed`)."""
    torch_version: str
    checkpoint_sha256: str
    composition: Composition | None = None
    """How the classifier is composed of others (`results.bounds.composition`); null: it is not, and neither is what
    follows."""
    alpha_shares: Natural | None = None
    """Bounds that share alpha equally: each, p_lower among them, holds at confidence 1 − alpha / alpha_shares."""
    sigma_input: Sigma | None = None
    """σ of the classifier that was selected for this image; selected, counts, n and p_lower are of it."""
    classifier_radius: Amount | None = None
    """Within it the answer of that classifier stays; 0: not certified."""
    selector_sigmas: list[Sigma] | None = None
    """σ of the selector; multi-scale: of each scale that was passed, in order."""
    selector_selection_counts: list[Natural] | None = None
    """Of the selector's n0 samples, one per classifier; multi-scale: of each scale that was passed, one per class."""
    selector_counts: list[Natural] | None = None
    """Of the selector's n samples, likewise."""
    selector_radius: Amount | None = None
    """Within it the same classifier is selected; 0: not certified; null: it is the first scale, which always answers
    first. `radius` is the smaller of both."""


class TrialRow(Record):
    """trials.parquet: one trial. Columns that may be null are unknown where a model was trained elsewhere; those of a
    decomposition also where there is none."""

    trial_id: str
    method: str
    title: str
    """The method's name in tables."""
    variant_of: str | None = None
    """The method beside which figures show it: that of which the grid makes a variant, or as its class says."""
    colour_group: str | None = None
    """Rows of one have one colour in figures; null: a colour of its own."""
    sigma: Sigma
    """0: every image has its own."""
    seed: Natural
    dataset: str
    classes: list[str] | None = None
    """The name of each label; null: the data has none."""
    model: str
    copies: Natural | None = None
    """m, noise samples of an image in a training step."""
    epochs: Natural | None = None
    n: Natural
    n0: Natural
    alpha: Share
    images: Natural
    """Certified test images."""
    decomposition_ratio: Amount | None = None
    decomposition_kept: Natural | None = None
    """Directions, of channel × height × width."""
    members: list[str]
    """Trial ids of an ensemble's members."""
    parameters: Natural | None = None
    """Numbers that training changes, summed over members; null: imported."""
    model_bytes: Natural | None = None
    """Of the files of weights, buffers such as a decomposition's basis included, summed over members; of an external
    model, of its parameters and buffers in memory; null: imported."""
    train_seconds: Amount | None = None
    """Wall clock, summed over members."""
    train_samples_per_second: Amount | None = None
    """Noise samples."""
    train_joules: Amount | None = None
    """Of the accelerators, by their drivers' counters, summed over members."""
    memory_bytes: Natural | None = None
    """Peak while training, summed over workers and members."""
    member_memory_bytes: Natural | None = None
    """Peak of the largest member alone."""
    memory_kind: Literal["accelerator", "resident"] | None = None
    certify_seconds: Amount
    """Summed over workers."""
    certify_samples_per_second: Amount
    """Per worker."""
    certify_joules: Amount | None = None
    workers: Natural | None = None
    """Of the training."""
    device: str | None = None
    """Of the training."""
    train_precision: str | None = None
    torch_version: str
    checkpoint_sha256: str
    settings: str
    """trial.json; the name of the data in the place of its folder, and models without theirs, unless that was asked
    for."""


class EpochRow(Record):
    """epochs.parquet: one epoch of one trained model."""

    trial_id: str
    method: str
    sigma: Sigma
    seed: Natural
    epoch: Natural
    """From 0."""
    learning_rate: Amount
    loss: Annotated[float, Field(ge=-1e300, le=1e300)]
    """Mean over the epoch's images. It may be negative: the logarithm of a radius is."""
    gradient_norm: Amount | None = None
    """Mean over the epoch's steps of the ℓ2 norm of the gradient of the loss with respect to all parameters."""
    noisy_test_accuracy: Share
    """Of the base classifier f, on one noise sample of each test image."""
    seconds: Amount
    """Wall clock of the epoch."""


class SpectrumRow(Record):
    """spectra.parquet: one principal component of a set of training images."""

    dataset: str
    images: Natural
    """Training images."""
    component: Natural
    """From 0."""
    variance: Amount
    """Falling; pixel values in [0, 1]."""


class SearchRow(Record):
    """search.parquet: one configuration of a method at one σ, trained up to one rung of a search."""

    method: str
    """Row of the grid."""
    sigma: Sigma
    order: Natural
    """In which the step was decided, from 0, of this method and σ."""
    configuration: Natural
    """0: the options that the grid has."""
    options: str
    """Those that are searched, as JSON."""
    rung: Natural
    """From 0."""
    epochs: Natural
    """Trained so far."""
    cost: Amount
    """Of this step, in passes of the training images, forward and backward; forward alone counts a third."""
    outcome: Literal["promoted", "stopped", "finished", "failed"]
    """finished: on the last rung; failed: the training could not go on; stopped also where the search still goes on."""
    chosen: bool
    """Whether these options are those of tuned.toml, and this the rung on which they were compared."""
    acr: Amount | None = None
    """Average certified radius on the images held out of the training set; null: failed."""
    acr_error: Amount | None = None
    """Its standard error over those images."""
    seconds: Amount
    """Wall clock of this step's training, and its certification summed over workers; 0: failed."""
    reason: str | None = None
    """Why it failed."""
    trial_id: str


class ThumbnailRow(Record):
    """thumbnails.parquet: a small picture of one test image."""

    dataset: str
    index: Natural
    """Position in the test split."""
    png: bytes
    """At most 64 pixels wide and high."""


_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_(), bytes: pa.binary()}


def fields_of(kind: type[Record]) -> list[pa.Field]:
    """The columns of a Parquet file of such rows, in their order; nullable where a value may be None."""
    hints = get_type_hints(kind)
    fields = []
    for name in kind.model_fields:
        choices = _without_annotations(hints[name])
        types = [choice for choice in choices if choice is not NoneType]
        fields.append(pa.field(name, _arrow(types[0]), nullable=NoneType in choices))
    return fields


def table_of(rows: Sequence[Record], schema: pa.Schema) -> pa.Table:
    """Rows as a table."""
    return pa.Table.from_pylist([dict(row) for row in rows], schema)


def _without_annotations(hint: Any) -> list[Any]:
    """The types that a value may have; of `Literal`, the type of its words."""
    if get_origin(hint) is Literal:
        return [type(get_args(hint)[0])]
    if get_origin(hint) is list:
        return [hint]
    return [choice for part in get_args(hint) for choice in _without_annotations(part)] or [hint]


def _arrow(kind: Any) -> pa.DataType:
    if get_origin(kind) is list:
        return pa.list_(_arrow(_without_annotations(get_args(kind)[0])[0]))
    return _TYPES[kind]


def check_values(table: pa.Table, kind: type[Record], path: object) -> None:
    """What always holds for a Parquet file of such rows: its numbers are within their range, its words known.

    Raises:
        StoreError: names the file, the column and the first value that is not.
    """
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if name not in table.column_names:
            continue  # a class variable
        column = table[name].drop_null()
        words, least, most = _allowed(hint)
        _refuse_words(column, name, words, path)
        if least is not None:
            numbers = pc.list_flatten(column).drop_null() if pa.types.is_list(column.type) else column
            allowed = pc.and_(pc.greater_equal(numbers, least), pc.less_equal(numbers, most))  # false for NaN
            if not pc.all(allowed, min_count=0).as_py():
                value = numbers.filter(pc.invert(allowed))[0].as_py()
                raise StoreError(f"{path}: {name} = {value}: must be from {least:g} to {most:g}")


def _allowed(hint: Any) -> tuple[list[str], float | None, float | None]:
    """The words of a column, or the least and the largest of its numbers, as far as its type says."""
    words: list[str] = []
    least: float | None = None
    most: float | None = None
    for part in _parts(hint):
        if get_origin(part) is Literal:
            words = list(get_args(part))
        for constraint in getattr(part, "metadata", ()):
            least = float(constraint.ge) if isinstance(constraint, Ge) else least  # type: ignore[arg-type]
            most = float(constraint.le) if isinstance(constraint, Le) else most  # type: ignore[arg-type]
    return words, least, most


def _parts(hint: Any) -> Iterator[Any]:
    yield hint
    if get_origin(hint) is not Literal:
        for part in get_args(hint):
            yield from _parts(part)


def _refuse_words(column: pa.ChunkedArray, name: str, words: list[str], path: object) -> None:
    if name == "method":
        for method in column.unique().to_pylist():
            if not NAME.fullmatch(method):
                raise StoreError(f"{path}: method = {shortened(method)}: must be letters, digits, _ and -")
    if name == "settings":
        for settings in column.to_pylist():
            try:
                value = json.loads(settings)
            except (ValueError, RecursionError):
                value = None
            if not isinstance(value, dict):
                raise StoreError(f"{path}: settings = {shortened(settings)}: must be a JSON object")
    for word in set(column.unique().to_pylist()) - set(words) if words else ():
        raise StoreError(f"{path}: {name} = {shortened(word)}: must be {', '.join(words)}")
