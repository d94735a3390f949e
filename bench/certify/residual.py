"""Our ResNets behind `bench.certify.residual_kernels`: on a GPU, in bf16, twice as fast as layer by layer."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bench.models.classifier import Classifier, Consensus, MeanLogits
from bench.models.networks import BasicBlock, ResNet


class UnknownNetworkError(Exception):
    """No network for these kernels; the message says why."""


def in_kernels(model: nn.Module, shape: torch.Size, dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    """The same function of images of a shape (channel, height, width), up to roundings, for a network of ours or an
    ensemble of them, in evaluation mode.

    Args:
        dtype: of weights and features; sums are in float32.

    Raises:
        UnknownNetworkError: the model is no such, or the kernels do not take such features.
    """
    if isinstance(model, MeanLogits):
        members = [in_kernels(member, shape, dtype) for member in model.members]
        same = Consensus(members, model.consensus) if isinstance(model, Consensus) else MeanLogits(members)
        return same.eval()
    if not isinstance(model, Classifier) or not isinstance(model.network, ResNet):
        raise UnknownNetworkError("it is not a ResNet of this program")
    if model.network.patch:
        raise UnknownNetworkError("its first convolution is not 3×3")
    return ResNetInKernels(model, shape, dtype).eval()


class ResNetInKernels(nn.Module):
    """A `Classifier` whose network is a `ResNet`."""

    mean: Tensor
    std: Tensor
    stem_weight: Tensor
    stem_bias: Tensor

    def __init__(self, model: Classifier, shape: torch.Size, dtype: torch.dtype) -> None:
        """Arguments and errors as in `in_kernels`."""
        super().__init__()
        from bench.certify import residual_kernels  # needs Triton

        self._kernels = residual_kernels
        self.decomposition = model.decomposition
        mean, std = model.mean.flatten(), model.std.flatten()
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std.clone())
        self._dtype = dtype
        self._features: dict[int, list[tuple[Tensor, Tensor]]] = {}
        network = model.network
        assert isinstance(network, ResNet)
        self.head = network.head
        stem = _folded(network.stem)
        width = stem.out_channels
        self._shapes = [(width << stage, shape[-1] >> stage) for stage in range(3)]
        square = len(shape) == 3 and shape[1] == shape[2] and shape[2] % 4 == 0
        if not square or not all(residual_kernels.images_of_a_program(*known) for known in self._shapes):
            raise UnknownNetworkError(f"images {tuple(shape)} and width {width} do not fill the kernels")
        rows = stem.weight.permute(2, 3, 1, 0).flatten(0, 2)
        filled = rows.new_zeros(max(16, 1 << (len(rows) - 1).bit_length()), width)
        filled[: len(rows)] = rows
        self.register_buffer("stem_weight", filled.to(dtype))
        self.register_buffer("stem_bias", _bias(stem))
        for number, blocks in enumerate(_stages(network)):
            weights, biases = [], []
            beginning = rows.new_zeros(1)  # where no block has stride 2
            for block in blocks:
                first, second = _folded(block.first), _folded(block.second)
                biases += [_bias(first), _bias(second)]
                weights += [_taps(first), _taps(second)]
                if not isinstance(block.shortcut, nn.Identity):
                    shortcut = _folded(block.shortcut)
                    biases[-1] = biases[-1] + _bias(shortcut)
                    beginning = torch.cat([weights.pop(0), shortcut.weight[None, :, :, 0, 0].transpose(1, 2)])
            self.register_buffer(f"first{number}", beginning.detach().to(dtype).contiguous())
            self.register_buffer(f"weight{number}", torch.stack(weights).detach().to(dtype).contiguous())
            self.register_buffer(f"bias{number}", torch.stack(biases))

    def forward(self, images: Tensor) -> Tensor:
        """Images (batch, channel, height, width) in [0, 1] -> logits (batch, num_classes), float32."""
        if self.decomposition is not None:
            images = self.decomposition(images)
        stages = self._room(len(images))
        self._kernels.stem(images.float(), self.mean, self.std, self.stem_weight, self.stem_bias, stages[0][0])
        for number, (features, inside) in enumerate(stages):
            before = stages[number - 1][0] if number else None
            parameters = (getattr(self, f"{name}{number}") for name in ("first", "weight", "bias"))
            self._kernels.stage(before, features, inside, *parameters)
        last, side = stages[-1][0][: len(images)], self._shapes[-1][1]
        pooled = last.sum(dim=(1, 2), dtype=torch.float32) / side**2  # its border adds nothing
        logits: Tensor = self.head(pooled)
        return logits

    def _room(self, batch: int) -> list[tuple[Tensor, Tensor]]:
        """Features of every stage, and room for what is inside its blocks; their borders are zeros and stay so."""
        if batch not in self._features:
            most = max(self._kernels.images_of_a_program(*shape) for shape in self._shapes)
            whole = -(-batch // most) * most
            self._features[batch] = [
                (self._zeros(whole, side, width), self._zeros(whole, side, width)) for width, side in self._shapes
            ]
        return self._features[batch]

    def _zeros(self, batch: int, side: int, width: int) -> Tensor:
        return torch.zeros((batch, side + 2, side + 2, width), dtype=self._dtype, device=self.stem_weight.device)


def _stages(network: ResNet) -> list[list[BasicBlock]]:
    """Its blocks, stage by stage: the second and the third begin where the width changes."""
    blocks = [block for block in network.blocks if isinstance(block, BasicBlock)]
    starts = [0, *(n for n, block in enumerate(blocks) if not isinstance(block.shortcut, nn.Identity)), len(blocks)]
    if len(starts) != 4:
        raise UnknownNetworkError("it has not three stages")
    return [blocks[begin:end] for begin, end in pairwise(starts)]


def _folded(part: nn.Module) -> nn.Conv2d:
    """A convolution and its batch norm as one."""
    convolution, norm = part.children()
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    return fuse_conv_bn_eval(convolution, norm)


def _bias(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias.detach().float()


def _taps(layer: nn.Conv2d) -> Tensor:
    """Its weight as (9, channels_in, channels_out)."""
    return layer.weight.permute(2, 3, 1, 0).flatten(0, 1)
