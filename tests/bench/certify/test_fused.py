"""Networks by cuDNN's fused convolutions, which a CPU has not: here they are what they stand for."""

from __future__ import annotations

import gc
import weakref
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.certify.engine import fold_batch_norm
from bench.certify.fused import Convolution, captured, with_fused_convolutions
from bench.models.classifier import build_model


@pytest.fixture(autouse=True)
def cudnn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was called."""
    called: list[str] = []

    def relu(features: Tensor, weight: Tensor, bias: Tensor, *geometry: Any) -> Tensor:
        called.append("relu")
        return F.relu(F.conv2d(features, weight, bias, *geometry))

    def add_relu(features: Tensor, weight: Tensor, added: Tensor, alpha: float, bias: Tensor, *geometry: Any) -> Tensor:
        called.append("add_relu")
        return F.relu(F.conv2d(features, weight, bias, *geometry) + alpha * added)

    monkeypatch.setattr(torch, "cudnn_convolution_relu", relu)
    monkeypatch.setattr(torch, "cudnn_convolution_add_relu", add_relu)
    return called


def trained_a_little(model: nn.Module) -> nn.Module:
    """Running statistics that are not 0 and 1."""
    model.train()
    with torch.no_grad():
        model(torch.rand(16, 3, 32, 32))
    return model.eval()


class Bottlenecks(nn.Module):
    """What torchvision's networks do: additions in place, a ReLU as a module that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.three, self.head = nn.Conv2d(3, 8, 1, bias=False), nn.Linear(8, 10)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        features = self.two(self.relu(self.one(images)))
        features += self.three(images)
        features = self.relu(features)
        both = self.two(features)  # whose result two take: it must not be fused
        features = F.relu(both) + F.relu(both + features)
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


@torch.no_grad()
@pytest.mark.parametrize(
    ("model", "relus", "additions"), [(build_model("resnet8", num_classes=10), 4, 3), (Bottlenecks(), 1, 1)]
)
def test_a_fused_network_is_the_same_function(model: nn.Module, relus: int, additions: int, cudnn: list[str]) -> None:
    images = torch.rand(4, 3, 32, 32)
    model = trained_a_little(model)
    expected = model(images)
    fused = with_fused_convolutions(fold_batch_norm(model, images), torch.float32)
    assert torch.allclose(fused(images), expected, atol=1e-5 * float(expected.abs().max()))
    assert (cudnn.count("relu"), cudnn.count("add_relu")) == (relus, additions)
    assert isinstance(fused, torch.fx.GraphModule)
    called = [fused.get_submodule(str(node.target)) for node in fused.graph.nodes if node.op == "call_module"]
    assert not any(type(part) is nn.Conv2d for part in called)


@torch.no_grad()
def test_convolutions_compute_in_the_dtype_that_is_asked_for() -> None:
    model = trained_a_little(build_model("resnet8", num_classes=10))
    fused = with_fused_convolutions(fold_batch_norm(model, torch.rand(2, 3, 32, 32)), torch.bfloat16)
    layers = [part for part in fused.modules() if isinstance(part, Convolution)]
    assert {layer.weight.dtype for layer in layers} == {torch.bfloat16}
    assert all(layer.weight.is_contiguous(memory_format=torch.channels_last) for layer in layers)
    assert fused(torch.rand(2, 3, 32, 32)).dtype == torch.float32


class _Graph:
    """As CUDA's, of which nothing is left but when it is replayed."""

    replayed = 0

    def replay(self) -> None:
        self.replayed += 1


def test_a_captured_network_stays_where_the_graph_computes_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph knows addresses: were the weights let go of, others' numbers would stand there."""
    stream = SimpleNamespace(wait_stream=lambda _: None)
    fakes = {"Stream": lambda: stream, "current_stream": lambda: stream, "CUDAGraph": _Graph}
    for name, fake in (fakes | {"stream": lambda _: nullcontext()}).items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr("bench.certify.fused.captured_in", lambda _: nullcontext())
    network = nn.Linear(3, 2)
    seen = weakref.ref(network)
    fast = captured(network, torch.rand(4, 3))
    del network
    gc.collect()
    assert seen() is not None
    first = fast(torch.zeros(4, 3))
    assert fast(torch.ones(4, 3)) is first  # written over by the next call
    assert fast.graph.replayed == 2  # type: ignore[attr-defined]
    assert torch.equal(fast.taken, torch.ones(4, 3))  # type: ignore[attr-defined]
