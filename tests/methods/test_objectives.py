"""Every objective against arithmetic worked by hand, and against a second, plain way to compute it."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import pytest
import torch
from torch import Tensor

from methods import METHODS, get_method
from tests.methods.steps import Small, make_step

SIGMA = 0.5
phi_inverse = NormalDist().inv_cdf

# Two classes with logits (log p, log(1 − p)) have softmax (p, 1 − p) exactly: probabilities by hand.
QUARTER, HALF, THREE_QUARTERS = (torch.tensor([p, 1 - p]).log() for p in (0.25, 0.5, 0.75))


def loss(name: str, logits: Tensor, labels: list[int], *, epoch: int = 0, **options: Any) -> float:
    value = get_method(name, **options).loss(logits, torch.tensor(labels), sigma=SIGMA, epoch=epoch)
    return float(value)


def test_gaussian_by_hand() -> None:
    logits = torch.stack([THREE_QUARTERS, QUARTER]).unsqueeze(1)  # two copies of one image
    assert loss("gaussian", logits, [0]) == pytest.approx((-math.log(0.75) - math.log(0.25)) / 2)
    assert loss("gaussian_ld", logits, [0]) == loss("gaussian", logits, [0])


def test_consistency_by_hand() -> None:
    logits = torch.stack([THREE_QUARTERS, QUARTER]).unsqueeze(1)
    # mean (1/2, 1/2): KL to (3/4, 1/4) is 1/2 log(2/3) + 1/2 log 2 = log(2/√3), the same to (1/4, 3/4); entropy log 2
    expected = -math.log(0.75 * 0.25) / 2 + 20 * math.log(2 / math.sqrt(3)) + 0.5 * math.log(2)
    assert loss("consistency", logits, [0], strength=20.0) == pytest.approx(expected, rel=1e-5)


def test_consistency_of_equal_copies_is_cross_entropy_and_entropy() -> None:
    logits = THREE_QUARTERS.repeat(4, 1, 1)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert loss("consistency", logits, [0], strength=10.0) == pytest.approx(-math.log(0.75) + 0.5 * entropy, rel=1e-5)


def test_consistency_clamps_the_mean_inside_the_logarithm() -> None:
    certain = torch.tensor([[[0.0, -200.0]], [[0.0, -200.0]]], requires_grad=True)  # softmax gives class 1 exactly 0
    value = get_method("consistency").loss(certain, torch.tensor([0]), sigma=SIGMA, epoch=0)
    value.backward()
    assert math.isfinite(value.item())
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert certain.grad is not None
    assert certain.grad.isfinite().all()


def test_macer_by_hand() -> None:
    logits = torch.stack([THREE_QUARTERS, HALF]).unsqueeze(1)  # mean softmax (5/8, 3/8), with β = 1
    xi = 2 * phi_inverse(0.625)
    expected = -math.log(0.625) + 12 * (SIGMA / 2) * (8 - xi)
    assert loss("macer", logits, [0], inverse_temperature=1.0) == pytest.approx(expected, rel=1e-5)


def test_macer_counts_only_images_it_classifies_correctly() -> None:
    logits = torch.stack([THREE_QUARTERS, HALF]).unsqueeze(1)
    assert loss("macer", logits, [1], inverse_temperature=1.0) == pytest.approx(-math.log(0.375), rel=1e-5)


def test_macer_divides_by_the_batch_not_by_the_images_that_count() -> None:
    logits = torch.stack([THREE_QUARTERS, QUARTER], dim=0)[None]  # one copy of two images
    xi = 2 * phi_inverse(0.75)
    expected = -math.log(0.75) / 2 - math.log(0.25) / 2 + 12 * (SIGMA / 2) * (8 - xi) / 2
    assert loss("macer", logits, [0, 0], inverse_temperature=1.0) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("margin", "kept"), [(2 * phi_inverse(0.75) + 1e-3, True), (2 * phi_inverse(0.75) - 1e-3, False)]
)
def test_macer_hinge_edge(margin: float, kept: bool) -> None:
    logits = THREE_QUARTERS[None, None].clone().requires_grad_()
    value = get_method("macer", inverse_temperature=1.0, margin=margin).loss(
        logits, torch.tensor([0]), sigma=SIGMA, epoch=0
    )
    value.backward()
    assert logits.grad is not None
    cross_entropy_gradient = torch.tensor([-0.25, 0.25])
    assert torch.allclose(logits.grad[0, 0], cross_entropy_gradient, atol=1e-4) != kept


def test_macer_leaves_out_infinite_margins() -> None:
    logits = torch.tensor([[[0.0, -200.0]]], requires_grad=True)  # p1 = 1, so Φ⁻¹ is infinite
    value = get_method("macer").loss(logits, torch.tensor([0]), sigma=SIGMA, epoch=0)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_macer_waits_for_its_first_epoch() -> None:
    logits = torch.stack([THREE_QUARTERS, HALF]).unsqueeze(1)
    options: dict[str, Any] = {"inverse_temperature": 1.0, "start_epoch": 5}
    assert loss("macer", logits, [0], epoch=4, **options) == pytest.approx(-math.log(0.625), rel=1e-5)
    assert loss("macer", logits, [0], epoch=5, **options) > 1


@pytest.mark.parametrize(
    ("item", "accuracy"),
    [
        ("mean_logits", -math.log(math.sqrt(0.75 * 0.5) / (math.sqrt(0.75 * 0.5) + math.sqrt(0.25 * 0.5)))),
        ("mean_probabilities", -math.log(0.625)),
        ("per_sample", -math.log(0.75 * 0.5) / 2),
    ],
)
def test_generalised_by_hand(item: str, accuracy: float) -> None:
    logits = torch.stack([THREE_QUARTERS, HALF]).unsqueeze(1)
    mean = (0.625, 0.375)
    divergence = sum(mean[c] * math.log(mean[c] / copy[c]) for copy in ((0.75, 0.25), (0.5, 0.5)) for c in (0, 1)) / 2
    entropy = -sum(p * math.log(p) for p in mean)
    right = accuracy + 20 * divergence + 0.5 * entropy
    assert loss("generalised_ld", logits, [0], strength=20.0, accuracy_item=item) == pytest.approx(right, rel=1e-5)


def test_generalised_masks_misclassified_images() -> None:
    logits = torch.stack([THREE_QUARTERS, HALF]).unsqueeze(1)
    entropy = -(0.625 * math.log(0.625) + 0.375 * math.log(0.375))
    accuracy = -math.log(0.375)
    options: dict[str, Any] = {"strength": 20.0, "accuracy_item": "mean_probabilities"}
    assert loss("generalised_ld", logits, [1], **options) == pytest.approx(accuracy + 0.5 * entropy, rel=1e-5)
    assert loss("generalised_ld", logits, [1], mask_entropy=True, **options) == pytest.approx(accuracy, rel=1e-5)
    assert loss("generalised", logits, [1], **options) == loss("generalised_ld", logits, [1], **options)


# --- a second way: plain loops over images and copies, in float64 -----------------------------------------------


def _softmax(logits: Tensor) -> list[Tensor]:
    exponentials = [value.exp() for value in logits]
    return [value / sum(exponentials) for value in exponentials]


def _parts(logits: Tensor, image: int) -> tuple[list[list[Tensor]], list[Tensor]]:
    copies = [_softmax(logits[copy, image]) for copy in range(len(logits))]
    mean = [sum(copy[c] for copy in copies) / len(copies) for c in range(logits.shape[2])]
    return copies, mean  # type: ignore[return-value]


def plain_consistency(logits: Tensor, labels: Tensor, strength: float, entropy_weight: float) -> Tensor:
    total = torch.zeros((), dtype=logits.dtype)
    for image, label in enumerate(labels.tolist()):
        copies, mean = _parts(logits, image)
        for copy in copies:
            total = total - copy[label].log() / len(copies)
            for p, q in zip(mean, copy, strict=True):
                total = total + strength * p * (p / q).log() / len(copies)
        total = total - entropy_weight * sum(p * p.log() for p in mean)
    return total / len(labels)


def plain_macer(logits: Tensor, labels: Tensor, strength: float, beta: float, margin: float) -> Tensor:
    normal = torch.distributions.Normal(torch.zeros((), dtype=logits.dtype), 1)
    total = torch.zeros((), dtype=logits.dtype)
    for image, label in enumerate(labels.tolist()):
        total = total - (_parts(logits, image)[1][label] + 1e-10).log()
        scores = _parts(beta * logits, image)[1]
        ranked = sorted(range(len(scores)), key=lambda c: -scores[c].item())
        if ranked[0] == label:
            xi = normal.icdf(scores[ranked[0]]) - normal.icdf(scores[ranked[1]])
            if math.isfinite(xi.item()) and abs(xi.item()) <= margin:
                total = total + strength * SIGMA / 2 * (margin - xi)
    return total / len(labels)


def plain_ours(logits: Tensor, labels: Tensor, strength: float, entropy_weight: float) -> Tensor:
    total = torch.zeros((), dtype=logits.dtype)
    for image, label in enumerate(labels.tolist()):
        copies, mean = _parts(logits, image)
        mean_logits = sum(logits[copy, image] for copy in range(len(copies))) / len(copies)
        assert isinstance(mean_logits, Tensor)
        total = total - _softmax(mean_logits)[label].log()
        if int(mean_logits.argmax()) == label:
            for copy in copies:
                for p, q in zip(mean, copy, strict=True):
                    total = total + strength * p * (p / q).log() / len(copies)
        total = total - entropy_weight * sum(p * p.log() for p in mean)
    return total / len(labels)


@pytest.mark.parametrize(
    ("name", "options", "plain"),
    [
        ("gaussian", {}, lambda x, y: plain_consistency(x, y, 0, 0)),
        ("consistency", {"strength": 20.0}, lambda x, y: plain_consistency(x, y, 20, 0.5)),
        ("ensemble", {"strength": 20.0}, lambda x, y: plain_consistency(x, y, 20, 0.5)),
        ("macer", {"inverse_temperature": 3.0, "margin": 2.0}, lambda x, y: plain_macer(x, y, 12, 3, 2)),
        ("generalised_ld", {"strength": 20.0}, lambda x, y: plain_ours(x, y, 20, 0.5)),
        ("generalised", {"entropy_weight": 2.0}, lambda x, y: plain_ours(x, y, 10, 2)),
    ],
)
def test_value_and_gradient_equal_the_plain_way(
    name: str, options: dict[str, float], plain: Callable[[Tensor, Tensor], Tensor]
) -> None:
    logits = torch.randn(4, 16, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = torch.cat(
        [logits.mean(dim=0).argmax(dim=1)[:10], torch.arange(6) % 5]
    )  # most of them classified correctly
    results = []
    for function in (lambda x, y: get_method(name, **options).loss(x, y, sigma=SIGMA, epoch=0), plain):
        leaf = logits.clone().requires_grad_()
        value = function(leaf, labels)
        value.backward()
        results.append((value.detach(), leaf.grad))
    assert torch.allclose(results[0][0], results[1][0], rtol=1e-9)
    assert results[0][1] is not None
    assert results[1][1] is not None
    assert torch.allclose(results[0][1], results[1][1], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_keeps_the_contract(name: str) -> None:
    method, model = get_method(name), Small()
    value = method.training_loss(make_step(model, copies=method.copies))
    value.backward()
    assert value.shape == ()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    assert model.head.weight.grad is not None
    assert model.head.weight.grad.abs().sum() > 0
    assert method.title
    assert method.source


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("macr", {}, "unknown method 'macr': did you mean 'macer'?"),
        ("macer", {"strenth": 1.0}, "method 'macer' has no option 'strenth': did you mean 'strength'?"),
        ("generalised_ld", {"accuracy_item": "logits"}, "accuracy_item = 'logits': must be one of mean_logits"),
        ("generalised_ld", {"mask_entropy": 1}, "mask_entropy = 1: must be of type bool"),
        ("consistency", {"strength": -1.0}, "strength = -1.0: must be at least 0"),
        ("gaussian", {"copies": 0}, "copies = 0: must be at least 1"),
        ("macer", {"margin": 0.0}, "margin = 0.0: must be above 0"),
    ],
)
def test_wrong_options_are_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the message is compared whole
        get_method(name, **options)
    assert message in str(caught.value)


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
