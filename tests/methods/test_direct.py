"""Eq. 3.3 of the thesis, directly: arithmetic worked by hand, gradients and their bound."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from methods import get_method
from tests.methods.steps import CLASSES


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
