"""What a model says of noise samples of all training images, for methods that choose or weigh images by it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from bench.data import ImageSet
from bench.machine.advance import advance
from bench.machine.normals import NormalStream
from bench.machine.randomness import Role, generator
from bench.settings.trial import Trial
from bench.train.augment import crop_and_flip, random_shifts

SURVEY_BATCH = 256
"""Noise samples of a forward pass."""


def shifted(trial: Trial, data: ImageSet, device: torch.device, *indices: int) -> Tensor:
    """The training images (count, channel, height, width), uint8, each in one random crop and flip, the same for all
    its noise samples; as they are where the trial trains on them so. Indices tell this survey from others of the
    trial."""
    images = torch.from_numpy(data.pixels).to(device)
    if not trial.train.augment:
        return images
    offsets, flips = random_shifts(len(images), generator(device, trial.seed, Role.SURVEY_SHIFTS, *indices))
    return crop_and_flip(images, offsets, flips & data.flip)


@torch.no_grad()
def survey(trial: Trial, epoch: int, copies: int, model: nn.Module, data: ImageSet, accelerator: Accelerator) -> Tensor:
    """How often each class is the model's answer among `copies` noise samples of each training image: (count,
    num_classes), int64, the same on every rank. The noise of an image depends on (seed, epoch, copies, image) alone.

    Args:
        model: put into evaluation mode.
    """
    model.eval()
    device, ranks, rank = accelerator.device, accelerator.num_processes, accelerator.process_index
    pixels = shifted(trial, data, device, epoch, copies)
    counts = torch.zeros((len(pixels), data.num_classes), dtype=torch.int64, device=device)
    stream = NormalStream(trial.seed, Role.SURVEY, epoch, copies)
    mine = torch.arange(rank * len(pixels) // ranks, (rank + 1) * len(pixels) // ranks, device=device)
    for part in mine.split(max(1, SURVEY_BATCH // copies)):
        if not len(part):  # fewer images than ranks
            break
        noise = stream.draw(int(part[0]) * copies, (len(part) * copies, *pixels.shape[1:]), device)
        noisy = (pixels[part].float() / 255).repeat_interleave(copies, dim=0) + trial.sigma * noise
        with accelerator.autocast():
            answers = [
                model(batch.contiguous(memory_format=torch.channels_last)).argmax(dim=1)
                for batch in noisy.split(SURVEY_BATCH)
            ]
        advance.steps += 1
        counts[part] = F.one_hot(torch.cat(answers).view(-1, copies), data.num_classes).sum(dim=1)
    total: Tensor = accelerator.reduce(counts, "sum")
    return total
