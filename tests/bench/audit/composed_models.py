"""Models of which the tests of composed classifiers consist, found by name, as `bench verify` needs them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.data import load_images


def nearest() -> nn.Module:
    """The nearest of the mean images of the synthetic classes, as one linear layer."""
    data = load_images("synthetic", "train")
    images = torch.from_numpy(data.images).float().flatten(1) / 255
    means = torch.stack([images[torch.from_numpy(data.labels) == label].mean(0) for label in range(data.num_classes)])
    linear = nn.Linear(means.shape[1], len(means))
    linear.weight.data, linear.bias.data = means, -means.square().sum(1) / 2
    return nn.Sequential(nn.Flatten(), linear)


class Bright(nn.Module):
    """Class 0 where four pixels are dark, class 1 where they are bright: few enough for noise to matter."""

    def forward(self, images: Tensor) -> Tensor:
        brightness = images[:, 0, 16, 14:18].mean(dim=1) - 0.5
        return torch.stack([-brightness, brightness], dim=1)


def bright() -> nn.Module:
    """A selector of two."""
    return Bright()


class Clean(nn.Module):
    """A diffusion model that takes its image for clean."""

    def forward(self, images: Tensor, _steps: Tensor) -> Tensor:
        return images


def clean() -> nn.Module:
    """A denoiser."""
    return Clean()
