"""One shard of a trial's certificates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from bench.certify.engine import COMPILE_FROM
from bench.certify.smoothing import Smoothed, SmoothedClassifier
from bench.data import load_images, split_name
from bench.machine.advance import advance
from bench.machine.energy import EnergyMeter
from bench.machine.hardware import device_name
from bench.models.checkpoint import load_verified
from bench.models.classifier import kind_of
from bench.models.external import ModelError
from bench.settings.trial import Trial
from results.store.folder import RunFolder, TrialFolder
from results.store.merge import samples_to_draw, two_sided_radii
from results.store.records import BatchRecord, TrainingRecord
from results.store.rows import NOISE, CertificateRow
from results.store.settings import CertifiedTrial, Precision
from results.store.shards import write_shard


@dataclass(frozen=True)
class OpenedModel:
    """A model ready to be certified, and what its rows say of it."""

    smoothed: SmoothedClassifier
    classifier: str
    """How it is made of networks."""
    sha256: str
    """Of its weights."""


class _LastModel:
    """The model of the last trial that this process certified, kept between its shards; other weights are another."""

    def __init__(self) -> None:
        self._known: tuple[str, str, RunFolder] | None = None
        self._opened: OpenedModel | None = None

    def __call__(self, trial: Trial, run: RunFolder) -> OpenedModel:
        """Raises StoreError, CheckpointError: the trial's record or weights are not usable."""
        training = TrainingRecord.read(run.trial(trial.trial_id).training)
        wanted = trial.trial_id, training.checkpoint_sha256, run
        if self._opened is None or self._known != wanted:
            assert training.num_classes is not None
            precision: Precision = trial.certify.precision
            if precision == "auto":  # of the machine that trained: workers of several kinds certify the same classifier
                precision = training.auto_precision or "auto"
            model = load_verified(run, trial, training.num_classes)
            smoothed = Smoothed(
                model, trial.sigma, training.num_classes, precision=precision, arithmetic=trial.certify.arithmetic
            )
            self._known = wanted
            self._opened = OpenedModel(smoothed, kind_of(model), training.checkpoint_sha256)
        return self._opened

    def forget(self) -> None:
        """Let go of it, and of what was compiled for it: a training's memory is then its own."""
        if self._opened is not None:
            self._known = self._opened = None
            torch.compiler.reset()  # whose caches, and CUDA graphs, hold the weights


last_model = _LastModel()


def settle_engine(trial: Trial, run: RunFolder) -> None:
    """Decide, before the trial's certification begins, how many noise samples are in a forward pass, and how its
    classifier is made fast, as far as it is to be: all who certify it then do alike, or not at all. Raises as
    `certify_shard`, and ModelError: here it cannot be done as the shards that are there were."""
    with advance.without_steps("loading"):
        settle_engine_of(last_model(trial, run), trial, run)


def settle_engine_of(model: OpenedModel, settings: CertifiedTrial, run: RunFolder) -> None:
    """As `settle_engine`, of an opened model."""
    folder = run.trial(settings.trial_id)
    before = agreement(folder)
    known = _agree(model.smoothed, settings, run, most=not folder.shard_files())
    if settings.certify.n >= COMPILE_FROM and known.engine is None:
        made = {engine.classifier(_shape(settings), settings.certify.n)[1] for engine in model.smoothed.engines}
        engine = made.pop() if len(made) == 1 else "eager"  # of the parts of a composed classifier all alike
        known = known.model_copy(update={"engine": engine})
    if known != before:
        known.write(folder.batch)


def certify_shard(trial: Trial, run: RunFolder, indices: list[int]) -> None:
    """Certify the test images at `indices` with the trial's model and write them as one shard.

    Raises:
        DataError, StoreError, CheckpointError: the data, the record or the weights are not usable.
    """
    with advance.without_steps("loading"):
        model = last_model(trial, run)
    certify_images(model, trial, run, indices)


def certify_images(model: OpenedModel, settings: CertifiedTrial, run: RunFolder, indices: list[int]) -> None:
    """Certify the test images at `indices` and write them as one shard of a trial.

    Raises:
        DataError: the data is not usable.
        ModelError: the model's outputs are not, or it cannot be run here as it was for the trial's other shards.
    """
    with advance.without_steps("loading"):
        _agree(model.smoothed, settings, run)
    rows = certified_rows(model, settings, indices)
    with advance.without_steps("writing"):
        write_shard(run.trial(settings.trial_id), rows)


def agreement(folder: TrialFolder) -> BatchRecord:
    """What those who certify a trial have agreed on so far."""
    return BatchRecord.read(folder.batch) if folder.batch.exists() else BatchRecord()


def _agree(
    smoothed: SmoothedClassifier, settings: CertifiedTrial, run: RunFolder, *, most: bool = False
) -> BatchRecord:
    """Classify as many samples at once, and by what, as was decided for all who certify the trial: what that is.

    Args:
        most: the number of samples is not decided yet, and may be smaller.
    """
    shape, engines = _shape(settings), smoothed.engines
    known = agreement(run.trial(settings.trial_id))
    for engine in engines:
        if known.batch is not None:
            engine.limit(known.batch)
        if known.engine is not None:
            engine.settle(known.engine)
    found = min(engine.passes(shape) for engine in engines)
    usual = engines[0].batch(shape)
    if found < (decided := min(known.batch or usual, usual)):
        if not most:
            raise ModelError(
                f"the model takes {found} images at once here, for want of memory, and other certificates of the trial "
                f"are of passes of {decided}, whose roundings differ"
            )
        known = known.model_copy(update={"batch": found})
    for engine in engines:
        engine.limit(found)
    return known


def _shape(settings: CertifiedTrial) -> torch.Size:
    return torch.Size(load_images(settings.data, "test", settings.dataset).images.shape[1:])


def certified_rows(model: OpenedModel, settings: CertifiedTrial, indices: list[int]) -> list[CertificateRow]:
    """The rows of the test images at `indices`."""
    images = load_images(settings.data, "test", settings.dataset)
    labels = images.labels[indices].tolist()
    pixels = torch.from_numpy(images.images[indices]).float() / 255
    smoothed = model.smoothed
    seed = settings.noise_seed(model.sha256)
    certificates = smoothed.iter_certify(pixels, settings.certify, seed=seed, indices=indices, labels=labels)
    clean: Sequence[int | None] = [None] * len(indices)
    noisy = clean
    if isinstance(smoothed, Smoothed):
        clean, noisy = smoothed.base_answers(pixels, settings.certify.n, seed=seed, indices=indices)
    meter = EnergyMeter(smoothed.device)
    rows, spent = [], meter.joules()
    for place, (index, label, certificate) in enumerate(zip(indices, labels, certificates, strict=True)):
        before, spent = spent, meter.joules()
        row = CertificateRow(
            **vars(certificate),
            trial_id=settings.trial_id,
            method=settings.name,
            sigma=settings.sigma,
            seed=settings.seed,
            dataset=settings.dataset,
            split=split_name(settings.data),
            index=index,
            label=label,
            correct=certificate.predicted == label,
            base_clean=clean[place],
            base_noisy=noisy[place],
            classifier=model.classifier,
            precision=smoothed.precision,
            device=device_name(smoothed.device),
            device_kind=smoothed.device.type,
            noise=NOISE,
            noise_seed=seed,
            torch_version=str(torch.__version__),
            checkpoint_sha256=model.sha256,
            joules=None if before is None or spent is None else spent - before,
        )
        rows.append(row)
    for engine in smoothed.engines:
        engine.check(pixels.shape[1:])
    return _with_two_sided_radii(rows, settings)


def _with_two_sided_radii(rows: list[CertificateRow], settings: CertifiedTrial) -> list[CertificateRow]:
    names = ("n", "selected", "alpha", "sigma", "lattice_pixels", "estimator")
    column = {name: np.array([getattr(row, name) for row in rows]) for name in names}
    counts, selection = (np.array([getattr(row, name) for row in rows]) for name in ("counts", "selection_counts"))
    radii = two_sided_radii(counts, column, samples_to_draw(selection, settings.bound)).tolist()
    return [
        row if np.isnan(radius) else row.model_copy(update={"radius_two_sided": radius})
        for row, radius in zip(rows, radii, strict=True)
    ]
