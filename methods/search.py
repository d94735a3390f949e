"""Over which values the options of a method are searched: plain data, which `bench tune` reads."""

from __future__ import annotations

import math
from dataclasses import dataclass

DIGITS = 3
"""Of a number that is drawn; more would say nothing."""


@dataclass(frozen=True)
class Between:
    """A number from `low` to `high`; a whole one, `high` included, where both are whole. With `log` each factor is as
    likely as the next, as for weights and lengths, whose order of magnitude is in question."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not (self.low < self.high and (self.low > 0 or not self.log)):
            raise ValueError(f"{self}: must rise, and begin above 0 where it is searched by factors")

    def at(self, share: float) -> int | float:
        """The value below which that share of the draws lies; share in [0, 1)."""
        whole = isinstance(self.low, int) and isinstance(self.high, int)
        low, high = float(self.low), float(self.high) + whole
        value = low * math.exp(share * math.log(high / low)) if self.log else low + share * (high - low)
        return min(int(value), int(self.high)) if whole else float(f"{value:.{DIGITS}g}")

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}" + ", by factors" * self.log


@dataclass(frozen=True)
class Among:
    """One of some values, each as likely as the next."""

    values: tuple[bool | int | float | str, ...]

    def at(self, share: float) -> bool | int | float | str:
        """The value below which that share of the draws lies; share in [0, 1)."""
        return self.values[int(share * len(self.values))]

    def __str__(self) -> str:
        return " or ".join(map(str, self.values))
