"""One shard of a trial's certificates."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from bench.certify.smoothing import Smoothed
from bench.data import load_images
from bench.machine.energy import EnergyMeter
from bench.machine.hardware import device_name
from bench.models.checkpoint import load_verified
from bench.models.classifier import kind_of
from bench.settings.trial import Certified, Precision, Trial
from results.store.folder import RunFolder, TrialFolder, read_json, write_json
from results.store.merge import copies_to_draw, two_sided_radii
from results.store.schema import CERTIFICATES
from results.store.shards import write_shard


def certify_shard(trial: Trial, run: RunFolder, indices: list[int]) -> None:
    """Certify the test images at `indices` with the trial's model and write them as one shard.

    Raises:
        DataError, CheckpointError: the data or the weights are not usable.
    """
    training = read_json(run.trial(trial.trial_id).training)
    sha256 = str(training["checkpoint_sha256"])
    precision: Precision = trial.certify.precision
    if precision == "auto":  # of the machine that trained: workers of several kinds certify the same classifier
        precision = training.get("auto_precision", "auto")
    smoothed, classifier = _opened(trial.model_dump_json(), run, int(training["num_classes"]), sha256, precision)
    certify_images(smoothed, classifier, trial, run, indices, sha256)


def certify_images(
    smoothed: Smoothed, classifier: str, settings: Certified, run: RunFolder, indices: list[int], sha256: str
) -> None:
    """Certify the test images at `indices` and write them as one shard of a trial.

    Args:
        classifier: how it is made of networks, for the rows.
        sha256: of the weights.

    Raises:
        DataError: the data is not usable.
        ValueError: the model's outputs are not.
    """
    _agree_on_batch(smoothed, settings, run)
    table = pa.Table.from_pylist(certified_rows(smoothed, classifier, settings, indices, sha256), CERTIFICATES)
    write_shard(run.trial(settings.trial_id), table, trial_id=settings.trial_id, checkpoint_sha256=sha256)


def _agree_on_batch(smoothed: Smoothed, settings: Certified, run: RunFolder) -> None:
    """Have all who certify a trial, now or later, classify as many copies at once as the weakest of them can."""
    folder = run.trial(settings.trial_id)
    shape = torch.Size(load_images(settings.data, "test", settings.dataset).images.shape[1:])
    known = read_json(folder.batch, "batch")["batch"] if folder.batch.exists() else None
    if known is not None:
        smoothed.engine.limit(known)
    found = smoothed.engine.passes(shape)
    if found < (known or smoothed.engine.batch(shape)):
        write_batch(folder, found)


def write_batch(folder: TrialFolder, batch: int) -> None:
    """For who certifies the trial: images of a forward pass, where they are fewer than usual."""
    write_json(folder.batch, {"batch": batch})


def certified_rows(
    smoothed: Smoothed, classifier: str, settings: Certified, indices: list[int], sha256: str
) -> list[dict[str, Any]]:
    """The rows of `results.store.schema.CERTIFICATES` for the test images at `indices`."""
    images = load_images(settings.data, "test", settings.dataset)
    labels = images.labels[indices].tolist()
    certify = settings.certify
    certificates = smoothed.iter_certify(
        torch.from_numpy(images.images[indices]).float() / 255,
        n0=certify.n0,
        n=certify.n,
        alpha=certify.alpha,
        seed=settings.noise_seed,
        indices=indices,
        labels=labels if certify.skip_misclassified else None,
        estimator=certify.estimator,
    )
    meter = EnergyMeter(smoothed.device)
    rows, spent = [], meter.joules()
    for index, label, certificate in zip(indices, labels, certificates, strict=True):
        before, spent = spent, meter.joules()
        row = {
            **vars(certificate),
            "trial_id": settings.trial_id,
            "method": settings.name,
            "sigma": settings.sigma,
            "seed": settings.seed,
            "dataset": settings.dataset,
            "split": "test",
            "index": index,
            "label": label,
            "correct": certificate.predicted == label,
            "classifier": classifier,
            "precision": smoothed.precision,
            "device": device_name(smoothed.device),
            "device_kind": smoothed.device.type,
            "torch_version": torch.__version__,
            "checkpoint_sha256": sha256,
            "joules": None if before is None or spent is None else spent - before,
        }
        rows.append(row)
    column = {name: np.array([row[name] for row in rows]) for name in ("n", "selected", "alpha", "sigma")}
    counts, selection = (np.array([row[name] for row in rows]) for name in ("counts", "selection_counts"))
    planned = copies_to_draw(selection, certify.model_dump())
    for row, radius in zip(rows, two_sided_radii(counts, column, planned).tolist(), strict=True):
        row["radius_two_sided"] = None if np.isnan(radius) else radius
    return rows


@lru_cache(maxsize=1)
def _opened(
    settings: str,
    run: RunFolder,
    num_classes: int,
    sha256: str,  # noqa: ARG001
    precision: Precision,
) -> tuple[Smoothed, str]:
    """The model of a trial, kept between the shards of one worker; other weights are another model."""
    trial = Trial.model_validate_json(settings)
    model = load_verified(run, trial, num_classes)
    return Smoothed(model, trial.sigma, num_classes, precision=precision), kind_of(model)
