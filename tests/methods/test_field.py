"""The field's other methods: arithmetic worked by hand, a second plain way, gradients, invariants, and their traps.

The traps are the mistakes that a rewriting of the published programs is likely to make: each is written down as the
wrong way to compute the same thing, and must give something else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import beta, norm
from torch import Tensor, nn

from methods import TrainingStep, get_method
from methods.attack import projected
from methods.cat_rs import divergence, moments
from tests.methods.steps import CLASSES, SHAPE, Small, gradients, make_step, outcome, same


def norm_of(values: Tensor) -> Tensor:
    lengths: Tensor = values.flatten(-3).norm(dim=-1)
    return lengths


def by_table(*answers: list[list[float]]) -> Callable[[Tensor], Tensor]:
    """A stand-in for a forward pass: the logits of one pass after another, whatever the images."""
    queue = [torch.tensor(logits, dtype=torch.float64, requires_grad=True) for logits in answers]
    seen: list[Tensor] = []

    def passed(images: Tensor) -> Tensor:
        seen.append(images)
        return queue[len(seen) - 1][None].expand(len(images), -1, -1)

    passed.queue, passed.seen = queue, seen  # type: ignore[attr-defined]
    return passed


def one_image(train: Callable[[Tensor], Tensor], **changes: Any) -> TrainingStep:
    return replace(make_step(Small(), copies=1, batch=1, labels=torch.tensor([0])), train=train, **changes)


# --- stability ------------------------------------------------------------------------------------------------------


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


# --- SmoothAdv ------------------------------------------------------------------------------------------------------


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


# --- SmoothMix ------------------------------------------------------------------------------------------------------


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


# --- CAT-RS ---------------------------------------------------------------------------------------------------------


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


# --- Sun et al. -----------------------------------------------------------------------------------------------------


def test_weights_by_hits() -> None:
    method = get_method("sun")
    weights = method.weights(torch.arange(17))  # type: ignore[attr-defined]
    by_hand = [norm.ppf(beta.ppf(0.1, max(hits, 12), 17 - max(hits, 12))) for hits in range(17)]
    assert weights.tolist() == pytest.approx(by_hand)
    assert weights[[12, 13, 14, 15, 16]].tolist() == pytest.approx([0.1537, 0.3286, 0.5257, 0.7649, 1.1075], abs=1e-4)
    assert float(weights[16] / weights[12]) == pytest.approx(7.2, abs=0.02)  # 1.6 as the paper prints it


@pytest.mark.parametrize("copies", [1, 2, 3, 4, 8])
def test_too_few_copies_for_a_weight_above_zero_are_refused(copies: int) -> None:
    fewest = math.ceil(0.75 * copies)
    positive = beta.ppf(0.1, fewest, copies - fewest + 1) > 0.5
    if positive:
        get_method("sun", weight_copies=copies)
    else:
        with pytest.raises(ValueError, match="weight above 0"):
            get_method("sun", weight_copies=copies)


def surveys(hits: dict[int, list[int]], labels: list[int]) -> tuple[Callable[[int], Tensor], list[int]]:
    asked: list[int] = []

    def votes(copies: int) -> Tensor:
        asked.append(copies)
        counts = torch.zeros((len(labels), CLASSES), dtype=torch.int64)
        for i, label in enumerate(labels):
            counts[i, label] = hits[copies][i]
            counts[i, (label + 1) % CLASSES] = copies - hits[copies][i]  # the top class where hits are few
        return counts

    return votes, asked


def test_hard_images_leave_once_and_weights_are_renewed() -> None:
    method = get_method("sun", start_epoch=20, keep_above=0.4)
    labels = [0, 1, 2, 3]
    votes, asked = surveys({100: [39, 40, 90, 100], 16: [1, 12, 16, 16]}, labels)
    memory: dict[str, Tensor] = {}
    for epoch in range(45):
        memory = method.before_epoch(epoch, memory, torch.tensor(labels), votes)
        assert ("kept" in memory) == (epoch >= 20)
    assert asked == [100, 16, 16, 16]  # before epochs 20, 30 and 40
    assert memory["kept"].tolist() == [False, True, True, True]  # 40 of 100 at .4 stay
    assert memory["hits"].tolist() == [1, 12, 16, 16]
    order = method.order(4, memory, torch.Generator().manual_seed(0))
    assert len(order) == 4
    many = method.order(400_000, memory, torch.Generator().manual_seed(0)).bincount(minlength=4) / 400_000
    weights = torch.tensor([0, 0.1537, 1.1075, 1.1075])
    assert torch.allclose(many, weights / weights.sum(), atol=0.003)


@pytest.mark.parametrize("hits", range(101))
def test_a_share_that_is_just_reached_stays(hits: int) -> None:
    """Also where .55 × 100 is above 55 in floating point."""
    votes, _ = surveys({100: [hits, 100], 16: [16, 16]}, [0, 1])
    method = get_method("sun", start_epoch=0, keep_above=hits / 100)
    assert method.before_epoch(0, {}, torch.tensor([0, 1]), votes)["kept"].all()


def test_half_the_images_with_every_hit_get_88_percent_of_the_draws() -> None:
    memory = {"kept": torch.ones(1000, dtype=torch.bool), "hits": torch.tensor([16, 12]).repeat(500)}
    order = get_method("sun").order(200_000, memory, torch.Generator().manual_seed(1))
    assert float((order % 2 == 0).double().mean()) == pytest.approx(0.878, abs=0.004)


def test_before_the_start_all_is_gaussian_training() -> None:
    first, second = Small(), Small()
    method = get_method("sun", start_epoch=60)
    value, found, statistics = outcome(method, first, make_step(first, copies=4, epoch=59))
    expected, wanted, kept = outcome(get_method("gaussian", copies=4), second, make_step(second, copies=4))
    assert value == expected
    assert same(found, wanted, 0)
    assert same(statistics, kept, 0)
    order = method.order(50, {}, torch.Generator().manual_seed(3))
    assert torch.equal(order, get_method("gaussian").order(50, {}, torch.Generator().manual_seed(3)))
    assert sorted(order.tolist()) == list(range(50))
    still = get_method("sun", start_epoch=0, steps=0)
    third = Small()
    assert outcome(still, third, make_step(third, copies=4))[0] == expected


def test_the_attack_stays_on_the_sphere_and_spares_what_is_wrong_already() -> None:
    model = Small()
    step = make_step(model, copies=4, batch=30)
    method = get_method("sun", start_epoch=0, steps=4, step_size=0.3)
    attacked = method._attacked(step)  # type: ignore[attr-defined]
    assert torch.allclose(norm_of(attacked), norm_of(step.noise), rtol=1e-8)
    right = step.attack(step.images + step.noise).argmax(-1) == step.labels
    assert right.any()
    assert (~right).any()
    assert torch.equal(attacked[~right], step.noise[~right])
    assert (attacked[right] != step.noise[right]).flatten(1).any(1).all()


def test_the_attack_stops_before_a_step_not_after() -> None:
    """Copy by copy, a second way; a test after the step would take back the step that succeeds."""
    model = Small()
    step = make_step(model, copies=2, batch=8)
    found = get_method("sun", start_epoch=0, steps=5, step_size=1.0)._attacked(step)  # type: ignore[attr-defined]
    model.eval()
    stopped = 0
    for j in range(2):
        for i, label in enumerate(step.labels):
            d = e = step.noise[j, i]
            for _ in range(5):
                d = d.detach().requires_grad_()
                logits = model((step.images[i] + d)[None])
                if int(logits.argmax()) != int(label):
                    stopped += 1
                    break
                [g] = torch.autograd.grad(F.cross_entropy(logits, label[None]), d)
                moved = d + 1.0 * g / (g.norm() + 1e-8)
                d = e.norm() * moved / (moved.norm() + 1e-8)
            assert torch.allclose(found[j, i], d.detach(), atol=1e-6)
    assert stopped > 0


def test_a_survey_that_leaves_nothing_ends_the_training() -> None:
    votes, _ = surveys({100: [0, 10], 16: [0, 0]}, [0, 1])
    with pytest.raises(ValueError, match=r"share of 0\.5 of the noise samples .* lower keep_above"):
        get_method("sun", start_epoch=0).before_epoch(0, {}, torch.tensor([0, 1]), votes)


# --- Eq. 3.3, directly ----------------------------------------------------------------------------------------------


def direct(logits: Tensor, labels: list[int], **options: Any) -> Tensor:
    return get_method("direct", **options).loss(logits, torch.tensor(labels), sigma=0.5, epoch=0)


def slope(logits: Tensor, labels: list[int], **options: Any) -> tuple[float, Tensor]:
    logits = logits.clone().requires_grad_()
    value = direct(logits, labels, **options)
    [found] = torch.autograd.grad(value, logits)
    return value.item(), found


@pytest.mark.parametrize(
    ("g", "strength", "value", "gradient"),
    [(0.5, 0.0, math.log(2), -0.5), (0.5, 2.0, math.log(2), -0.5 - 0.6267 * 2), (0.9, 1.0, -1.1762, -0.6128)],
)
def test_direct_by_hand(g: float, strength: float, value: float, gradient: float) -> None:
    a = math.log(g / (1 - g))
    found, slopes = slope(torch.tensor([[[a, 0.0]]], dtype=torch.float64), [0], copies=1, strength=strength)
    assert found == pytest.approx(value, abs=1e-4)
    assert float(slopes[0, 0, 0]) == pytest.approx(gradient, abs=1e-4)


def test_direct_without_its_robustness_item_is_the_accuracy_of_mean_probabilities() -> None:
    logits = torch.randn((4, 9, CLASSES), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    labels = torch.arange(9) % CLASSES
    plain = get_method("generalised", accuracy_item="mean_probabilities", strength=0.0, entropy_weight=0.0).loss(
        logits, labels, sigma=0.5, epoch=0
    )
    assert float(direct(logits, labels.tolist(), strength=0.0)) == pytest.approx(float(plain), rel=1e-12)


def test_above_the_threshold_only_accuracy_has_a_gradient() -> None:
    """The threshold is on the mean probability: one copy above it and one below have the gradient still."""
    sure = torch.tensor([[[8.0, 0.0]], [[7.0, 0.0]]], dtype=torch.float64)
    assert torch.equal(slope(sure, [0], strength=2.0)[1], slope(sure, [0], strength=0.0)[1])
    mixed = torch.tensor([[[8.0, 0.0]], [[1.0, 0.0]]], dtype=torch.float64)
    assert (slope(mixed, [0], strength=2.0)[1] - slope(mixed, [0], strength=0.0)[1]).abs().min() > 1e-5
    assert (slope(sure, [0], strength=2.0, threshold=1.0)[1] - slope(sure, [0], strength=0.0)[1]).abs().max() > 1e-5


def test_direct_never_sees_infinity() -> None:
    logits = torch.tensor([[[200.0, 0.0], [-200.0, 0.0]]])  # probabilities 1 and 0, float32
    for threshold in (0.99, 1.0):
        value, found = slope(logits, [0, 0], copies=1, threshold=threshold)
        assert math.isfinite(value)
        assert found.isfinite().all()


def test_the_gradient_of_one_image_is_bounded_by_the_softmax() -> None:
    logits = 3 * torch.randn((4, 4000, CLASSES), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    labels = [0] * 4000
    whole = slope(logits, labels, strength=1.0, threshold=1.0)[1] - slope(logits, labels, strength=0.0)[1]
    sums = whole[:, :, 0].sum(0).abs() * 4000
    assert float(sums.max()) <= math.sqrt(2 * math.pi) / 4
    two = torch.zeros((1, 1, 2), dtype=torch.float64)
    assert float(
        slope(two, [0], strength=1.0)[1][0, 0, 0] - slope(two, [0], strength=0.0)[1][0, 0, 0]
    ) == pytest.approx(-math.sqrt(2 * math.pi) / 4)


def test_direct_has_the_gradient_of_macer_where_both_count() -> None:
    probabilities = torch.tensor([[[0.7, 0.3], [0.8, 0.2]], [[0.6, 0.4], [0.9, 0.1]]], dtype=torch.float64)
    logits = probabilities.log()
    wanted = logits.clone().requires_grad_()
    macer = get_method("macer", inverse_temperature=1.0, strength=2.0 / 0.5)
    [expected] = torch.autograd.grad(macer.loss(wanted, torch.tensor([0, 0]), sigma=0.5, epoch=0), wanted)
    assert torch.allclose(slope(logits, [0, 0], strength=2.0)[1], expected, rtol=1e-7)


# --- the mask of the generalised objective --------------------------------------------------------------------------


def test_the_mask_of_mean_probabilities_differs_from_that_of_mean_logits() -> None:
    logits = torch.tensor([[[6.0, 0.0]], [[-1.0, 0.0]], [[-1.0, 0.0]], [[-1.0, 0.0]]], dtype=torch.float64)
    assert float(logits.mean(0)[0, 0]) > 0  # mean logits: class 0
    assert float(logits.softmax(-1).mean(0)[0, 0]) < 0.5  # mean probabilities: class 1
    labels = torch.tensor([0])

    def value(mask: str, strength: float) -> float:
        method = get_method("generalised", mask=mask, strength=strength, entropy_weight=0.0)
        return float(method.loss(logits, labels, sigma=0.5, epoch=0))

    assert value("mean_logits", 10.0) > value("mean_logits", 0.0) + 0.1
    assert value("mean_probabilities", 10.0) == value("mean_probabilities", 0.0)
