"""Certificates held against the truth, and counts of noise samples that one test draws and others take again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from unittest.mock import patch

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.certify.smoothing import Certificate, Smoothed
from bench.machine.randomness import Role

Floats = NDArray[np.float64]
Kept = dict[tuple[object, ...], list[Tensor]]
"""By σ, image, seed and index, sizes, and role: classifiers must differ in σ or in their images."""


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)  # batches are tiny


@contextmanager
def counted(kept: Kept, *, again: bool = False) -> Iterator[None]:
    """All that is drawn is kept; `again`: what is kept is not drawn once more, only what goes beyond it."""
    draw = Smoothed._drawn_counts

    def counts(
        self: Smoothed,
        classify: Callable[[Tensor], Tensor],
        image: Tensor,
        place: tuple[int, int],
        sizes: Sequence[int],
        role: Role,
        **soft: None,
    ) -> Iterator[Tensor]:
        key = (self.sigma, tuple(image.tolist()), place, tuple(sizes), role)
        known = kept[key] = kept.get(key, []) if again else []
        yield from known
        for found in islice(draw(self, classify, image, place, sizes, role, **soft), len(known), None):
            known.append(found)
            yield found

    with patch.object(Smoothed, "_drawn_counts", counts):
        yield


def column(certificates: list[Certificate], name: str) -> Floats:
    return np.array([getattr(certificate, name) for certificate in certificates], dtype=np.float64)


def surprise(wrong: NDArray[np.bool_], chance: Floats) -> float:
    """How many standard deviations more are wrong than expected."""
    return float((wrong.sum() - chance.sum()) / math.sqrt((chance * (1 - chance)).sum()))
