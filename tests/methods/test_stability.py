"""Stability training: arithmetic worked by hand, a second plain way, and its traps.

The traps are the mistakes that a rewriting of the published program is likely to make: each is written down as the
wrong way to compute the same thing, and must give something else.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from methods import get_method
from tests.methods.steps import Small, by_table, gradients, make_step, one_image, same


@pytest.mark.parametrize(("b", "value", "slope"), [(0.0, 3 * math.log(2), None), (math.log(3), 2.3671, -1.0493)])
def test_stability_by_hand(b: float, value: float, slope: float | None) -> None:
    passes = by_table([[0.0, 0.0]], [[b, 0.0]])
    loss = get_method("stability", strength=2.0).training_loss(one_image(passes))
    assert loss.item() == pytest.approx(value, abs=1e-4)
    if slope is not None:  # of the target too: detached it would be −1/2
        loss.backward()
        assert float(passes.queue[0].grad[0, 0]) == pytest.approx(slope, abs=1e-4)  # type: ignore[attr-defined]


def test_stability_without_noise_adds_the_entropy_and_without_strength_trains_on_clean_images() -> None:
    model = Small()
    step = make_step(model, copies=1)
    still = replace(step, noise=torch.zeros_like(step.noise))
    logits = model.train()(step.images)
    entropy = -(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean()
    clean = F.cross_entropy(logits, step.labels)
    still_loss = get_method("stability", strength=2.0).training_loss(still)
    assert still_loss.item() == pytest.approx((clean + 2 * entropy).item(), rel=1e-12)
    plain = get_method("stability", strength=0.0).training_loss(step)
    assert same(gradients(model, plain), gradients(model, F.cross_entropy(model(step.images), step.labels)))


def test_stability_traps() -> None:
    model = Small()
    step = make_step(model, copies=1)
    right = get_method("stability").training_loss(step).item()

    together = model.train()(torch.cat([step.images, step.images + step.noise[0]]))  # one set of batch statistics
    clean, noisy = together.chunk(2)
    target = clean.softmax(-1)
    mixed = F.cross_entropy(clean, step.labels) - 2 * (target * noisy.log_softmax(-1)).sum(-1).mean()
    assert abs(mixed.item() - right) > 1e-3 * right

    clean, noisy = model(step.images), model(step.images + step.noise[0])
    on_noisy = F.cross_entropy(noisy, step.labels) - 2 * (clean.softmax(-1) * noisy.log_softmax(-1)).sum(-1).mean()
    assert abs(on_noisy.item() - right) > 1e-3 * right

    def first_gradient(loss: Tensor) -> Tensor:
        return gradients(model, loss)[0]

    found = first_gradient(get_method("stability").training_loss(step))
    clean, noisy = model(step.images), model(step.images + step.noise[0])
    accuracy = F.cross_entropy(clean, step.labels)
    detached = accuracy - 2 * (clean.softmax(-1).detach() * noisy.log_softmax(-1)).sum(-1).mean()
    clean, noisy = model(step.images), model(step.images + step.noise[0])
    relative = F.kl_div(noisy.log_softmax(-1), clean.softmax(-1), reduction="batchmean")
    entropy_free = F.cross_entropy(clean, step.labels) + 2 * relative
    for wrong in (detached, entropy_free):
        assert (first_gradient(wrong) - found).norm() > 1e-2 * found.norm()


def test_stability_leaves_the_statistics_of_the_noisy_pass_last() -> None:
    model, twin = Small(), Small()
    step = make_step(model, copies=1)
    get_method("stability").training_loss(step)
    twin.train()(step.images)
    twin(step.images + step.noise[0])
    assert same(list(model.buffers()), list(twin.buffers()))
