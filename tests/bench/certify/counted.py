"""Counts of noise samples, drawn by one test and kept for those in which something else is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from unittest.mock import patch

from torch import Tensor

from bench.certify.smoothing import Smoothed
from bench.machine.randomness import Role

Kept = dict[tuple[object, ...], list[Tensor]]
"""By σ, image, seed and index, sizes, and role: classifiers must differ in σ or in their images."""


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
