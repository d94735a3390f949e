"""SmoothMix: a second plain way, what it is at its limits, and its traps.

The traps are the mistakes that a rewriting of the published program is likely to make: each is written down as the
wrong way to compute the same thing, and must give something else.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods import TrainingStep, get_method
from methods.attack import projected
from tests.methods.steps import CLASSES, Small, gradients, make_step, norm_of, outcome, same


def plain_smoothmix(step: TrainingStep, model: nn.Module, options: dict[str, Any], **wrong: bool) -> Tensor:
    """A second way, which can be told to walk into a trap."""
    warmth = min(1.0, (step.epoch + 1) / 10)
    alpha, mix_step = options["step_size"], options["mix_step"]
    path = [step.images]
    model.eval()
    for _ in range(options["steps"]):
        x = path[-1].detach().requires_grad_()
        probabilities = torch.stack([model(x + noise).softmax(-1) for noise in step.noise]).mean(0)
        loss = -probabilities[torch.arange(len(x)), step.labels].log().sum()
        [g] = torch.autograd.grad(loss, x)
        path.append((x + alpha * g / (norm_of(g)[:, None, None, None] + 1e-8)).detach().clamp(0, 1))
    model.train()
    far, near = path[-1], step.images
    if mix_step:
        near = (near + projected(path[mix_step] - near, warmth * alpha * mix_step)).clamp(0, 1)
    v = step.uniforms[0] if wrong.get("whole_interval") else step.uniforms[0] / 2
    at = v[:, None, None, None]
    mixed = (1 - at) * near + at * far
    first, second = near + step.noise, mixed + step.noise
    if wrong.get("one_pass"):
        logits, other = model(torch.cat([first, second]).flatten(0, 1)).view(2, *first.shape[:2], -1)
    else:
        logits = model(first.flatten(0, 1)).view(*first.shape[:2], -1)
        other = model(second.flatten(0, 1)).view(*first.shape[:2], -1)
    mean = logits.softmax(-1).mean(0)
    inside = F.one_hot(step.labels, CLASSES).double() if wrong.get("one_hot") else mean
    inside = inside.detach() if wrong.get("detached") else inside
    target = (1 - v[:, None]) * inside + v[:, None] / CLASSES
    deciding = logits.mean(0) if wrong.get("mask_of_logits") else mean
    mask = (deciding.argmax(-1) == step.labels).double()
    kl = (target * (target.log() - other.log_softmax(-1))).sum(-1).mean(0)
    if wrong.get("exchanged"):
        kl = (other.softmax(-1) * (other.log_softmax(-1) - target.log())).sum(-1).mean(0)
    average = (mask * kl).sum() / mask.sum() if wrong.get("correct_only") else (mask * kl).mean()
    shown = model((step.images + step.noise).flatten(0, 1)).view_as(logits) if wrong.get("at_x") else logits
    accuracy = F.cross_entropy(shown.flatten(0, 1), step.labels.repeat(len(step.noise)))
    total: Tensor = accuracy + options["strength"] * warmth * average
    return total


MIX: dict[str, Any] = {"steps": 3, "step_size": 0.4, "mix_step": 1, "strength": 5.0}


@pytest.mark.parametrize("mix_step", [0, 1, 2])
@pytest.mark.parametrize("epoch", [0, 3, 50])
def test_smoothmix_a_second_way(mix_step: int, epoch: int) -> None:
    first, second = Small(2), Small(2)
    options = MIX | {"mix_step": mix_step}
    step = replace(make_step(first, batch=16), epoch=epoch)
    value, found, statistics = outcome(get_method("smoothmix", **options), first, step)
    expected = plain_smoothmix(make_step(second, batch=16, epoch=epoch), second, options)
    assert value == pytest.approx(expected.item(), rel=1e-9)
    assert same(found, gradients(second, expected), 1e-7)
    assert same(statistics, list(second.buffers()))


@pytest.mark.parametrize(
    "trap",
    ["at_x", "detached", "whole_interval", "one_hot", "correct_only", "one_pass", "mask_of_logits", "exchanged"],
)
def test_smoothmix_traps(trap: str) -> None:
    model = Small(2)
    step = make_step(model, copies=4, batch=64)
    right = gradients(model, get_method("smoothmix", **MIX).training_loss(step))
    wrong = gradients(model, plain_smoothmix(step, model, MIX, **{trap: True}))
    difference = sum(float((a - b).norm()) for a, b in zip(right, wrong, strict=True))
    assert difference > 1e-3 * sum(float(a.norm()) for a in right)


def test_smoothmix_without_its_second_item_is_gaussian_training() -> None:
    first, second = Small(), Small()
    value, found, _ = outcome(get_method("smoothmix", strength=0.0, mix_step=0), first, make_step(first))
    expected, wanted, _ = outcome(get_method("gaussian", copies=2), second, make_step(second))
    assert value == pytest.approx(expected, rel=1e-12)
    assert same(found, wanted)


def test_smoothmix_that_goes_nowhere_is_the_generalised_objective() -> None:
    first, second = Small(), Small()
    step = make_step(first, batch=16, uniforms=torch.zeros(2, 16, dtype=torch.float64))
    value, found, _ = outcome(get_method("smoothmix", step_size=0.0, mix_step=0), first, step)
    options: dict[str, Any] = {"accuracy_item": "per_sample", "mask": "mean_probabilities", "entropy_weight": 0.0}
    expected, wanted, _ = outcome(
        get_method("generalised", strength=5.0, copies=2, **options), second, make_step(second, batch=16)
    )
    assert value == pytest.approx(expected, rel=1e-9)
    assert same(found, wanted, 1e-7)


def test_smoothmix_of_misclassified_images_is_cross_entropy_at_the_near_image() -> None:
    model = Small()
    step = make_step(model, batch=6)
    model.train()
    answers = model((step.images + step.noise).flatten(0, 1)).view(2, 6, -1).softmax(-1).mean(0).argmax(-1)
    step = replace(step, labels=(answers + 1) % CLASSES)
    value = get_method("smoothmix", mix_step=0).training_loss(step)
    plain = F.cross_entropy(model((step.images + step.noise).flatten(0, 1)), step.labels.repeat(2))
    assert value.item() == pytest.approx(plain.item(), rel=1e-12)
