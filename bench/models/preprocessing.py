"""What a published network expects of its input, moved behind the noise: the noise is added to the image in [0, 1], and
the noisy image is resized and normalised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models.external import logits_of
from bench.settings.normalisation import Normalisation


@dataclass(frozen=True)
class Expected:
    """The input of a network as its publisher states it."""

    normalisation: Normalisation | None
    """Of pixels in [0, 1]; None: the network takes them as they are."""
    size: tuple[int, int] | None = None
    """(height, width); None: any."""
    interpolation: str = "bilinear"
    """bilinear or bicubic, with antialiasing."""
    channels: int | None = None
    """Of the images, where the network says it itself."""


class Preprocessed(nn.Module):
    """Resizing, normalisation, network: (batch, channel, height, width) in [0, 1], noise added, -> logits.

    An image of another size than the network's is resized as a whole; one of that size is left alone, so there is no
    cropping behind the noise. Nothing is clipped.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, expected: Expected, class_names: Sequence[str] = ()) -> None:
        """class_names: of the logits in their order, where the publisher gives them."""
        super().__init__()
        normalisation = expected.normalisation or Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(normalisation, name)).view(1, -1, 1, 1))
        self.network = network
        self.size = expected.size
        self.interpolation = expected.interpolation
        self.class_names = list(class_names)
        self.normalises = expected.normalisation is not None
        self.channels = expected.channels or (normalisation.channels if self.normalises else None)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, num_classes)."""
        if self.size is not None and images.shape[-2:] != self.size:
            images = F.interpolate(images, self.size, mode=self.interpolation, antialias=True)
        if self.normalises:
            images = (images - self.mean) / self.std
        return logits_of(self.network(images))
