"""A network on an accelerator without a compiler: each convolution with what follows it as one call of cuDNN, and a
whole pass as one CUDA graph."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from bench.machine.capture import captured_in

ADDITIONS: set[Any] = {operator.add, torch.add, "add"}
CHANGING: set[Any] = {operator.iadd, "add_"}
"""Additions that change what stands first."""
RELUS: set[Any] = {F.relu, F.relu_, torch.relu, torch.relu_, "relu", "relu_"}
WARM_UPS = 3
"""Passes before a capture, in which libraries make their plans and workspaces."""


class Convolution(nn.Module):
    """relu(convolution + what is added), each of both where it is there, in one dtype and channels-last."""

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: nn.Conv2d, dtype: torch.dtype, *, relu: bool) -> None:
        """
        Args:
            layer: with zeros for its padding, given in numbers.
        """
        super().__init__()
        weight = layer.weight.detach().to(dtype).contiguous(memory_format=torch.channels_last)
        bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().to(dtype)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.relu = relu
        self.geometry: tuple[Any, ...] = (layer.stride, layer.padding, layer.dilation, layer.groups)

    def forward(self, features: Tensor, added: Tensor | None = None) -> Tensor:
        """Features (batch, channels_in, height, width), added (batch, channels_out, height', width')."""
        features = features.to(self.weight.dtype)
        if not self.relu:
            return F.conv2d(features, self.weight, self.bias, *self.geometry)
        if added is None:
            return torch.cudnn_convolution_relu(features, self.weight, self.bias, *self.geometry)
        return torch.cudnn_convolution_add_relu(
            features, self.weight, added.to(self.weight.dtype), 1.0, self.bias, *self.geometry
        )


def with_fused_convolutions(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The network with every convolution computed in `dtype`, together with an addition and a ReLU that follow it.

    Raises:
        Exception: of any kind, where torch.fx cannot follow the network.
    """
    traced = _Traced(network, dtype)
    for node in traced.nodes:
        traced.fuse(node)
    for node in traced.nodes:
        layer = traced.convolution(node)
        if layer is not None:
            traced.replace(node, layer, node.args)
    traced.module.recompile()
    return traced.module.eval()


class _Traced:
    """A network as torch.fx sees it; the arguments of a node may be of any kind."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        self.module = torch.fx.symbolic_trace(network)
        self._parts = dict(self.module.named_modules())
        self._dtype = dtype

    @property
    def nodes(self) -> list[Any]:
        return list(self.module.graph.nodes)

    def convolution(self, node: Any) -> nn.Conv2d | None:
        """The layer, if the node is a convolution that `Convolution` can take over."""
        is_layer = isinstance(node, torch.fx.Node) and node.op == "call_module"
        layer = self._parts[str(node.target)] if is_layer else None
        if type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
            return layer
        return None

    def fuse(self, relu: Any) -> None:
        """If the node is a ReLU of a convolution, or of one and something else, and of nothing that others need too."""
        if not self._is(relu, RELUS, nn.ReLU) or not isinstance(relu.args[0], torch.fx.Node):
            return
        inner: Any = relu.args[0]
        if len(inner.users) > 1:
            return
        layer = self.convolution(inner)
        if layer is not None:
            self.replace(relu, layer, inner.args, inner)
        elif self._is(inner, ADDITIONS | CHANGING) and len(inner.args) == 2:
            for mine, other in [inner.args] if inner.target in CHANGING else [inner.args, inner.args[::-1]]:
                layer = self.convolution(mine)
                if layer is not None and len(mine.users) == 1 and isinstance(other, torch.fx.Node):
                    self.replace(relu, layer, (*mine.args, other), inner, mine)
                    return

    def replace(self, last: Any, layer: nn.Conv2d, inputs: tuple[Any, ...], *others: Any) -> None:
        """The node, and others before it whose results nobody else takes, by one; with a ReLU if there are others."""
        name = f"convolution{len(self._parts)}"
        self._parts[name] = Convolution(layer, self._dtype, relu=bool(others))
        self.module.add_submodule(name, self._parts[name])
        with self.module.graph.inserting_before(last):
            last.replace_all_uses_with(self.module.graph.call_module(name, inputs))
        for node in (last, *others):
            self.module.graph.erase_node(node)

    def _is(self, node: Any, functions: set[Any], kind: type[nn.Module] | None = None) -> bool:
        if node.op in ("call_function", "call_method"):
            return node.target in functions
        return kind is not None and node.op == "call_module" and type(self._parts[str(node.target)]) is kind


def captured(classify: Callable[[Tensor], Tensor], example: Tensor) -> Callable[[Tensor], Tensor]:
    """`classify` as a CUDA graph, for inputs of exactly the example's shape and layout. Its answers are written over by
    those of the next call."""
    taken = example.clone()
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UPS):
            classify(taken)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with captured_in(graph):
        answers = classify(taken)
    return _Captured(classify, graph, taken, answers)


@dataclass(frozen=True)
class _Captured:
    classify: Callable[[Tensor], Tensor]
    """Not called again, but kept: the graph computes with its weights, where they are in memory."""
    graph: torch.cuda.CUDAGraph
    taken: Tensor
    answers: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        self.taken.copy_(images)
        self.graph.replay()
        return self.answers
