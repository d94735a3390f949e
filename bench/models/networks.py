"""Networks: normalised images -> logits.

Ours start from He (fan-out) initialisation, drawn from torch's global random state.
"""

from __future__ import annotations

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from bench.settings.registries import (
    CHANNELS,
    NETWORKS,
    chosen_arguments,
    register_network,
    residual_blocks,
)
from results.errors import BenchError
from results.store.settings import DEFAULT_WIDTH


def build_network(name: str, num_classes: int, width: int = DEFAULT_WIDTH, channels: int = CHANNELS) -> nn.Module:
    """The network that is registered under the name, or a ResNet. One that is not ours initialises itself.

    Raises:
        BenchError: an unknown name, a depth that is not 6n+2, a width where the network has none, a number of channels
            that it does not take, or a builder that gives no module, or one whose state is not of tensors alone.
    """
    if name not in NETWORKS:
        return ResNet(residual_blocks(name), width, num_classes, channels)
    builder = NETWORKS.find(name)
    network = builder(num_classes, **chosen_arguments(name, builder, width, channels))
    if not isinstance(network, nn.Module):
        raise BenchError(f"model = {name!r}: its builder must return a torch.nn.Module, gave {type(network).__name__}")
    for key, value in network.state_dict().items():
        if not isinstance(value, Tensor):
            raise BenchError(f"model = {name!r}: {key} of its state_dict must be a tensor, is {type(value).__name__}")
    return network


class ResNet(nn.Module):
    """The CIFAR ResNet of depth 6n+2: three stages of n basic blocks, 1×1 convolutions where the shape changes.

    Its first convolution is 3×3, or cuts the images into patches.
    """

    def __init__(
        self, blocks: int, width: int, num_classes: int, channels: int = CHANNELS, patch: int | None = None
    ) -> None:
        super().__init__()
        self.patch = patch
        self.stem = _conv_norm(channels, width, kernel=patch or 3, stride=patch or 1)
        widths = [width, width, 2 * width, 4 * width]
        self.blocks = nn.Sequential(
            *(
                BasicBlock(widths[stage - 1] if first else widths[stage], widths[stage], 2 if first else 1)
                for stage in (1, 2, 3)
                for first in [stage > 1] + [False] * (blocks - 1)
            )
        )
        self.head = Head(4 * width, num_classes)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (batch, channel, height, width) -> logits (batch, num_classes)."""
        features = self.blocks(F.relu(self.stem(images), inplace=True))
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut (He et al. 2016)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.first = _conv_norm(channels_in, channels_out, kernel=3, stride=stride)
        self.second = _conv_norm(channels_out, channels_out, kernel=3, stride=1)
        same = stride == 1 and channels_in == channels_out
        self.shortcut: nn.Module = (
            nn.Identity() if same else _conv_norm(channels_in, channels_out, kernel=1, stride=stride)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features (batch, channels_in, height, width) -> (batch, channels_out, height/stride, width/stride)."""
        # In place: what batch norm puts out nobody needs again, and memory is most of what it costs.
        inside = F.relu(self.first(features), inplace=True)
        return F.relu(self.second(inside).add_(self.shortcut(features)), inplace=True)


@register_network("tiny")
class Tiny(nn.Module):
    """Three strided convolutions: enough for the synthetic images, cheap enough for a smoke run."""

    def __init__(self, num_classes: int, width: int = DEFAULT_WIDTH, channels: int = CHANNELS) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _conv_norm(channels, width, kernel=5, stride=2),
            nn.ReLU(inplace=True),
            _conv_norm(width, 2 * width, kernel=3, stride=2),
            nn.ReLU(inplace=True),
            _conv_norm(2 * width, 4 * width, kernel=3, stride=2),
            nn.ReLU(inplace=True),
        )
        self.head = Head(4 * width, num_classes)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (batch, channel, height, width) -> logits (batch, num_classes)."""
        logits: Tensor = self.head(self.layers(images).mean(dim=(2, 3)))
        return logits


@register_network("patches")
def patches(num_classes: int, width: int = DEFAULT_WIDTH, channels: int = CHANNELS) -> ResNet:
    """ResNet-8 on patches of 4×4 pixels: at twice its width trained four times as fast, for models of minutes."""
    return ResNet(blocks=1, width=width, num_classes=num_classes, channels=channels, patch=4)


class Head(nn.Linear):
    """The last layer, in float32 also under autocast: in bf16 logits between 8 and 16 are 1/16 apart, and of classes
    that tie the first would be the answer."""

    def forward(self, features: Tensor) -> Tensor:
        """Features (batch, in_features) of any precision -> logits (batch, out_features), float32."""
        return _exact_linear(features, self.weight, self.bias)


@torch.fx.wrap  # which cannot look into it: a context is no operation
def _exact_linear(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    with torch.autocast(features.device.type, enabled=False):
        return F.linear(features.float(), weight.float(), bias.float())


def _conv_norm(channels_in: int, channels_out: int, *, kernel: int, stride: int) -> nn.Sequential:
    padding = (kernel - stride + 1) // 2  # so that the stride alone decides the size
    convolution = nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=padding, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
