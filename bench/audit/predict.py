"""PREDICT on test images, and what tells a model that was not trained with noise from one whose labels are others."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch

from bench.certify.composed import smoothed_source
from bench.certify.engine import Engine
from bench.certify.examine import examine_trial
from bench.certify.smoothing import ABSTAIN, Smoothed
from bench.data import ImageSet
from bench.machine.normals import NormalStream
from bench.machine.randomness import Role
from bench.models.sources import Source
from results.store.settings import CertifiedTrial
from results.store.shards import evenly_spaced

AT_ONCE = 64
"""Images that are in memory."""


@dataclass(frozen=True)
class Predictions:
    """The answers of a smoothed classifier, and of its base classifier, on test images."""

    rows: pd.DataFrame
    """`index, label, answer` (of PREDICT; −1: it abstains), `clean` and `noisy` (of the base classifier on the image
    itself, and on one noise sample of it; a composed classifier has no one base classifier)."""

    def shares(self) -> dict[str, float]:
        """Of the images: answered as their label, abstained on, and right by the base classifier without noise and with
        one noise sample."""
        rows = self.rows
        called = {
            "answer": "accuracy",
            "clean": "base_accuracy_without_noise",
            "noisy": "base_accuracy_on_one_noise_sample",
        }
        right = {
            said: float((rows[column] == rows["label"]).mean()) for column, said in called.items() if column in rows
        }
        return {"accuracy": right.pop("accuracy"), "abstained": float((rows["answer"] == ABSTAIN).mean()), **right}


def predict_source(source: Source, settings: CertifiedTrial, data: ImageSet, *, n: int, alpha: float) -> Predictions:
    """PREDICT (Cohen et al. 2019, section 3.2.1) with a model, or with several that are composed, on test images.

    Args:
        settings: say σ, seed, precision and, of what is certified, how many images.
        n: noise samples of an image; of a composed classifier, of each part that is asked.
        alpha: probability that an answer is not that of the smoothed classifier.

    Raises:
        SourceError, ModelError, BenchError: as `examine_trial` and `Smoothed.predict`.
    """
    classes, _ = examine_trial(source, settings, data)
    smoothed = smoothed_source(source, settings, classes)
    base = None  # a decomposition included, behind which `smoothed` has its own
    if isinstance(smoothed, Smoothed):
        base = Engine(source.model, smoothed.device, smoothed.precision).classifier(
            torch.Size(data.images.shape[1:]), 1
        )[0]
    wanted, rows = evenly_spaced(len(data), settings.certify.images), []
    for first in range(0, len(wanted), AT_ONCE):
        indices = wanted[first : first + AT_ONCE]
        pixels = torch.from_numpy(data.images[indices]).float() / 255
        part = pd.DataFrame({"index": indices, "label": data.labels[indices]})
        part["answer"] = smoothed.predict(pixels, n=n, alpha=alpha, seed=settings.seed, indices=indices)
        if base:
            noise = NormalStream(settings.seed, Role.TEST_NOISE, 0).draw(first, pixels.shape, smoothed.device)
            pixels = pixels.to(smoothed.device)
            with torch.inference_mode():
                part["clean"] = base(pixels).argmax(dim=1).tolist()
                part["noisy"] = base(pixels + settings.sigma * noise).argmax(dim=1).tolist()
        rows.append(part)
    return Predictions(pd.concat(rows, ignore_index=True))
