"""How ACR depends on the options of a method, where rows of a run are a sweep."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from results.analysis.statistics import acr_interval
from results.analysis.sweeps import Sweep
from results.printable import named_sigma
from results.report.figures.style import COLOURS, DASHES, MARKERS, legend_below, panels, styled

SYMBOLS = {
    "strength": "λ",
    "entropy_weight": "η",
    "inverse_temperature": "β",
    "margin": "γ",
    "copies": "m",
    "threshold": "τ",
}
"""Of options, as in the papers."""
OTHER_SYMBOLS = {("direct", "strength"): "β"}
SEED = 0  # of the bootstrap, as for the tables
WIDE = 8.0
"""Where the largest value is so many times the smallest, the axis is logarithmic."""
NOTE = (
    "A panel is of rows that have the same settings but for the option below it. Filled: the row from which the others "
    "differ in one option. Bars: 95 % intervals for the uncertainty of the test images (studentised bootstrap), which "
    "do not cover that of the training; means over the seeds."
)


def figure_sensitivity(sweeps: list[Sweep]) -> Figure:
    """ACR against the value of an option, one panel per method and option, one line per σ.

    Args:
        sweeps: at least one, as `find_sweeps` gives them.
    """
    shown: dict[tuple[str, str], list[Sweep]] = {}
    for sweep in sweeps:
        shown.setdefault((sweep.method, sweep.option), []).append(sweep)
    sigmas = sorted({sweep.sigma for sweep in sweeps})
    entries: dict[str, Artist] = {}
    with styled():
        figure, axes = panels("ACR against the options of a method", len(shown))
        for panel, ((method, option), own) in zip(axes, shown.items(), strict=True):
            for sweep in own:
                place = sigmas.index(sweep.sigma)
                entries[named_sigma(sweep.sigma)] = _draw(panel, sweep, place)
            symbol = OTHER_SYMBOLS.get((method, option), SYMBOLS.get(option, ""))
            panel.set(title=method, xlabel=f"{option} ({symbol})" if symbol else option, ylabel="ACR")
            panel.set_ylim(bottom=0)
            _place_ticks(panel, {value for sweep in own for value, _ in sweep.rows})
        ordered = {name: entries[name] for name in (named_sigma(sigma) for sigma in sigmas)}
        legend_below(figure, ordered, NOTE)
    return figure


def _draw(panel: Axes, sweep: Sweep, place: int) -> Line2D:
    colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
    values = [value for value, _ in sweep.rows]
    radii = [(group.certificates["radius"] * group.certificates["correct"]).mean() for _, group in sweep.rows]
    intervals = [acr_interval(group.certificates, np.random.default_rng(SEED)) for _, group in sweep.rows]
    for value, interval in zip(values, intervals, strict=True):
        if interval:
            middle, half = (interval.upper + interval.lower) / 2, (interval.upper - interval.lower) / 2
            panel.errorbar(value, middle, half, fmt="none", ecolor=colour, elinewidth=1, capsize=3)
    look: dict[str, Any] = {"color": colour, "linestyle": DASHES[place % len(DASHES)], "marker": marker}
    [line] = panel.plot(values, radii, **look, markerfacecolor="white", markeredgewidth=1.1)
    base = values.index(sweep.base)
    panel.plot(values[base], radii[base], color=colour, marker=marker, linestyle="none")
    return line


def _place_ticks(panel: Axes, values: Iterable[float]) -> None:
    """Ticks at the values, as far as they are few."""
    at = sorted(values)
    if at[0] > 0 and at[-1] >= WIDE * at[0]:
        panel.set_xscale("log")
        panel.xaxis.set_minor_locator(NullLocator())
    if len(at) <= 8:
        panel.xaxis.set_major_locator(FixedLocator(at))
    panel.xaxis.set_major_formatter("{x:g}")
