"""PREDICT on test images, and what tells a model that was not trained with noise from one whose labels are others."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch

from bench.certify.engine import Engine
from bench.certify.examine import examine
from bench.certify.smoothing import ABSTAIN, Smoothed
from bench.data import ImageSet
from bench.machine.normals import NormalStream
from bench.machine.randomness import Role
from bench.models.sources import Source
from results.store.settings import Precision
from results.store.shards import evenly_spaced

AT_ONCE = 64
"""Images that are in memory."""


@dataclass(frozen=True)
class Predictions:
    """The answers of a smoothed classifier, and of its base classifier, on test images."""

    rows: pd.DataFrame
    """`index, label, answer` (of PREDICT; −1: it abstains), `clean` and `noisy` (of the base classifier on the image
    itself, and on one noise sample of it)."""

    def shares(self) -> dict[str, float]:
        """Of the images: answered as their label, abstained on, and right by the base classifier without noise and with
        one noise sample."""
        rows = self.rows
        return {
            "accuracy": float((rows["answer"] == rows["label"]).mean()),
            "abstained": float((rows["answer"] == ABSTAIN).mean()),
            "base_accuracy_without_noise": float((rows["clean"] == rows["label"]).mean()),
            "base_accuracy_on_one_noise_sample": float((rows["noisy"] == rows["label"]).mean()),
        }


@dataclass(frozen=True)
class Asked:
    """What is asked of a smoothed classifier."""

    sigma: float
    n: int
    alpha: float
    images: int | None
    """Evenly spaced test images; all where not given."""
    precision: Precision
    seed: int


def predict_source(source: Source, data: ImageSet, asked: Asked) -> Predictions:
    """PREDICT (Cohen et al. 2019, section 3.2.1) with a model on test images.

    Raises:
        SourceError, ModelError, BenchError: as `examine` and `Smoothed.predict`.
    """
    classes, _ = examine(source, data)
    smoothed = Smoothed(source.model, asked.sigma, classes, precision=asked.precision)
    engine = Engine(source.model, smoothed.device, smoothed.precision)
    classify, _ = engine.classifier(torch.Size(data.images.shape[1:]), 1)
    stream, rows = NormalStream(asked.seed, Role.TEST_NOISE, 0), []
    wanted = evenly_spaced(len(data), asked.images)
    for first in range(0, len(wanted), AT_ONCE):
        indices = wanted[first : first + AT_ONCE]
        pixels = torch.from_numpy(data.images[indices]).float() / 255
        part = pd.DataFrame({"index": indices, "label": data.labels[indices]})
        part["answer"] = smoothed.predict(pixels, n=asked.n, alpha=asked.alpha, seed=asked.seed, indices=indices)
        noise = stream.draw(first, pixels.shape, smoothed.device)
        pixels = pixels.to(smoothed.device)
        with torch.inference_mode():
            part["clean"] = classify(pixels).argmax(dim=1).tolist()
            part["noisy"] = classify(pixels + asked.sigma * noise).argmax(dim=1).tolist()
        rows.append(part)
    return Predictions(pd.concat(rows, ignore_index=True))
