"""SmoothAdv: the best attack where it is known, a second plain way, and its traps.

The traps are the mistakes that a rewriting of the published program is likely to make: each is written down as the
wrong way to compute the same thing, and must give something else.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods import TrainingStep, get_method
from tests.methods.steps import CLASSES, SHAPE, Small, gradients, make_step, norm_of, outcome, same


def test_smoothadv_without_a_radius_is_gaussian_training() -> None:
    first, second = Small(), Small()
    value, found, statistics = outcome(get_method("smoothadv", radius=0.0, steps=2), first, make_step(first))
    expected, wanted, kept = outcome(get_method("gaussian", copies=2), second, make_step(second))
    assert value == pytest.approx(expected, rel=1e-12)
    assert same(found, wanted)
    assert same(statistics, kept)


class TwoClasses(nn.Module):
    """A linear f with two classes: the best attack is known."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.head = nn.Linear(math.prod(SHAPE), 2).double()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(images.flatten(1))
        return logits


def delta_of(method: Any, step: TrainingStep) -> Tensor:
    """What the method adds to the images of its training pass, the same for all copies."""
    shown: list[Tensor] = []

    def train(images: Tensor) -> Tensor:
        shown.append(images)
        return step.train(images)

    method.training_loss(replace(step, train=train))
    deltas = shown[-1] - step.noise - step.images
    assert torch.allclose(deltas, deltas[:1].expand_as(deltas), atol=1e-12)
    return deltas[0]


@pytest.mark.parametrize("steps", [1, 3, 10])
@pytest.mark.parametrize("copies", [1, 4])
def test_pgd_finds_the_best_attack_on_a_linear_classifier(steps: int, copies: int) -> None:
    model = TwoClasses()
    step = make_step(model, copies=copies, labels=torch.tensor([0, 1, 0, 1, 1, 0]))
    step = replace(step, images=torch.full_like(step.images, 0.5))  # no pixel is clipped
    delta = delta_of(get_method("smoothadv", radius=0.3, steps=steps, copies=copies), step)
    away = model.head.weight[1 - step.labels] - model.head.weight[step.labels]
    expected = 0.3 * away / away.norm(dim=1, keepdim=True)
    assert torch.allclose(delta.flatten(1), expected, atol=1e-6)


@pytest.mark.parametrize("attack", ["pgd", "ddn"])
def test_the_attack_stays_in_its_ball_and_among_images(attack: str) -> None:
    model = Small()
    step = make_step(model, copies=3, batch=20)
    delta = delta_of(get_method("smoothadv", radius=0.4, steps=6, attack=attack), step)
    level = 1e-6 if attack == "pgd" else 0.5 / 255  # DDN rounds last
    assert norm_of(delta).max() <= 0.4 + level * math.sqrt(math.prod(SHAPE))
    assert (step.images + delta).min() >= 0 - level - 1e-9
    assert (step.images + delta).max() <= 1 + level + 1e-9
    assert norm_of(delta).max() > 0.1


def test_the_radius_and_with_it_the_steps_grow_over_the_first_epochs() -> None:
    model = TwoClasses()
    step = replace(make_step(model, labels=torch.zeros(6, dtype=torch.int64)), epoch=2)
    step = replace(step, images=torch.full_like(step.images, 0.5))
    method = get_method("smoothadv", radius=0.3, steps=4, warmup_epochs=10)
    assert torch.allclose(norm_of(delta_of(method, step)), torch.tensor(0.3 * 3 / 10, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(
        norm_of(delta_of(method, replace(step, epoch=400))), torch.tensor(0.3, dtype=torch.float64), atol=1e-6
    )


def plain_pgd(step: TrainingStep, model: nn.Module, radius: float, steps: int, loss: str = "mean") -> Tensor:
    """A second way: image by image, with `backward`."""
    found = []
    model.eval()
    for i, label in enumerate(step.labels.tolist()):
        x, delta = step.images[i], torch.zeros(SHAPE, dtype=torch.float64)
        for _ in range(steps):
            delta = delta.detach().requires_grad_()
            probabilities = model(x + delta + step.noise[:, i]).softmax(-1)[:, label]
            value = -probabilities.mean().log() if loss == "mean" else -probabilities.log().mean()
            value.backward()
            assert delta.grad is not None
            moved = (x + delta + 2 * radius / steps * delta.grad / delta.grad.norm()).clamp(0, 1) - x
            delta = (moved * min(1.0, radius / (moved.norm().item() + 1e-7))).detach()
        found.append(delta)
    model.zero_grad()
    return torch.stack(found)


def test_pgd_a_second_way_and_its_traps() -> None:
    model = Small()
    step = make_step(model, copies=4)
    found = delta_of(get_method("smoothadv", radius=0.8, steps=3), step)
    twin = Small()  # whose statistics are those before the step
    assert torch.allclose(found, plain_pgd(step, twin, 0.8, 3), atol=1e-6)
    # The mean of the logarithms attacks the base classifier.
    assert not torch.allclose(found, plain_pgd(step, twin, 0.8, 3, "each"), atol=1e-3)
    half = plain_pgd(step, twin, 0.4, 3)  # steps of ε/T
    assert not torch.allclose(found, half, atol=1e-3)


def test_without_a_gradient_the_attack_goes_somewhere_at_random() -> None:
    sure = torch.tensor([[-300.0, 0.0, 0.0, 0.0]], dtype=torch.float64)

    def attack(images: Tensor) -> Tensor:
        return sure.expand(*images.shape[:2], -1) + 0 * images.sum()  # the label's mean is below the clamp

    model = Small()
    step = make_step(model, labels=torch.zeros(6, dtype=torch.int64))
    delta = delta_of(get_method("smoothadv", radius=0.5, steps=1), replace(step, attack=attack))
    assert delta.isfinite().all()
    assert norm_of(delta).min() > 0.2
    assert len({round(float(value), 9) for value in delta.flatten(1)[:, 0]}) == 6


def plain_ddn(step: TrainingStep, model: nn.Module, radius: float, steps: int) -> Tensor:
    found = []
    model.eval()
    for i, label in enumerate(step.labels.tolist()):
        x, delta, best = step.images[i], *torch.zeros((2, *SHAPE), dtype=torch.float64)
        longest = shortest = float(torch.maximum(x, 1 - x).norm())
        length = radius
        for number in range(1, steps + 1):
            delta = delta.detach().requires_grad_()
            logits = model(x + delta + step.noise[:, i])
            (-logits.softmax(-1)[:, label].mean().log()).backward()
            votes = logits.argmax(-1).bincount(minlength=CLASSES)
            wrong = int(votes.argmax()) != label  # the first of the most frequent, as torch.mode
            assert delta.grad is not None
            here, gradient = delta.detach(), delta.grad
            if wrong and float(here.norm()) < shortest:
                best, shortest = here, float(here.norm())
            here = here + (0.01 + 0.495 * (1 + math.cos(math.pi * number / steps))) * gradient / gradient.norm()
            length = min(length * (0.95 if wrong else 1.05), longest)
            delta = (((x + length * here / here.norm()) * 255).round() / 255).clamp(0, 1) - x
        kept = best * min(1.0, radius / (float(best.norm()) + 1e-7))
        found.append((kept * 255).round() / 255)
    model.zero_grad()
    return torch.stack(found)


def test_ddn_a_second_way_and_nothing_where_the_image_is_wrong_already() -> None:
    model = Small()
    step = make_step(model, copies=3, batch=24)
    found = delta_of(get_method("smoothadv", radius=0.6, steps=8, attack="ddn"), step)
    twin = Small()
    assert torch.allclose(found, plain_ddn(step, twin, 0.6, 8), atol=1e-9)
    twin.eval()
    answers = twin((step.images + step.noise).flatten(0, 1)).view(3, 24, -1).argmax(-1).mode(dim=0).values
    wrong = answers != step.labels
    assert wrong.any()
    assert (~wrong).any()
    assert found[wrong].abs().max() < 1e-12
    assert found[~wrong].abs().max() > 1e-2


def test_smoothadv_trains_in_training_mode_on_the_noise_that_was_attacked() -> None:
    model = Small()
    step = make_step(model)
    before = [buffer.clone() for buffer in model.buffers()]
    method = get_method("smoothadv", radius=0.5, steps=3)
    found = gradients(model, method.training_loss(step))
    twin = Small()
    delta = plain_pgd(step, twin, 0.5, 3)
    copies = step.images + delta + step.noise
    loss = F.cross_entropy(twin.train()(copies.flatten(0, 1)), step.labels.repeat(2))
    assert same(found, gradients(twin, loss), 1e-5)
    assert not same(before, list(model.buffers()))
    assert same(list(model.buffers()), list(twin.buffers()), 1e-5)  # one pass, not four
