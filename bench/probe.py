"""What a model answers to fixed images. Weights are not all that decides a model: constants, code and configuration do
too, and whatever they are, they show in its answers."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bench.data import ImageSet
from bench.engine import Engine, ModelError
from results.shards import evenly_spaced

NOISE, IMAGES, DIRECTIONS = 32, 32, 8
ROUNDING = 1e-3
"""Share of the largest answer by which those of one model may differ between machines."""


def answers_of(engine: Engine, data: ImageSet) -> tuple[int, list[list[float]]]:
    """The number of logits, and 64 answers of 8 numbers each: the logits on noise of several brightnesses and contrasts
    and on test images with noise, projected onto fixed directions.

    Raises:
        ModelError: the model cannot be certified on such images.
    """
    images = _probes(data)
    classify = engine.differentiable(images.shape[1:])
    with torch.inference_mode():
        logits = classify(images.to(engine.device)).double().cpu()
    if logits.isnan().any():
        raise ModelError("the model gave NaN")
    logits = logits.clamp(-1e6, 1e6)  # where a class is masked by an infinity
    classes = logits.shape[1]
    directions = torch.randn(classes, DIRECTIONS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    answers = logits @ directions / classes**0.5
    return classes, [[float(f"{value:.7g}") for value in row] for row in answers.tolist()]


def difference(first: list[list[float]], second: list[list[float]]) -> float:
    """The largest difference of two models' answers, as a share of the largest answer; 0 where it is rounding."""
    a, b = np.array(first), np.array(second)
    if a.shape != b.shape:
        return 1.0
    share = float(np.abs(a - b).max() / max(np.abs(a).max(), np.abs(b).max(), 1e-30))
    return share if share > ROUNDING else 0.0


def _probes(data: ImageSet) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = data.images.shape[1:]
    brightness = torch.linspace(0, 1, NOISE).view(-1, *[1] * len(shape))
    contrast = torch.linspace(0.05, 1, 8).repeat(NOISE // 8).view_as(brightness)
    noise = brightness + contrast * (torch.rand((NOISE, *shape), generator=generator) - 0.5)
    picked = evenly_spaced(len(data), min(IMAGES, len(data)))
    images = torch.from_numpy(data.images[picked]).float() / 255
    noisy = images + 0.5 * (torch.rand(images.shape, generator=generator) - 0.5)
    return torch.cat([noise, noisy])
