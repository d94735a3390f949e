"""The best of several σ: certified accuracy of a method at each radius, at whichever σ gives most of it there.

So papers on denoised smoothing report their models (Salman et al. 2020; Carlini et al. 2023). It is the accuracy of no
one classifier, and chosen on the test images themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from results.analysis.groups import SAME, Group, setting_of
from results.analysis.metrics import certified_accuracies
from results.printable import PER_INPUT


@dataclass(frozen=True)
class Envelope:
    """A method at several σ, on the same images with the same n, n0 and alpha."""

    groups: list[Group]
    """One for each σ, rising."""

    @property
    def method(self) -> str:
        """The row's name."""
        return self.groups[0].method

    @property
    def title(self) -> str:
        """The row's title."""
        return self.groups[0].title

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Rising."""
        return tuple(group.sigma for group in self.groups)

    def best(self, radii: Sequence[float] | NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The largest certified accuracy at each radius, means over the seeds, and the σ that has it: the smallest of
        equal ones, and NaN where it is 0 at all of them. Both (radii,)."""
        at = np.asarray(radii, np.float64)
        accuracies = np.stack([certified_accuracies(group.certificates, at) for group in self.groups])
        largest = accuracies.max(axis=0)
        return largest, np.where(largest > 0, np.array(self.sigmas)[accuracies.argmax(axis=0)], np.nan)


def envelopes(groups: list[Group]) -> list[Envelope]:
    """Of the methods that are there at several σ with the same setting and images, in the order of the groups."""
    together: dict[tuple[object, ...], list[Group]] = {}
    for group in groups:
        if group.sigma == PER_INPUT:  # where it is chosen for each image already
            continue
        together.setdefault((group.method, *setting_of(group, *SAME)), []).append(group)
    return [Envelope(sorted(own, key=lambda group: group.sigma)) for own in together.values() if len(own) > 1]
