"""One shard of a trial's certificates, and how test images are cut into shards."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import pyarrow as pa
import torch

from bench.checkpoint import load_model
from bench.data import load_images
from bench.hardware import compute_reproducibly, device_name
from bench.settings import Trial
from bench.smoothing import Smoothed
from results.folder import RunFolder, read_json
from results.schema import CERTIFICATES
from results.shards import write_shard


def certify_shard(trial: Trial, run: RunFolder, indices: list[int]) -> None:
    """Certify the test images at `indices` with the trial's model and write them as one shard.

    Raises:
        DataError, CheckpointError: the data or the weights are not usable.
    """
    training = read_json(run.trial(trial.trial_id).training)
    checkpoint_sha256 = str(training["checkpoint_sha256"])
    smoothed = _opened(trial.model_dump_json(), run, int(training["num_classes"]), checkpoint_sha256)
    images = load_images(trial.data, "test")
    picked = images.images[indices].float() / 255
    labels = images.labels[indices].tolist()
    settings = trial.certify
    certificates = smoothed.iter_certify(
        picked, n0=settings.n0, n=settings.n, alpha=settings.alpha, seed=trial.noise_seed, indices=indices
    )
    rows = [
        {
            **vars(certificate),
            "trial_id": trial.trial_id,
            "method": trial.name,
            "sigma": trial.sigma,
            "seed": trial.seed,
            "dataset": trial.dataset,
            "split": "test",
            "index": index,
            "label": label,
            "status": "abstained" if certificate.predicted == -1 else "certified",
            "correct": certificate.predicted == label,
            "precision": smoothed.precision,
            "device": device_name(smoothed.device),
            "torch_version": torch.__version__,
            "checkpoint_sha256": checkpoint_sha256,
        }
        for index, label, certificate in zip(indices, labels, certificates, strict=True)
    ]
    table = pa.Table.from_pylist(rows, CERTIFICATES)
    write_shard(run.trial(trial.trial_id), table, trial_id=trial.trial_id, checkpoint_sha256=checkpoint_sha256)


@lru_cache(maxsize=1)
def _opened(settings: str, run: RunFolder, num_classes: int, checkpoint_sha256: str) -> Smoothed:  # noqa: ARG001
    """The model of a trial, kept between the shards of one worker; other weights are another model."""
    compute_reproducibly()
    trial = Trial.model_validate_json(settings)
    model = load_model(run, trial, num_classes)
    return Smoothed(model, trial.sigma, num_classes, precision=trial.certify.precision)


def split_shards(indices: list[int], size: int) -> list[list[int]]:
    """Cut sorted test indices into shards of at most `size`."""
    return [indices[first:last] for first, last in pairwise([*range(0, len(indices), size), len(indices)])]
