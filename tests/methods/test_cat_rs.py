"""CAT-RS: arithmetic worked by hand, a second plain way, and its traps.

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
from methods.attack import projected
from methods.cat_rs import divergence, moments
from tests.methods.steps import CLASSES, Small, by_table, gradients, make_step, norm_of, one_image, outcome, same


def test_the_easiest_copies_by_hand() -> None:
    method = get_method("cat_rs")
    losses = torch.tensor([0.9, 0.2, 2.0, 0.4], dtype=torch.float64)  # −log of the label's probability
    logits = torch.stack([(-losses).exp(), 1 - (-losses).exp()], dim=-1).log()[:, None]  # (4, 1, 2)
    right = (logits.argmax(-1) == 0).double().mean()
    assert float(right) == 0.5
    uniforms = torch.tensor([[0.1], [0.6], [0.49], [0.9]], dtype=torch.float64)  # two below 1/2: K = 2
    step = one_image(by_table([[0.0, 0.0]]), uniforms=uniforms)
    low, confident = method._low(logits, step)  # type: ignore[attr-defined]
    assert float(low) == pytest.approx((0.2 + 0.4) / 4)  # over m, not over K
    assert float(confident) == 0
    wrong = replace(step, labels=torch.tensor([1]), uniforms=torch.zeros(4, 1, dtype=torch.float64))
    all_wrong = torch.tensor([[[3.0, 0.0]], [[2.0, 0.0]], [[4.0, 0.0]], [[5.0, 0.0]]], dtype=torch.float64)
    low, confident = method._low(all_wrong, wrong)  # type: ignore[attr-defined]
    assert float(low) == pytest.approx(-math.log(1 / (1 + math.exp(2))) / 4)  # K = 1: the easiest copy
    assert float(confident) == 0


def test_the_number_of_copies_is_binomial() -> None:
    draws, copies = 200_000, 4
    uniforms = torch.rand((copies, draws), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    logits = torch.zeros((copies, draws, 2), dtype=torch.float64)
    logits[:3, :, 0], logits[3:, :, 1] = 1, 1  # three of four are right
    step = one_image(by_table([[0.0, 0.0]]), uniforms=uniforms, labels=torch.zeros(draws, dtype=torch.int64))
    _, confident = get_method("cat_rs")._low(logits, step)  # type: ignore[attr-defined]
    assert float(confident.mean()) == pytest.approx(0.75**4, abs=5 * math.sqrt(0.3164 * 0.6836 / draws))
    logits[3:, :, 0] = 2
    _, confident = get_method("cat_rs")._low(logits, step)  # type: ignore[attr-defined]
    assert confident.min() == 1  # w = 1: always all


def test_cat_rs_of_copies_that_are_all_right_is_gaussian_training() -> None:
    first, second = Small(), Small()
    step = make_step(first, copies=4)
    sure = replace(step, uniforms=torch.full((4, 6), -1.0, dtype=torch.float64))  # below every share, even 0: K = m
    value, found, _ = outcome(get_method("cat_rs", strength=0.0), first, sure)
    expected, wanted, _ = outcome(get_method("gaussian", copies=4), second, make_step(second, copies=4))
    assert value == pytest.approx(expected, rel=1e-12)
    assert same(found, wanted)


def plain_cat_rs(step: TrainingStep, model: nn.Module, options: dict[str, Any], **wrong: bool) -> Tensor:
    copies, batch = step.noise.shape[:2]
    p = step.memory["votes"].double()
    p = p / p.sum(1, keepdim=True)
    noise = step.noise
    model.train()
    statistics = {name: value.clone() for name, value in model.state_dict().items()}

    def kl(logits: Tensor) -> Tensor:
        q = logits.log_softmax(-1)
        return torch.where(p > 0, p * (p.clamp(min=1e-300).log() - q), 0.0).sum(-1)

    logits = model((step.images + noise).flatten(0, 1)).view(copies, batch, -1)
    d = noise
    for _ in range(options["steps"]):
        d = d.detach().requires_grad_()
        model.eval()
        loss = kl(model((step.images + d).flatten(0, 1)).view(copies, batch, -1)).mean(0).sum()
        model.train()
        [g] = torch.autograd.grad(loss, d)
        if wrong.get("shared"):
            g = g.mean(0, keepdim=True).expand_as(g)
        d = d.detach() + 2 * options["radius"] / options["steps"] * g / (norm_of(g)[..., None, None, None] + 1e-8)
        d = noise + projected(d - noise, options["radius"])
        if not wrong.get("moments_free"):
            numbers, original = d.flatten(2), noise.flatten(2)
            spread = original.pow(2).mean(2).sqrt() / numbers.pow(2).mean(2).sqrt()
            if wrong.get("about_the_mean"):
                spread = original.std(2, unbiased=False) / numbers.std(2, unbiased=False)
            centred = (numbers - numbers.mean(2, keepdim=True)) * spread[..., None]
            d = (original.mean(2, keepdim=True) + centred).view_as(d)
    if wrong.get("one_pass"):
        model.load_state_dict(statistics)
        both = torch.cat([step.images + noise, step.images + d])
        logits, second = model(both.flatten(0, 1)).view(2, copies, batch, -1)
    else:
        second = model((step.images + d).flatten(0, 1)).view(copies, batch, -1)
    high = kl(second).max(0).values
    judged = second if wrong.get("second_pass_share") else logits
    total = torch.zeros((), dtype=torch.float64)
    for i, label in enumerate(step.labels.tolist()):
        losses = sorted(F.cross_entropy(logits[:, i], step.labels[i].repeat(copies), reduction="none"), key=Tensor.item)
        share = float((judged[:, i].argmax(-1) == label).double().mean())
        successes = int((step.uniforms[:, i] < share).sum())
        k = successes if wrong.get("no_floor") else max(1, successes)
        low = sum(losses[:k], torch.zeros((), dtype=torch.float64)) / (max(k, 1) if wrong.get("over_k") else copies)
        total = total + low + options["strength"] * float(k == copies) * high[i]
    return total / batch


CAT: dict[str, Any] = {"steps": 3, "radius": 0.8, "strength": 2.0}


def test_cat_rs_a_second_way() -> None:
    first, second = Small(4), Small(4)
    value, found, statistics = outcome(get_method("cat_rs", **CAT), first, make_step(first, copies=4, batch=16))
    expected = plain_cat_rs(make_step(second, copies=4, batch=16), second, CAT)
    assert value == pytest.approx(expected.item(), rel=1e-9)
    assert same(found, gradients(second, expected), 1e-7)
    assert same(statistics, list(second.buffers()))


@pytest.mark.parametrize(
    "trap",
    ["over_k", "no_floor", "shared", "moments_free", "about_the_mean", "second_pass_share", "one_pass"],
)
def test_cat_rs_traps(trap: str) -> None:
    model, twin = Small(4), Small(4)
    step = make_step(model, copies=4, batch=64)
    step = replace(step, noise=step.noise + 0.3)  # a mean that is seen
    right = get_method("cat_rs", **CAT).training_loss(step).item()
    assert plain_cat_rs(step, twin, CAT).item() == pytest.approx(right, rel=1e-9)
    wrong = plain_cat_rs(step, Small(4), CAT, **{trap: True}).item()
    assert abs(wrong - right) > 1e-6 * right


def test_the_attacked_noise_keeps_its_moments_and_its_ball() -> None:
    model = Small()
    step = make_step(model, copies=4)
    target = F.one_hot(step.labels, CLASSES).double()  # votes are often all for one class: 0 log 0 is 0
    method = get_method("cat_rs", radius=0.5)
    attacked = method._attacked(step, target)  # type: ignore[attr-defined]
    for now, before in zip(moments(attacked), moments(step.noise), strict=True):
        assert torch.allclose(now, before, rtol=2e-2, atol=1e-9)
    assert torch.allclose(moments(attacked)[0], moments(step.noise)[0], atol=1e-12)
    assert norm_of(attacked - step.noise).max() < 0.5 * 1.05
    assert norm_of(attacked - step.noise).min() > 0.1
    still = get_method("cat_rs", radius=0.0)._attacked(step, target)  # type: ignore[attr-defined]
    assert torch.allclose(still, step.noise, atol=1e-12)
    assert divergence(target, model((step.images + attacked).flatten(0, 1)).view(4, 6, -1)).isfinite().all()


def test_cat_rs_has_its_teacher_and_as_many_uniforms_as_copies() -> None:
    method = get_method("cat_rs", copies=8)
    assert (method.uniforms, method.teacher_method, method.teacher_sigma) == (8, "gaussian", 0.25)
    assert method.teacher_copies == 10_000
