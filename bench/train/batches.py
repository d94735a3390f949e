"""Which images, shifts and noise a rank trains on, drawn alike on every rank for the whole global batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

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
    weight: float
    """part · ranks / global batch; 0 on a rank that has nothing and only keeps the others company."""
    global_size: int


def batches(trial: Trial, epoch: int, count: int, shape: tuple[int, ...], accelerator: Accelerator) -> Iterator[Batch]:
    """This rank's part of every batch of an epoch; over all ranks, each of `count` images comes exactly once."""
    device, ranks, rank = accelerator.device, accelerator.num_processes, accelerator.process_index
    size, copies = trial.images_per_step, trial.objective.copies
    order = torch.randperm(count, generator=generator(device, trial.seed, Role.ORDER, epoch), device=device)
    for step, whole in enumerate(order.split(size)):
        moves = generator(device, trial.seed, Role.AUGMENT, epoch, step)
        offsets, flips = random_shifts(len(whole), moves)
        draw = generator(device, trial.seed, Role.TRAIN_NOISE, epoch, step)
        first, last = rank * len(whole) // ranks, (rank + 1) * len(whole) // ranks
        weight = (last - first) * ranks / len(whole)
        if first == last:  # fewer images than ranks
            first, last = 0, 1
        noise = torch.randn((copies, len(whole), *shape), generator=draw, device=device)
        part = slice(first, last)
        yield Batch(whole[part], offsets[part], flips[part], noise[:, part], weight, len(whole))
