"""What the first layer of every classifier does to pixels. It belongs to the data; without torch."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from results.errors import BenchError


@dataclass(frozen=True)
class Normalisation:
    """(x − mean) / std for each channel, of pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        """Raises BenchError where the numbers are not one mean and one positive std for each channel."""
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        if not self.mean or len(self.mean) != len(self.std):
            raise BenchError(
                f"a normalisation must have a mean and a std for each channel, not {self.mean}, {self.std}"
            )
        if not all(map(isfinite, self.mean + self.std)) or min(self.std) <= 0:
            raise BenchError(f"a normalisation must have finite means and a std above 0, not {self.mean}, {self.std}")

    @property
    def channels(self) -> int:
        """For how many it is."""
        return len(self.mean)


CIFAR10 = Normalisation(mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))
GREY = Normalisation(mean=(0.4734,), std=(0.2009,))
"""Of one channel: the means of CIFAR-10's three."""


def usual(channels: int) -> Normalisation:
    """That of data which says nothing of its own: CIFAR-10's, or in one channel `GREY`."""
    return GREY if channels == 1 else CIFAR10
