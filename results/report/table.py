"""A table of results, before it is formatted: columns, rows of measured and published numbers, sentences."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from results.analysis.statistics import Interval
from results.printable import sigma_text


@dataclass(frozen=True)
class Column:
    """A column of numbers."""

    key: str
    heading: str
    decimals: int | None
    """None: three significant digits, and from 100 on no fraction."""
    best: str = ""
    """"max" or "min": which value is set in bold; empty for none."""
    unit: str = ""
    alone: str = ""
    """The heading where no other column stands beside it; empty: the same."""
    on_terminal: bool = True
    """False: only in the files and on the page, where there is more room."""
    absent: str = ""
    """What stands where a row has no number."""


@dataclass(frozen=True)
class Row:
    """One method at one σ. Every dictionary is keyed by the column's key."""

    sigma: float
    method: str
    title: str
    measured: dict[str, float]
    """The mean over the training seeds; none where the row is of published numbers alone."""
    published: dict[str, float] = field(default_factory=dict)
    """As printed by the source."""
    intervals: dict[str, Interval] = field(default_factory=dict)
    """95 %, for the uncertainty of the test images."""
    seeds: dict[str, list[float]] = field(default_factory=dict)
    """The number of each training seed; empty where there is one."""
    of_certification: bool = False
    """Whether the seeds are of the certification's noise alone."""
    best_sigmas: dict[str, float] = field(default_factory=dict)
    """Of the best of several σ: which it was."""
    sigmas: tuple[float, ...] = ()
    """Those of which it is the best; none where the row is of `sigma` alone."""
    setting: tuple[object, ...] = ()
    """Data, images, n, n0, alpha, estimator, arithmetic: only rows that agree in it are ranked against each other."""
    settings: dict[str, tuple[object, ...]] = field(default_factory=dict)
    """Of columns in which rows compare that agree in less: what these agree in, in the place of `setting`."""
    difference_intervals: dict[str, Interval] = field(default_factory=dict)
    """95 %, of measured minus published, for the uncertainty of the test images of both; of accuracies and ACR, where
    the data is that of the published numbers."""
    published_images: int = 0
    """Test images of the published numbers, as far as known or assumed."""
    of_published_data: bool = True
    """Whether the data is that of the published numbers."""
    apart: tuple[str, ...] = ()
    """Why the numbers do not compare with the published ones."""

    @property
    def sigma_text(self) -> str:
        """What stands in the column of σ."""
        return ", ".join(f"{sigma:g}" for sigma in self.sigmas) or sigma_text(
            self.sigma, ".2f" if round(self.sigma, 2) == self.sigma else "g"
        )

    def difference(self, key: str) -> float | None:
        """Measured minus published; None where one is unknown."""
        if key not in self.measured or key not in self.published:
            return None
        return self.measured[key] - self.published[key]

    def is_outside(self, key: str) -> bool:
        """Whether the measured number differs from the published one by more than the test images of both explain; of
        another setting it would anyway, which is not asked."""
        interval = self.difference_intervals.get(key)
        return bool(interval and 0 not in interval and not self.apart)

    def spread(self, key: str) -> float | None:
        """Standard deviation over the training seeds, with ddof = 1; None for one seed."""
        values = np.array(self.seeds.get(key, []))
        # Less the first: of equal numbers it is 0, and not the rounding of their mean.
        return float(np.std(values - values[0], ddof=1)) if len(values) > 1 else None


@dataclass(frozen=True)
class ResultTable:
    """A table, before it is formatted."""

    name: str
    """Of its files, and of its label in LaTeX."""
    title: str
    """What it shows, in a line."""
    columns: list[Column]
    rows: list[Row]
    setting: list[str]
    """Sentences: how the numbers were measured; the same for all tables of a run."""
    caption: list[str]
    """Sentences: where the thesis has it, and what the columns of this one are."""
    notes: list[str] = field(default_factory=list)
    """Sentences: what is odd about the published ones."""
    warnings: list[str] = field(default_factory=list)
    """Sentences: what the numbers give away of a model that is not what it should be."""

    @property
    def kind_of_seeds(self) -> str:
        """What several seeds of its rows are of."""
        kinds = {row.of_certification for row in self.rows if row.seeds}
        return {(True,): "certification seeds", (False, True): "seeds"}.get(tuple(sorted(kinds)), "training seeds")

    def best(self, row: Row, column: Column) -> bool:
        """Whether the row's measured value is the best of its σ and setting."""
        if not column.best or column.key not in row.measured:
            return False
        values = [other.measured[column.key] for other in rivals(self.rows, row, column.key)]
        best, worst = (max(values), min(values)) if column.best == "max" else (min(values), max(values))

        def equal(one: float, other: float) -> bool:
            return math.isclose(one, other, rel_tol=1e-9)  # a mean of seeds may be off by a rounding

        return not equal(best, worst) and equal(row.measured[column.key], best)


def rivals(rows: list[Row], row: Row, key: str) -> list[Row]:
    """The rows, this one among them, whose number in a column compares with the row's: same σ and setting."""

    def of(one: Row) -> tuple[object, ...]:
        return one.sigma, one.settings.get(key, one.setting)

    return [other for other in rows if key in other.measured and of(other) == of(row)]
