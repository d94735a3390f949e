"""Which images, shifts and noise a rank trains on: the same images with the same, whichever rank has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from accelerate import Accelerator
from torch import Tensor

from bench.machine.normals import NormalStream
from bench.machine.randomness import Role, generator
from bench.settings.trial import Trial
from bench.train.augment import random_shifts


@dataclass(frozen=True)
class Batch:
    """A rank's part of one global batch."""

    indices: Tensor
    """(part,), positions in the training set."""
    offsets: Tensor
    flips: Tensor
    noise: Tensor
    """(m, part, channel, height, width), standard normal."""
    uniforms: Tensor
    """(k, part), on [0, 1)."""
    weight: float
    """part · ranks / global batch; 0 on a rank that has nothing and only keeps the others company."""
    global_size: int


def batches(
    trial: Trial,
    epoch: int,
    count: int,
    shape: tuple[int, ...],
    accelerator: Accelerator,
    memory: Mapping[str, Tensor] = MappingProxyType({}),
) -> Iterator[Batch]:
    """This rank's part of every batch of an epoch; over all ranks, as many images as there are, `count`, in the order
    that the method gives: each exactly once, unless it says otherwise. Noise is that of the image's place in the batch
    and of the copy."""
    device, ranks, rank = accelerator.device, accelerator.num_processes, accelerator.process_index
    method = trial.objective
    order = method.order(count, memory, generator(device, trial.seed, Role.ORDER, epoch))
    for step, whole in enumerate(order.split(trial.images_per_step)):
        moves = generator(device, trial.seed, Role.AUGMENT, epoch, step)
        offsets, flips = random_shifts(len(whole), moves)
        first, last = rank * len(whole) // ranks, (rank + 1) * len(whole) // ranks
        weight = (last - first) * ranks / len(whole)
        if first == last:  # fewer images than ranks
            first, last = 0, 1
        part, places = slice(first, last), range(first, method.copies * len(whole), len(whole))
        stream = NormalStream(trial.seed, Role.TRAIN_NOISE, epoch, step)
        noise = torch.stack([stream.draw(place, (last - first, *shape), device) for place in places])
        uniforms = torch.empty((method.uniforms, len(whole)), device=device)
        if method.uniforms:
            uniforms.uniform_(generator=generator(device, trial.seed, Role.UNIFORMS, epoch, step))
        yield Batch(whole[part], offsets[part], flips[part], noise, uniforms[:, part], weight, len(whole))
