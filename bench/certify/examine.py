"""Whether a model fits the data, and is the one that it was: what it answers to fixed images.

Weights are not all that decides a model: constants, code and configuration do too, and whatever they are, they show in
its answers.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.certify.engine import Engine
from bench.data import ImageSet
from bench.machine.devices import own_device
from bench.models.classifier import channels_of
from bench.models.external import MATTERS, ModelError
from bench.models.sources import Source, SourceError
from results.store.records import TrainingRecord
from results.store.settings import CertifiedTrial, ComposedTrial
from results.store.shards import evenly_spaced

NOISE, IMAGES, DIRECTIONS = 32, 32, 8
ROUNDING = 1e-3
"""Share of the largest answer by which those of one model may differ between machines."""
HOMONYMS = 100
"""Of so many names that a model and the data share, one may mean two classes, such as the machine and the bird that are
called crane."""

logger = logging.getLogger("bench")


def examine(source: Source, data: ImageSet) -> tuple[int, list[list[float]]]:
    """The number of logits for an image of the data, which may be more than the classes that the data shows, and what
    the model answers to fixed images (`answers_of`).

    Raises:
        SourceError: there are fewer, they are NaN, the model cannot take such images or was trained on those of another
            number of channels, or its answers are not those of a function of the image.
    """
    classes, answers = _answers(source, data)
    if classes < data.num_classes:
        raise SourceError(f"{source.name} gives {classes} logits for an image, expected {data.num_classes}")
    _refuse_other_order(source, data)
    return classes, answers


def _answers(source: Source, data: ImageSet) -> tuple[int, list[list[float]]]:
    """`answers_of` a model, if it takes images of so many channels."""
    trained_on = channels_of(source.model) or data.channels
    if trained_on != data.channels:  # one channel would pass, stretched to three by the normalisation
        plural = "s" if trained_on > 1 else ""
        raise SourceError(
            f"{source.name} takes images of {trained_on} channel{plural}, those of the data have {data.channels}"
        )
    try:
        return answers_of(Engine(source.model, own_device(), "fp32"), data)
    except ModelError as error:
        raise SourceError(f"{source.name}: {error}") from error


def examine_trial(source: Source, settings: CertifiedTrial, data: ImageSet) -> tuple[int, list[list[float]]]:
    """As `examine`; of a composed classifier the number of logits of each of its classifiers, and the answers of all
    parts one after another.

    Raises:
        SourceError: as `examine`; also where the selector has not one logit for each classifier, or these differ in
            theirs.
    """
    if not isinstance(settings, ComposedTrial):
        return examine(source, data)
    first = 1 if settings.composition == "dual" else 0
    found = [examine(part, data) for part in source.parts[first:]]
    for part, (classes, _) in zip(source.parts[first:], found, strict=True):
        if classes != found[0][0]:
            raise SourceError(
                f"{part.name} gives {classes} logits for an image, {source.parts[first].name} {found[0][0]}"
            )
    answers = [answer for _, own in found for answer in own]
    for selector in source.parts[:first]:
        logits, own = _answers(selector, data)
        if logits != len(found):
            raise SourceError(f"{selector.name} gives {logits} logits for an image, but selects among {len(found)}")
        answers = own + answers
    return found[0][0], answers


def refuse_other_answers(source: Source, trial_id: str, training: TrainingRecord, answers: list[list[float]]) -> None:
    """
    Args:
        training: the record of the trial; it has answers where the model was not trained in the run.

    Raises:
        SourceError: the model answers otherwise than when the trial was certified.
    """
    known = training.answers
    if known is None:
        return
    parts = source.parts or (source,)
    size = len(answers) // len(parts)
    for place, part in enumerate(parts):
        own = slice(place * size, (place + 1) * size)
        if differs := difference(known[own], answers[own]):
            raise SourceError(
                f"{part.where}: has the weights that {trial_id} certified but gives other answers, by up to "
                f"{differs:.1%} on fixed images: its code, a constant or its configuration has changed; certify it as "
                "another model, under another name or --out"
            )


def _refuse_other_order(source: Source, data: ImageSet) -> None:
    """Raise SourceError where the model says in which order it has its classes, and a class of the data has another
    number there: of many classes that both have, more than one in `HOMONYMS`. Fewer are named in a warning."""
    stated = _stated_classes(source)
    own, known = (_numbers(names) for names in (stated, data.classes or ()))
    shared = [name for name in own if name in known]
    displaced = [name for name in shared if own[name] != known[name]]
    if len(displaced) > len(shared) // HOMONYMS:
        number = own[displaced[0]]
        raise SourceError(
            f"{source.name}: has {stated[number]} as class {number}, the data as {known[displaced[0]]}; the data's "
            f"order is {', '.join(data.classes or ())}, which numbers as names of its folders can change"
        )
    if displaced:
        names = ", ".join(stated[own[name]] for name in displaced)
        logger.warning("%s: has other numbers than the data for %s: taken for homonyms", source.name, names)


def _numbers(names: Sequence[str]) -> dict[str, int]:
    """The number of each class by its name, without those that two have, as two of ImageNet's are cranes, and those
    that are numbers themselves: they say nothing."""
    spelled = [_spelled(name) for name in names]
    times = Counter(spelled)
    return {name: number for number, name in enumerate(spelled) if times[name] == 1 and not names[number].isdecimal()}


def _stated_classes(source: Source) -> list[str]:
    """The names of a model's classes where it has them: from our training, or as torchvision and transformers keep
    them; empty where it does not say."""
    model, config = source.model, getattr(source.model, "config", None)
    candidates: list[Any] = [source.training and source.training.classes, getattr(config, "id2label", None)]
    candidates += [getattr(model, name, None) for name in ("classes", "class_names")]
    for found in candidates:
        names = [found[key] for key in sorted(found, key=int)] if isinstance(found, dict) else found
        if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
            return list(names)
    return []


def _spelled(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum())


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
    logits = logits.clamp(-1e6, 1e6)
    # Where a class is masked, it would else be all that the answers tell.
    logits = logits.clamp(min=logits.amax(dim=1, keepdim=True) - MATTERS)
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
