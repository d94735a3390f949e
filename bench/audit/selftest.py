"""The mutation score of the guarantee: this program is broken on purpose, one way after another; each is to be found.

A small model is trained. For every mutation its test images are certified by the broken program, or a finished run is
altered; then the unbroken program has to object: by a precondition before anything is certified, when it merges, by
`bench audit`, or by `bench verify`.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.audit.independent import AuditError, audit
from bench.audit.verify import verify_run
from bench.certify import composed, engine, shard, smoothing
from bench.certify.composed import smoothed_source
from bench.certify.examine import examine_trial
from bench.certify.noise import NoiseSamples
from bench.data import load_images
from bench.machine.randomness import Role
from bench.models.classifier import Classifier
from bench.models.sources import Source, from_trial, joined, open_model
from bench.settings.trial import Trial
from bench.train.loop import train
from results.bounds import composition
from results.bounds.composition import Composed
from results.bounds.lattice import debited
from results.bounds.radius import certified_radius, lower_confidence_bound
from results.errors import BenchError
from results.report.formats import to_csv
from results.report.tables import table_certified_accuracy
from results.store.description import add_trials
from results.store.folder import RunFolder, TrialFolder, sha256_of, write_text
from results.store.merge import merge_run
from results.store.records import RunRecord, TrainingRecord
from results.store.run import read_run
from results.store.settings import ComposedTrial
from results.store.shards import evenly_spaced

IMAGES = 40
SHARD = 8
SETTINGS: dict[str, Any] = {
    "name": "gaussian", "method": "gaussian", "sigma": 0.25, "dataset": "synthetic", "model": "tiny", "width": 8,
    "train": {"epochs": 6, "decay_epochs": [5], "learning_rate": 0.1, "batch": 32, "images": 800, "precision": "fp32"},
    "certify": {"n": 400, "n0": 20, "images": IMAGES, "precision": "fp32", "beacon": "published-later"},
}  # fmt: skip


@dataclass(frozen=True)
class Mutation:
    """One way to break the program."""

    name: str
    broken: Callable[[], AbstractContextManager[Any]] = nullcontext
    """A block in which it is broken, around the certification."""
    before: Callable[[Path, Trial], None] | None = None
    """What is altered of the trained model."""
    after: Callable[[Path, Trial], None] | None = None
    """What is altered of the certified run; it is merged and its table is written before."""
    merged_again: bool = True
    """Whether the run is merged after that."""
    composed: bool = False
    """Whether the model is certified at two σ between which a selector chooses, in a run of its own."""


@dataclass(frozen=True)
class Outcome:
    """Who found a mutation."""

    name: str
    by: str
    """precondition, merge, audit, verify; empty: nobody."""
    sentence: str


def self_test(folder: Path) -> Iterator[Outcome]:
    """Every mutation, one after another, in a folder that is left with the last one's run.

    Raises:
        RuntimeError: the unbroken program itself is found wanting.
    """
    trial = Trial.model_validate(SETTINGS)
    for name, own in (("trained", trial), ("decomposed", trial.model_copy(update={"decomposition_ratio": 0.2}))):
        add_trials(RunFolder(folder / name), [own])
        train(own, RunFolder(folder / name))
    with _trial_of(folder / "trained", trial, folder / "run") as run:
        _refuse_unsound(_find(Mutation("nothing"), run, trial))
    dual = _dual(folder, trial)
    _refuse_unsound(_find(Mutation("nothing", composed=True), _composed_run(folder, dual), dual))
    for mutation in MUTATIONS:
        if mutation.composed:
            yield _find(mutation, _composed_run(folder, dual), dual)
            continue
        own, source = trial, "trained"
        if mutation.name == DECOMPOSED:
            own, source = trial.model_copy(update={"decomposition_ratio": 0.2}), "decomposed"
        with _trial_of(folder / source, own, folder / "run") as run:
            yield _find(mutation, run, own)


def _refuse_unsound(sound: Outcome) -> None:
    if sound.by:
        raise RuntimeError(f"the program as it is is refused by {sound.by}: {sound.sentence}")


class Middle(torch.nn.Module):
    """Whether the middle of an image is bright: a selector of two."""

    def forward(self, images: Tensor) -> Tensor:
        """Images (batch, channel, 32, 32) -> logits (batch, 2)."""
        brightness = images[:, 0, 16, 14:18].mean(dim=1) - 0.5
        return torch.stack([-brightness, brightness], dim=1)


SELECTOR = f"{__name__}:{Middle.__name__}"


def _dual(folder: Path, trial: Trial) -> ComposedTrial:
    """The trained model at its own σ and at the double, as the selector says."""
    parts = [
        {"model": trial.model, "sigma": sigma, "weights": part.weights}
        for part, sigma in zip(_source(folder).parts, (0.25, trial.sigma, 2 * trial.sigma), strict=True)
    ]
    settings = {"name": "dual", "composition": "dual", "parts": parts, "model": trial.model}
    return ComposedTrial.model_validate(settings | {name: SETTINGS[name] for name in ("dataset", "certify")})


def _composed_run(folder: Path, dual: ComposedTrial) -> Path:
    """A run of nothing but this, whose model is in another."""
    run = RunFolder(folder / "run")
    shutil.rmtree(folder / "run", ignore_errors=True)
    add_trials(run, [dual])
    source = _source(folder)
    classes, answers = examine_trial(source, dual, load_images("synthetic", "test"))
    record = TrainingRecord(
        title=dual.name,
        checkpoint_sha256=dual.weights,
        num_classes=classes,
        test_images=len(load_images("synthetic", "test")),
        torch_version=str(torch.__version__),
        sources=[part.where for part in source.parts],
        answers=answers,
    )
    record.write(run.trial(dual.trial_id).training)
    return folder / "run"


def _source(folder: Path) -> Source:
    """The models of `_dual`."""
    trained = RunFolder(folder / "trained")
    [trial_id] = RunRecord.read(trained.description).trials
    part = from_trial(trained, trial_id)
    return joined([open_model(SELECTOR), part, part], "dual", "")


@contextmanager
def _trial_of(source: Path, trial: Trial, target: Path) -> Iterator[Path]:
    """A copy of a trained run, whose model no process has open."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    shard.last_model.forget()
    assert trial.trial_id in {path.name for path in (target / "trials").iterdir()}
    yield target
    shard.last_model.forget()


def _find(mutation: Mutation, run: Path, trial: Trial | ComposedTrial) -> Outcome:
    try:
        if mutation.before and isinstance(trial, Trial):
            mutation.before(run, trial)
        with mutation.broken():
            shard.last_model.forget()
            _certify(RunFolder(run), trial)
    except BenchError as error:
        return Outcome(mutation.name, "precondition", str(error))
    shard.last_model.forget()
    try:
        merge_run(RunFolder(run))
        _write_table(RunFolder(run))
        if mutation.after and isinstance(trial, Trial):
            mutation.after(run, trial)
        if mutation.after and mutation.merged_again:
            merge_run(RunFolder(run))
            _write_table(RunFolder(run))
    except BenchError as error:
        return Outcome(mutation.name, "merge", str(error))
    try:
        audit(run)
    except AuditError as error:
        return Outcome(mutation.name, "audit", str(error))
    try:
        found = verify_run(RunFolder(run), IMAGES, seed=0, factories=[SELECTOR])
    except BenchError as error:
        return Outcome(mutation.name, "verify", str(error))
    if not found.holds:
        return Outcome(mutation.name, "verify", found.conclusion())
    return Outcome(mutation.name, "", "")


def _certify(run: RunFolder, trial: Trial | ComposedTrial) -> None:
    wanted = evenly_spaced(len(load_images("synthetic", "test")), IMAGES)
    opened = None
    if isinstance(trial, ComposedTrial):
        smoothed = smoothed_source(
            _source(Path(str(run.path)).parent), trial, load_images("synthetic", "test").num_classes
        )
        opened = shard.OpenedModel(smoothed, trial.composition, trial.weights)
    for first in range(0, IMAGES, SHARD):
        if opened:
            shard.certify_images(opened, trial, run, wanted[first : first + SHARD])
        else:
            assert isinstance(trial, Trial)
            shard.certify_shard(trial, run, wanted[first : first + SHARD])


def _write_table(run: RunFolder) -> None:
    table = table_certified_accuracy(read_run(run.path))
    write_text(run.tables / "certified_accuracy.csv", to_csv(table))


# --- ways to break it -----------------------------------------------------------------------------------------------


@contextmanager
def _replaced(*places: tuple[object, str, object]) -> Iterator[None]:
    with ExitStack() as stack:
        for owner, name, value in places:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        yield


def _with_alpha(factor: float) -> AbstractContextManager[None]:
    def bound(k: Any, n: Any, alpha: Any) -> Any:
        return lower_confidence_bound(k, n, factor * alpha)

    return _replaced((smoothing, "lower_confidence_bound", bound))


def _with_noise(
    change: Callable[[Iterator[Tensor]], Iterator[Tensor]], sigma: float = 1.0
) -> AbstractContextManager[None]:
    class Other(NoiseSamples):
        def __init__(self, own: float, *rest: Any) -> None:
            super().__init__(sigma * own, *rest)

        def batches(self, *place: Any) -> Iterator[Tensor]:
            return change(super().batches(*place))

    return _replaced((smoothing, "NoiseSamples", Other))


def _with_place(role: Role | None = None, index: int | None = None, seeds: int = 0) -> AbstractContextManager[None]:
    plain = NoiseSamples.batches

    def batches(self: NoiseSamples, image: Tensor, batch: int, seed: int, own: Role, place: int) -> Iterator[Tensor]:
        there = own if role is None else role, place if index is None else index
        return plain(self, image, batch, seed + seeds, *there)

    return _replaced((NoiseSamples, "batches", batches))


def _seed_chosen() -> AbstractContextManager[None]:
    plain = Trial.noise_seed
    return _replaced((Trial, "noise_seed", lambda self, weights: plain(self, weights) + 1))


def _labels_permuted() -> AbstractContextManager[None]:
    def loaded(*place: Any) -> Any:
        images = load_images(*place)
        return replace(images, labels=(images.labels + 1) % images.num_classes)

    return _replaced((shard, "load_images", loaded))


def _answers_shifted() -> AbstractContextManager[None]:
    plain = smoothing.Smoothed._answers

    def answers(self: smoothing.Smoothed, *given: Any) -> Tensor:
        return (plain(self, *given) + 1) % self.num_classes

    return _replaced((smoothing.Smoothed, "_answers", answers))


def _size_chosen_after_looking() -> AbstractContextManager[None]:
    def estimate(_self: object, draw: Any, _shape: object, selection: Tensor, settings: Any) -> tuple[int, list[int]]:
        selected, sizes = int(selection.argmax()), range(settings.n // 20, settings.n + 1, settings.n // 20)
        tried = list(zip(sizes, draw(sizes, role=Role.ESTIMATE), strict=True))
        best = max(
            tried, key=lambda pair: float(lower_confidence_bound(int(pair[1][selected]), pair[0], settings.alpha))
        )
        return best[0], best[1].tolist()

    return _replaced((smoothing.Smoothed, "estimate", estimate))


def _alpha_not_shared() -> AbstractContextManager[None]:
    plain = composition.composed

    def whole(kind: Any, classifier: Any, selector: Any, alpha: float, pixels: Any) -> Composed:
        return plain(kind, classifier, selector, 2 * alpha, pixels)

    return _replaced((composed, "composed", whole))


def _larger_radius() -> AbstractContextManager[None]:
    plain = composition.composed

    def largest(*given: Any) -> Composed:
        found = plain(*given)
        radius = max(found.classifier_radius, found.selector_radius or 0.0)
        return replace(found, radius=radius if found.certified else 0.0)

    return _replaced((composed, "composed", largest))


def _chosen_otherwise() -> AbstractContextManager[None]:
    plain = composed.DualSmoothed._ask

    def ask(self: composed.DualSmoothed, *given: Any) -> Any:
        classifier, [selector] = plain(self, *given)
        return classifier, [replace(selector, selection=selector.selection.flip(0), counts=selector.counts[::-1])]

    return _replaced((composed.DualSmoothed, "_ask", ask))


def _radius_rounded_up() -> AbstractContextManager[None]:
    def rounded(*given: Any) -> tuple[Any, Any]:
        bound, radius = debited(*given)
        return bound, np.ceil(radius * 100) / 100

    return _replaced((smoothing, "debited", rounded))


def _normalised_by_the_batch() -> AbstractContextManager[None]:
    def frozen(model: torch.nn.Module) -> torch.nn.Module:
        return model.train().requires_grad_(False)

    return _replaced((engine, "frozen", frozen))


def _answers_at_random() -> AbstractContextManager[None]:
    plain = Classifier.forward

    def forward(self: Classifier, images: Tensor) -> Tensor:
        return torch.nn.functional.dropout(plain(self, images), 0.3, training=True)

    return _replaced((Classifier, "forward", forward))


def _clipped(batches: Iterator[Tensor]) -> Iterator[Tensor]:
    return (batch.clamp(0, 1) for batch in batches)


def _repeated(batches: Iterator[Tensor]) -> Iterator[Tensor]:
    return (batch[:1].expand_as(batch).contiguous() for batch in batches)


def _folder(run: Path, trial: Trial) -> TrialFolder:
    return RunFolder(run).trial(trial.trial_id)


def _change_weights(run: Path, trial: Trial, change: Callable[[dict[str, Tensor]], None], *, recorded: bool) -> None:
    folder = _folder(run, trial)
    tensors = load_file(str(folder.model))
    change(tensors)
    save_file(tensors, str(folder.model), {"training_id": trial.training_id})
    if recorded:
        record = TrainingRecord.read(folder.training)
        record.model_copy(update={"checkpoint_sha256": sha256_of(folder.model)}).write(folder.training)


def _scale_basis(run: Path, trial: Trial) -> None:
    _change_weights(run, trial, lambda tensors: tensors["decomposition.basis"].mul_(1.1), recorded=True)  # type: ignore[arg-type]


def _other_weights(run: Path, trial: Trial) -> None:
    _change_weights(run, trial, lambda tensors: tensors["network.head.weight"].add_(0.01), recorded=False)  # type: ignore[arg-type]


Row = dict[str, Any]


def _in_shards(change: Callable[[list[Row]], list[Row]]) -> Callable[[Path, Trial], None]:
    """Change the rows of each shard."""

    def altered(run: Path, trial: Trial) -> None:
        for path in _folder(run, trial).shard_files():
            table = pq.read_table(path)
            pq.write_table(pa.Table.from_pylist(change(table.to_pylist()), table.schema), path)

    return altered


def _consistent(row: Row, counts: list[int]) -> Row:
    """A row with all that follows from other counts."""
    n, top = sum(counts), counts[row["selected"]]
    p_lower = float(lower_confidence_bound(top, n, row["alpha"])) if n else 0.0
    predicted = row["selected"] if p_lower >= 0.5 else -1
    return row | {
        "counts": counts, "n": n, "count_top": top, "p_lower": p_lower, "predicted": predicted,
        "radius": float(certified_radius(p_lower, row["sigma"])), "correct": predicted == row["label"],
        "status": "misclassified" if not n else "certified" if predicted >= 0 else "abstained",
    }  # fmt: skip


def _raised(row: Row) -> Row:
    """Half of the errors given to the class; its two-sided radius stays, as nobody would think of it."""
    if row["status"] != "certified":
        return row
    counts = [count // 2 for count in row["counts"]]
    counts[row["selected"]] += row["n"] - sum(counts)
    return _consistent(row, counts)


def _claimed(row: Row) -> Row:
    """A misclassified image as a certified one, as if the label's class had been selected, and all samples gave it."""
    if row["status"] != "misclassified":
        return row
    whole = [row["n0"] if place == row["label"] else 0 for place in range(len(row["counts"]))]
    n = SETTINGS["certify"]["n"]
    return _consistent(
        row | {"selected": row["label"], "selection_counts": whole}, [n if count else 0 for count in whole]
    )


def _without_two_sided(change: Callable[[Row], Row]) -> Callable[[list[Row]], list[Row]]:
    """What changes counts has to change the two-sided radius as well, or the merge would see it at once."""

    def changed(rows: list[Row]) -> list[Row]:
        from results.store.merge import two_sided_radii

        new = [change(row) for row in rows]
        column = {
            name: np.array([row[name] for row in new]) for name in ("n", "selected", "alpha", "sigma", "estimator")
        }
        column["lattice_pixels"] = np.full(len(new), np.nan)
        planned = np.where(column["n"] > 0, SETTINGS["certify"]["n"], 0)
        radii = two_sided_radii(np.array([row["counts"] for row in new]), column, planned)
        return [
            row | {"radius_two_sided": None if np.isnan(radius) else float(radius)}
            for row, radius in zip(new, radii, strict=True)
        ]

    return changed


def _edit_merged(run: Path, _trial: Trial) -> None:
    path = RunFolder(run).certificates
    table = pq.read_table(path)
    rows = table.to_pylist()
    first = next(row for row in rows if row["status"] == "certified")
    first["radius"] += 0.01
    pq.write_table(pa.Table.from_pylist(rows, table.schema), path)


def _edit_trials(run: Path, _trial: Trial) -> None:
    path = RunFolder(run).trials
    table = pq.read_table(path)
    rows = [row | {"n": 100_000} for row in table.to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows, table.schema), path)


def _edit_table(run: Path, _trial: Trial) -> None:
    path = run / "tables" / "certified_accuracy.csv"
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    lines[0]["acr"] = str(float(lines[0]["acr"]) + 0.001)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)


def _edit_record(run: Path, trial: Trial) -> None:
    path = Path(str(_folder(run, trial).training))
    path.write_text(path.read_text().replace('"train_images": 800', '"train_images": 50000'))


def _edit_beacon(run: Path, trial: Trial) -> None:
    path = Path(str(_folder(run, trial).settings))
    path.write_text(path.read_text().replace("published-later", "chosen-later"))


def _fewer(rows: list[Row]) -> list[Row]:
    return rows[1:] if rows[0]["index"] == 0 else rows


def _twice(rows: list[Row]) -> list[Row]:
    return [*rows, rows[-1]]


def _each(change: Callable[[Row], Row]) -> Callable[[list[Row]], list[Row]]:
    return lambda rows: [change(row) for row in rows]


DECOMPOSED = "the basis of the decomposition scaled"
MUTATIONS = (
    Mutation("alpha doubled", lambda: _with_alpha(2)),
    Mutation("a two-sided bound", lambda: _with_alpha(0.5)),
    Mutation("noise of .95 σ", lambda: _with_noise(lambda batches: batches, 0.95)),
    Mutation("noise clipped to [0, 1]", lambda: _with_noise(_clipped)),
    Mutation("one noise sample for all of a batch", lambda: _with_noise(_repeated)),
    Mutation("the selection's samples used for the estimation", lambda: _with_place(role=Role.SELECT)),
    Mutation("the same noise for every image", lambda: _with_place(index=0)),
    Mutation("another seed than that of weights and beacon", _seed_chosen),
    Mutation("another seed than the one that is recorded", lambda: _with_place(seeds=1)),
    Mutation("labels permuted", _labels_permuted),
    Mutation("answers shifted by a class", _answers_shifted),
    Mutation("the number of samples chosen after looking", _size_chosen_after_looking),
    Mutation("radii rounded up", _radius_rounded_up),
    Mutation("alpha not shared by the bounds of selector and classifier", _alpha_not_shared, composed=True),
    Mutation("the larger of two radii", _larger_radius, composed=True),
    Mutation("another classifier than the selector chose", _chosen_otherwise, composed=True),
    Mutation("normalisation by the batch", _normalised_by_the_batch),
    Mutation("dropout left on", _answers_at_random),
    Mutation(DECOMPOSED, before=_scale_basis),
    Mutation("other weights than were trained", before=_other_weights),
    Mutation("rows of another row of the tables", after=_in_shards(_each(lambda row: row | {"method": "another"}))),
    Mutation("n of another row", after=_in_shards(_each(lambda row: row | {"n": row["n"] and row["n"] + 1}))),
    Mutation(
        "counts shifted by a class",
        after=_in_shards(_each(lambda row: row | {"counts": row["counts"][1:] + row["counts"][:1]})),
    ),
    Mutation("an image left out", after=_in_shards(_fewer)),
    Mutation("an image twice", after=_in_shards(_twice)),
    Mutation("misclassified images claimed as certified", after=_in_shards(_without_two_sided(_claimed))),
    Mutation("half of the errors given to the class", after=_in_shards(_without_two_sided(_raised))),
    Mutation("a radius edited in the Parquet", after=_edit_merged, merged_again=False),
    Mutation("n of a trial edited in the Parquet", after=_edit_trials, merged_again=False),
    Mutation("an ACR edited in the table", after=_edit_table, merged_again=False),
    Mutation("the record of the training edited", after=_edit_record),
    Mutation("a beacon chosen after looking", after=_edit_beacon, merged_again=False),
)
