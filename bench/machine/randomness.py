"""Every random stream of the harness, derived from seeds and indices; nothing depends on the number of workers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import numpy as np
import torch
from numpy.random import SeedSequence
from numpy.typing import NDArray


class Role(IntEnum):
    """What a stream is for. The numbers are part of every published result: never reuse or renumber one."""

    INITIALISE = 1
    ORDER = 2
    AUGMENT = 3
    TRAIN_NOISE = 4
    TEST_NOISE = 5
    SELECT = 6
    """Certification, stage one: which class (n0 samples)."""
    ESTIMATE = 7
    """Certification, stage two: how probable it is (n samples)."""
    PREDICT = 8
    ATTACK = 9
    UNIFORMS = 10
    """What a method draws of each image in a training step besides noise."""
    SURVEY = 11
    """Noise under which a model votes on its training images."""
    SURVEY_SHIFTS = 12
    JUDGE = 13
    """Samples that decide whether an attacked image has fallen."""
    BASE = 17
    """One sample of each certified image, for the accuracy of the base classifier."""
    PART = 18
    """The seeds of the parts of a composed classifier."""
    TRAINING = 19
    """What a network or a method draws by itself, such as dropout."""


def derived_seed(seed: int, role: Role, *indices: int) -> int:
    """A 63-bit seed for the stream (seed, role, indices).

    torch's generators on the CPU keep 32 bits of a seed. That will do to initialise a model; else see `generator`.
    """
    return int(_sequence(seed, role, *indices).generate_state(1, "uint64")[0] >> 1)


def generator(device: torch.device, seed: int, role: Role, *indices: int) -> torch.Generator:
    """A torch generator on `device` for the stream (seed, role, indices). Its numbers depend on the kind of device, so
    noise is drawn by `bench.machine.normals` instead.

    On the CPU the whole state of its Mersenne Twister is set (624 words): with 32 bits of seed, two of the 100 000
    steps of a long trial would likely share their shifts and flips.
    """
    drawn = torch.Generator(device)
    if device.type != "cpu":
        return drawn.manual_seed(derived_seed(seed, role, *indices))
    state = _FRESH_STATE.clone()
    words = _sequence(seed, role, *indices).generate_state(624).astype(np.uint64)
    words[0] = 1 << 31  # as every seeding of a Mersenne Twister by an array does: never all zeros
    state[_WORDS] = torch.from_numpy(words.view(np.uint8))
    return drawn.set_state(state)


@contextmanager
def seeded(device: torch.device, seed: int, role: Role, *indices: int) -> Iterator[None]:
    """A block in which torch's own generators on the CPU and on `device`, Python's and NumPy's, from which code that is
    not ours may draw, give numbers of the stream (seed, role, indices); afterwards they go on as before."""
    first = derived_seed(seed, role, *indices)
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(first)
        random.seed(first)
        np.random.seed(first % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def stream_key(seed: int, role: Role, *indices: int) -> NDArray[np.uint64]:
    """The 128 bits, two words, that tell the stream (seed, role, indices) of `bench.machine.normals` from all others.
    Two of 10⁹ streams share theirs with a probability of 10⁻²¹.

    A seed from 2³² on is two words to SeedSequence: here every seed is, lest one word be taken for a role.
    """
    sequence = SeedSequence([seed % 2**32, seed >> 32, role, len(indices), *indices])
    return sequence.generate_state(2, np.uint64).astype(np.uint64)


def _sequence(seed: int, role: Role, *indices: int) -> SeedSequence:
    """The number of indices goes in because SeedSequence takes (1,) and (1, 0) for the same."""
    return SeedSequence([seed, role, len(indices), *indices])


# How torch lays out a CPU generator's state: 24 bytes of bookkeeping, 624 words of 8 bytes, what is left of a pair of
# normal numbers. The test of this module knows the Mersenne Twister and would see another layout.
_FRESH_STATE = torch.Generator().manual_seed(0).get_state()
_WORDS = slice(24, 24 + 624 * 8)
