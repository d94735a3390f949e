"""The look of all figures: told apart by colour-blind readers, and in grey by dashes and markers."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib import style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from results.analysis import published
from results.printable import named_sigma
from results.store.folder import AnyPath, write_whole
from results.store.run import Run

# Okabe & Ito's palette without its yellow, which is too pale for a line on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
Dash = str | tuple[int, tuple[float, ...]]
DASHES: tuple[Dash, ...] = (
    "-",
    (0, (5, 1.5)),
    (0, (6, 1.5, 1, 1.5)),
    (0, (1, 1)),
    (0, (6, 1, 1, 1, 1, 1)),
    (0, (12, 2)),
    (0, (2, 2.5)),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "<")

PANEL_WIDTH, PANEL_HEIGHT, TITLE_HEIGHT = 4.4, 3.4, 0.25
"""Inches."""
COLUMNS = 3
"""Panels beside each other at most: more would not be readable at the width of a page."""

DPI = 150
"""Of the PNGs."""
THIN = 0.5
"""Points; of a line for one of several seeds."""
SMALL_PRINT: dict[str, Any] = {"fontsize": 8, "color": "0.3"}
_RC: dict[str, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "figure.constrained_layout.use": True,
    "figure.titlesize": 11,
    "font.size": 9,
    "grid.alpha": 0.3,
    "grid.linewidth": 0.6,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.handlelength": 3.2,  # long enough to show a whole period of the dashes
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
}


def styled(changes: Mapping[str, Any] | None = None) -> AbstractContextManager[None]:
    """The style, whatever the user's own matplotlibrc says; with some of its settings changed."""
    context: AbstractContextManager[None] = style.context(["default", {**_RC, **(changes or {})}])
    return context


@dataclass(frozen=True)
class Look:
    """How one method is drawn in every figure of a run."""

    colour: str
    dash: Dash
    marker: str

    @property
    def line(self) -> dict[str, Any]:
        """Colour and dashes, as arguments of matplotlib's `plot`."""
        return {"color": self.colour, "linestyle": self.dash}

    @property
    def points(self) -> dict[str, Any]:
        """Hollow markers without a line, likewise."""
        return {
            "color": self.colour,
            "linestyle": "none",
            "marker": self.marker,
            "markerfacecolor": "white",
            "markeredgewidth": 1.1,
        }


def looks(run: Run) -> dict[str, Look]:
    """A look for every method of the run, decided by its place in the list of the run's methods.

    That list holds the thesis's methods first, in its order, so that they look the same in most runs, and also methods
    that only an ensemble's members are trained with. After seven methods the colours come again, with other dashes.
    Methods of a colour group have the colour of the first of them, or of the method called so, with other dashes.
    """
    there = dict.fromkeys([*run.planned["method"], *run.trials["method"], *run.epochs["method"]])
    methods = [*(method for method in published.ACCURACY_ORDER if method in there)]
    methods += [method for method in there if method not in methods]
    groups = {
        method: group
        for trials in (run.planned, run.trials)
        for method, group in zip(trials["method"], trials["colour_group"], strict=True)
        if isinstance(group, str)
    }
    leaders = {group: group if group in there else method for method, group in reversed(groups.items())}
    followers = {
        method: leaders[group] for method, group in groups.items() if method not in {leaders[group], *leaders.values()}
    }
    found = {method: _look(place) for place, method in enumerate(m for m in methods if m not in followers)}
    for method, leader in followers.items():
        found[method] = _beside(found[leader], found.values())
    return {method: found[method] for method in methods}


def _beside(leader: Look, taken: Iterable[Look]) -> Look:
    """The first look of the leader's colour that is not taken; where all are, the leader's."""
    free = [Look(leader.colour, dash, marker) for dash, marker in zip(DASHES, MARKERS, strict=True)]
    return next((look for look in free if look not in [*taken]), leader)


def _look(place: int) -> Look:
    # Each time the colours come again, dashes and markers are three further: no look comes twice in forty-nine, and
    # lines that are often compared (a method and its variants) differ in grey, too.
    again = place + 3 * (place // len(COLOURS))
    return Look(COLOURS[place % len(COLOURS)], DASHES[again % len(DASHES)], MARKERS[again % len(MARKERS)])


def panels(title: str, count: int, beside: int = COLUMNS) -> tuple[Figure, list[Axes]]:
    """A figure with a title and `count` panels, at most `beside` of them beside each other."""
    columns = min(count, beside)
    rows = -(-count // columns)
    figure = Figure(figsize=(PANEL_WIDTH * columns, TITLE_HEIGHT + PANEL_HEIGHT * rows))
    figure.suptitle(title)
    return figure, [figure.add_subplot(rows, columns, place + 1) for place in range(count)]


def panels_by_sigma(title: str, sigmas: Iterable[float]) -> tuple[Figure, dict[float, Axes]]:
    """A figure with a title and one panel per σ, rising, each with its σ above it."""
    values = sorted(set(sigmas))
    figure, axes = panels(title, len(values))
    for sigma, panel in zip(values, axes, strict=True):
        panel.set_title(named_sigma(sigma))
    return figure, dict(zip(values, axes, strict=True))


def legend_below(figure: Figure, entries: dict[str, Artist], note: str = "") -> None:
    """One legend for all panels, below them, where it hides no line; `note` stands over it in small print.

    It has as many columns as fit, and the figure grows by its height.
    """
    note = _wrapped(note, figure)
    widest = 0.7 + 0.063 * max(map(len, entries))  # inches: handle and text at the legend's font size
    columns = max(1, min(len(entries), int(figure.get_figwidth() / widest)))
    lines = -(-len(entries) // columns) + note.count("\n") + bool(note)
    figure.set_figheight(figure.get_figheight() + 0.18 * lines)
    legend = figure.legend(
        entries.values(), entries.keys(), loc="outside lower center", ncols=columns, title=note or None
    )
    legend.get_title().set(**SMALL_PRINT)


def note_below(figure: Figure, note: str) -> None:
    """Small print at the foot of a figure without a legend there; the figure grows by all lines but the first."""
    note = _wrapped(note, figure)
    figure.set_figheight(figure.get_figheight() + 0.15 * note.count("\n"))
    figure.supxlabel(note, **SMALL_PRINT)


def _wrapped(note: str, figure: Figure) -> str:
    """The note in lines that fit the figure."""
    width = int(figure.get_figwidth() / 0.063)  # inches of a character in small print
    return "\n".join(textwrap.fill(line, width) for line in note.split("\n"))


def plain_log_ticks(axis: Axis) -> None:
    """Ticks of a logarithmic axis at 1, 2 and 5 times the powers of ten, written as decimals."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def words_of(figure: Figure) -> str:
    """What stands in small print under a figure."""
    titles = [legend.get_title().get_text() for legend in figure.legends]
    return " ".join(" ".join([*titles, figure.get_supxlabel()]).split())


def drawn(figure: Figure) -> dict[str, bytes]:
    """The figure as "png" (150 dpi) and "pdf"; equal figures give equal bytes."""
    found = {}
    figure.set_dpi(DPI)
    with styled():
        # Once for both: matplotlib would lay it out and draw it, to nowhere, before it draws each.
        if layout := figure.get_layout_engine():
            layout.execute(figure)
    with styled({"figure.constrained_layout.use": False}):
        figure.set_layout_engine(None)
        for kind in ("png", "pdf"):
            file = io.BytesIO()
            # The date would make two equal figures differ.
            metadata = {"CreationDate": None} if kind == "pdf" else None
            figure.savefig(file, format=kind, dpi=DPI, metadata=metadata)
            found[kind] = file.getvalue()
    return found


def save_figure(files: Mapping[str, bytes], folder: AnyPath, name: str) -> None:
    """Write what `drawn` gave, as NAME.png and NAME.pdf, into the folder."""
    for kind, content in files.items():
        write_whole(folder / f"{name}.{kind}", partial(Path.write_bytes, data=content))
