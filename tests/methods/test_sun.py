"""The method of Sun et al.: weights by hand, which images leave and when, and its attack."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import beta, norm
from torch import Tensor

from methods import get_method
from tests.methods.steps import CLASSES, Small, make_step, norm_of, outcome, same


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
