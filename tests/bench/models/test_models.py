from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

from bench.certify.engine import Engine, fold_batch_norm
from bench.certify.residual import UnknownNetworkError, in_kernels
from bench.certify.smoothing import Smoothed
from bench.models.checkpoint import CheckpointError, restore_classifier
from bench.models.classifier import MeanLogits, build_model, channels_of
from bench.models.decomposition import LinearDecomposition
from bench.settings.normalisation import CIFAR10, GREY, Normalisation, usual
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


def test_a_resnet_on_patches_is_the_resnet_but_for_its_first_convolution() -> None:
    model, plain = (build_model(name, num_classes=10, width=32) for name in ("patches", "resnet8"))
    assert parameters(model) - parameters(plain) == 32 * 3 * (4 * 4 - 3 * 3)
    images = torch.rand(2, 3, 32, 32)
    moved = images.roll(4, dims=3)  # by a patch: each is seen as before, in another place
    stem = model.network.get_submodule("stem").eval()
    assert stem(images).shape == (2, 32, 8, 8)
    assert torch.allclose(stem(moved), stem(images).roll(1, dims=3), atol=1e-6)
    with pytest.raises(UnknownNetworkError, match="not 3×3"):
        in_kernels(model, torch.Size((3, 32, 32)), torch.bfloat16)


def test_width_scales_every_stage() -> None:
    assert parameters(build_model("resnet20", num_classes=10, width=32)) == pytest.approx(4 * 272_474, rel=0.02)


def test_normalisation_is_the_first_layer() -> None:
    model = build_model("tiny", num_classes=3).eval()
    images = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (CIFAR10.mean, CIFAR10.std))
    assert torch.equal(model(images), model.network((images - mean) / std))


@pytest.mark.parametrize("name", ["tiny", "resnet8", "patches"])
@pytest.mark.parametrize(
    "normalisation", [GREY, Normalisation((0.1307,), (0.3081,)), Normalisation((0.5,) * 3, (0.2,) * 3)]
)
def test_the_first_convolution_takes_as_many_channels_as_are_normalised(
    name: str, normalisation: Normalisation
) -> None:
    model = build_model(name, num_classes=3, width=4, normalisation=normalisation).eval()
    images = torch.rand(2, normalisation.channels, 28, 28)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (normalisation.mean, normalisation.std))
    assert torch.equal(model(images), model.network((images - mean) / std))
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    assert first.in_channels == normalisation.channels == channels_of(model)
    assert channels_of(MeanLogits([model, model])) == normalisation.channels


def test_data_that_says_nothing_is_normalised_as_cifar10() -> None:
    assert usual(3) == CIFAR10
    assert usual(1) == GREY
    for values, grey in ((CIFAR10.mean, GREY.mean), (CIFAR10.std, GREY.std)):
        assert grey[0] == pytest.approx(sum(values) / 3, abs=5e-5)


@pytest.mark.parametrize(("mean", "std"), [((), ()), ((0.5,), (0.2, 0.2)), ((0.5,), (0.0,)), ((math.nan,), (1.0,))])
def test_a_normalisation_that_is_none_is_refused(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="a normalisation must have"):
        Normalisation(mean, std)


@pytest.mark.parametrize(
    "normalisation", [CIFAR10, GREY, Normalisation((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))]
)
def test_weights_bring_their_normalisation(normalisation: Normalisation) -> None:
    torch.manual_seed(1)
    model = build_model("tiny", num_classes=3, width=4, normalisation=normalisation).eval()
    restored = restore_classifier(small_trial(), model.state_dict(), 3, Path("somewhere")).eval()
    images = torch.rand(2, normalisation.channels, 28, 28)
    assert torch.equal(restored(images), model(images))
    assert torch.equal(restored.without_decomposition()(images), model(images))
    for missing in ("mean", "std"):
        rest = {name: tensor for name, tensor in model.state_dict().items() if name != missing}
        with pytest.raises(CheckpointError, match=f"somewhere: has no tensor '{missing}'"):
            restore_classifier(small_trial(), rest, 3, Path("somewhere"))


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
def test_a_network_of_ones_own_is_told_of_channels_where_they_are_not_three() -> None:
    told: list[dict[str, int]] = []

    def told_of(num_classes: int, **chosen: int) -> nn.Module:
        told.append(chosen)
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))

    register_network("any")(told_of)
    register_network("wide")(lambda num_classes, width=16: nn.Linear(width, num_classes))
    for normalisation in (CIFAR10, GREY):
        build_model("any", num_classes=7, width=5, normalisation=normalisation)
    assert told == [{"width": 5}, {"width": 5, "channels": 1}]
    for refuse in (
        lambda: check_network("wide", 5, 1),
        lambda: build_model("wide", num_classes=7, normalisation=GREY),
    ):
        with pytest.raises(
            ValueError, match="model = 'wide': takes images of 3 channels, and those of the data have 1"
        ):
            refuse()
    check_network("wide", 5, 3)
    check_network("tiny", 5, 1)
    check_network("resnet8", 5, 1)


@pytest.mark.usefixtures("_own_networks")
def test_a_network_that_is_none_is_refused() -> None:
    for name in ("resnet50", "tiny"):
        with pytest.raises(RegistryError, match=f"network '{name}' is registered already, by bench"):
            register_network(name)(nn.Identity)
    register_network("nothing")(lambda _: None)
    with pytest.raises(ValueError, match=r"'nothing': its builder must return a torch.nn.Module, gave NoneType"):
        build_model("nothing", num_classes=2)

    class Counts(nn.Linear):
        def get_extra_state(self) -> object:
            return {"seen": 3}

    register_network("counts")(lambda num_classes: nn.Sequential(Counts(5, num_classes)))
    with pytest.raises(ValueError, match=r"'counts': 0\._extra_state of its state_dict must be a tensor, is dict"):
        build_model("counts", num_classes=2)
    with pytest.raises(
        ValueError,
        match=r"model = 'nothin': must be tiny, patches, nothing, counts or resnet followed by a depth 6n.* such as "
        r"resnet110: did you mean 'nothing'\? \(one of your own: give --plugin\)",
    ):
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


@pytest.mark.parametrize("name", ["resnet8", "tiny", "patches"])
def test_the_head_is_in_float32_whatever_the_rest_is_in(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, num_classes=10, width=4).eval()
    head = model.network.get_submodule("head")
    assert isinstance(head, torch.nn.Linear)
    with torch.no_grad():
        head.weight.mul_(50)  # logits as far apart as bf16 shows
    images = torch.rand(64, 3, 32, 32)
    seen: list[Tensor] = []
    head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    engine = Engine(model, torch.device("cpu"), "bf16")
    certified, _ = engine.classifier(images.shape[1:], 1)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        trained = model(images)
    with torch.inference_mode():
        for logits in (trained, certified(images)):
            assert logits.dtype == torch.float32
            assert float((logits != logits.bfloat16().float()).float().mean()) > 0.9
        exact = model(images)
        assert torch.equal(exact, torch.nn.functional.linear(seen[-1], head.weight, head.bias))  # as ever, bit for bit


def test_batch_norm_is_folded_in_front_of_the_head() -> None:
    model = build_model("resnet8", num_classes=10, width=4).eval()
    with torch.inference_mode():
        folded = fold_batch_norm(model, torch.rand(8, 3, 32, 32))
    assert isinstance(folded, fx.GraphModule)  # the model as a whole could be followed
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
