from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from bench.certify.smoothing import Smoothed
from bench.models.checkpoint import CheckpointError, restore_classifier
from bench.models.classifier import CIFAR10_MEAN, CIFAR10_STD, MeanLogits, build_model
from bench.models.decomposition import LinearDecomposition
from bench.settings.registries import NETWORKS, check_network, register_network
from methods import RegistryError
from tests.conftest import small_trial


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "convolutions", "count"),
    # He et al. 2016, Table 6, count .27M and 1.7M without the 1×1 shortcuts (2 688 weights and norms here).
    [("resnet8", 9, None), ("resnet20", 21, 272_474), ("resnet110", 111, 1_730_714)],
)
def test_resnet_has_the_published_depth_and_size(name: str, convolutions: int, count: int | None) -> None:
    model = build_model(name, num_classes=10)
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert len(layers) == convolutions  # 6n + 1, and two shortcuts, less the linear layer
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    if count:
        assert parameters(model) == count


def test_width_scales_every_stage() -> None:
    assert parameters(build_model("resnet20", num_classes=10, width=32)) == pytest.approx(4 * 272_474, rel=0.02)


def test_normalisation_is_the_first_layer() -> None:
    model = build_model("tiny", num_classes=3).eval()
    images = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (CIFAR10_MEAN, CIFAR10_STD))
    assert torch.equal(model(images), model.network((images - mean) / std))


def test_decomposition_comes_before_normalisation() -> None:
    basis = torch.linalg.qr(torch.randn(3072, 7)).Q
    layer = LinearDecomposition(torch.rand(3072), basis)
    torch.manual_seed(0)
    plain = build_model("tiny", num_classes=3).eval()
    torch.manual_seed(0)
    model = build_model("tiny", num_classes=3, decomposition=layer).eval()
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(model(images), plain(layer(images)))


def test_a_decomposition_that_is_not_orthonormal_is_refused_wherever_it_comes_from() -> None:
    """Noise is drawn behind it. With basis 4·e₁ at σ = .25 a plane at distance .0493 would be certified to .1868."""
    basis = torch.linalg.qr(torch.randn(3072, 7)).Q
    wrong = [4 * torch.eye(3072)[:, :1], basis * (1 + 1e-5), torch.cat([basis, basis[:, :1]], dim=1), basis * math.nan]
    for each in wrong:
        with pytest.raises(ValueError, match=r"must be orthonormal: ‖WᵀW − I‖₂ = "):
            LinearDecomposition(torch.rand(3072), each)
    model = build_model("tiny", num_classes=3, decomposition=LinearDecomposition(torch.rand(3072), basis))
    tensors = model.state_dict() | {"decomposition.basis": 4 * basis}
    trial = small_trial(decomposition_ratio=0.1)
    with pytest.raises(CheckpointError, match=r"somewhere: the basis .* must be orthonormal"):
        restore_classifier(trial, tensors, 3, Path("somewhere"))
    model.load_state_dict(tensors)
    with pytest.raises(ValueError, match="must be orthonormal"):
        Smoothed(model, 0.25, 3, device="cpu")


def test_convolutions_start_from_he_fan_out() -> None:
    torch.manual_seed(0)
    model = build_model("resnet20", num_classes=10, width=64)
    layer = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    assert layer.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)


@pytest.mark.usefixtures("_own_networks")
def test_a_network_of_ones_own_initialises_itself_and_may_have_a_width() -> None:
    def linear(num_classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(3072, num_classes))

    class Wide(nn.Module):
        def __init__(self, num_classes: int, width: int = 16) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, num_classes, 3)
            self.width = width

    register_network("linear")(linear)
    register_network("wide")(Wide)
    check_network("linear")
    check_network("wide", 5)
    torch.manual_seed(0)
    expected = nn.Conv2d(3, 7, 3).weight
    torch.manual_seed(0)
    wide = build_model("wide", num_classes=7, width=5).network
    assert isinstance(wide, Wide)
    assert wide.width == 5
    assert torch.equal(wide.layer.weight, expected)
    assert build_model("linear", num_classes=7)(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    for refuse in (lambda: check_network("linear", 8), lambda: build_model("linear", num_classes=7, width=8)):
        with pytest.raises(ValueError, match="width = 8: the network linear has no width: leave it at 16"):
            refuse()


@pytest.mark.usefixtures("_own_networks")
def test_a_network_that_is_none_is_refused() -> None:
    for name in ("resnet50", "tiny"):
        with pytest.raises(RegistryError, match=f"network '{name}' is registered already, by bench"):
            register_network(name)(nn.Identity)
    register_network("nothing")(lambda _: None)
    with pytest.raises(ValueError, match=r"'nothing': its builder must return a torch.nn.Module, gave NoneType"):
        build_model("nothing", num_classes=2)
    with pytest.raises(ValueError, match="model = 'nothin': must be tiny, nothing or resnet followed by a depth 6n"):
        check_network("nothin")


@pytest.fixture
def _own_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(NETWORKS, "_entries", dict(NETWORKS._entries))


def test_ensemble_is_the_mean_of_logits() -> None:
    members = [build_model("tiny", num_classes=4).eval() for _ in range(3)]
    images = torch.rand(5, 3, 32, 32)
    expected = sum(member(images) for member in members) / 3
    assert torch.allclose(MeanLogits(members)(images), expected, atol=1e-6)


@pytest.mark.parametrize("name", ["resnet", "resnet7", "resnet21", "resnet2", "vgg", "resnet020", "resnet20 "])
def test_unknown_models_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="model = "):
        build_model(name, num_classes=10)
