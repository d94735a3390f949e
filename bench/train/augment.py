"""Random crop and flip of a whole batch on its device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PADDING = 4


def random_shifts(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Crop offsets (count, 2) in 0 … 2 · padding, and flips (count,), bool."""
    device = generator.device
    offsets = torch.randint(0, 2 * PADDING + 1, (count, 2), generator=generator, device=device)
    flips = torch.randint(0, 2, (count,), generator=generator, device=device).bool()
    return offsets, flips


def crop_and_flip(images: Tensor, offsets: Tensor, flips: Tensor) -> Tensor:
    """Crop each image to its own size from a zero-padded copy at its offset, then mirror where flips is true.

    images: (batch, channel, height, width), any type; offsets: (batch, 2), rows then columns; flips: (batch,).
    """
    batch, _, height, width = images.shape
    padded = F.pad(images, (PADDING,) * 4)
    rows = offsets[:, :1] + torch.arange(height, device=images.device)
    columns = offsets[:, 1:] + torch.arange(width, device=images.device)
    columns = torch.where(flips[:, None], columns.flip(1), columns)
    batch_index = torch.arange(batch, device=images.device)[:, None, None]
    cropped = padded.permute(0, 2, 3, 1)[batch_index, rows[:, :, None], columns[:, None, :]]
    return cropped.permute(0, 3, 1, 2)
