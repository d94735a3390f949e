"""Every random stream of the harness, derived from seeds and indices; nothing depends on the number of workers."""

from __future__ import annotations

from enum import IntEnum

import torch
from numpy.random import SeedSequence


class Role(IntEnum):
    """What a stream is for. The numbers are part of every published result: never reuse or renumber one."""

    INITIALISE = 1
    ORDER = 2
    AUGMENT = 3
    TRAIN_NOISE = 4
    TEST_NOISE = 5
    SELECT = 6
    """Certification, stage one: which class (n0 copies)."""
    ESTIMATE = 7
    """Certification, stage two: how probable it is (n copies)."""
    PREDICT = 8
    ATTACK = 9


def derived_seed(seed: int, role: Role, *indices: int) -> int:
    """A 63-bit seed for the stream (seed, role, indices); numpy.random.SeedSequence keeps any two apart.

    The number of indices goes in because SeedSequence takes (1,) and (1, 0) for the same.
    """
    return int(SeedSequence([seed, role, len(indices), *indices]).generate_state(1, "uint64")[0] >> 1)


def generator(device: torch.device, seed: int, role: Role, *indices: int) -> torch.Generator:
    """A torch generator on `device` for the stream (seed, role, indices)."""
    return torch.Generator(device).manual_seed(derived_seed(seed, role, *indices))
