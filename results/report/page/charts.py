"""The lines and points of the page's charts, as numbers that are already rounded to what is shown.

Every line has its values at equal steps of x, so that a reader of the chart reads exact values at exact places:
certified accuracy at a radius on the chart is what `results.analysis.metrics.certified_accuracy` gives for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd

from results.analysis.groups import Group
from results.analysis.metrics import average_certified_radius, label_probabilities, worker_hours
from results.printable import named_sigma
from results.report.figures.steps import Floats, band
from results.report.figures.style import Dash, looks
from results.report.page.content import Charts, CostPanel, CostPoint, Line, MethodLook, Panel
from results.report.table import ResultTable
from results.store.run import Run

POINTS = 400
"""Of a line at most: one for each pixel or two of its chart."""
P_A = np.round(np.arange(0.5, 1.00001, 0.0025), 4)


def methods(run: Run, groups: list[Group]) -> list[MethodLook]:
    """Every method with its look, which is that of the figures."""
    titles = {group.method: group.title for group in groups}
    return [
        {
            "method": method,
            "title": titles.get(method, method),
            "colour": _colour(look.colour),
            "dash": _dash(look.dash),
        }
        for method, look in looks(run).items()
    ]


def charts(run: Run, groups: list[Group], tables: list[ResultTable]) -> Charts:
    """Panels by chart; each is of one σ. Published points are those of the table of certified accuracy."""
    sigmas = sorted({group.sigma for group in groups})
    by_sigma = [[group for group in groups if group.sigma == sigma] for sigma in sigmas]
    return {
        "certified": [_certified(panel, tables) for panel in by_sigma],
        "p_a": [_p_a(panel) for panel in by_sigma],
        "accuracy": _training(run.epochs, "noisy_test_accuracy", lambda value: round(100 * value, 1)),
        "loss": _training(run.epochs, "loss", lambda value: float(f"{value:.4g}")),
        "cost": [panel for groups in by_sigma if (panel := _cost(groups))["points"]],
    }


def radius_step(largest: float) -> float:
    """The smallest of …, 0.0025, 0.005, 0.01, … that reaches `largest` in at most POINTS steps; 0.25 where it is
    not above 0."""
    if largest <= 0:
        return 0.25
    power = 10.0 ** math.floor(math.log10(largest / POINTS))
    return round(next(step * power for step in (1, 2.5, 5, 10) if step * power * POINTS >= largest), 12)


def _certified(groups: list[Group], tables: list[ResultTable]) -> Panel:
    largest = max(float((group.certificates["radius"] * group.certificates["correct"]).max()) for group in groups)
    step = radius_step(largest)
    # One step further than the largest radius, where every line has come down to 0.
    grid = np.round(np.arange(math.floor(largest / step) + 2) * step, 12)
    published = {
        (row.sigma, row.method): row.published
        for table in tables
        if table.name == "certified_accuracy"
        for row in table.rows
    }
    lines: list[Line] = []
    for group in groups:
        accuracy = np.mean([_share_from(rows, grid) for rows in group.seeds], axis=0)
        lower, upper = band(accuracy, group.certificates["index"].nunique())
        numbers = published.get((group.sigma, group.method), {})
        points = [(float(key[1:]), value) for key, value in numbers.items() if key.startswith("r") and value]
        lines.append(
            {
                "method": group.method,
                "values": _percent(accuracy),
                "points": points,
                "lower": _percent(lower),
                "upper": _percent(upper),
            }
        )
    return _panel(groups[0].sigma, 0, step, lines)


def _p_a(groups: list[Group]) -> Panel:
    lines: list[Line] = []
    for group in groups:
        values = np.sort(label_probabilities(group.certificates))
        share = np.searchsorted(values, P_A, side="right") / len(values)
        lines.append({"method": group.method, "values": _percent(share)})
    return _panel(groups[0].sigma, 0.5, 0.0025, lines)


def _training(epochs: pd.DataFrame, name: str, rounded: Callable[[float], float]) -> list[Panel]:
    """Means over the trainings of a method, seeds and members alike, after each epoch; null once it has ended."""
    panels = []
    for sigma, rows in epochs.groupby("sigma"):
        last = int(rows["epoch"].max())
        lines: list[Line] = []
        for method, own in rows.groupby("method", sort=False):
            mean = own.groupby("epoch")[name].mean().reindex(range(last + 1))
            values = [rounded(value) if math.isfinite(value) else None for value in mean]
            lines.append({"method": str(method), "values": values})
        panels.append(_panel(float(sigma), 1, 1, lines))  # type: ignore[arg-type]
    return panels


def _cost(groups: list[Group]) -> CostPanel:
    points: list[CostPoint] = []
    for group in groups:
        trained = group.trials[group.trials["train_seconds"].notna()]
        hours = worker_hours(trained).mean()
        if len(trained) and hours > 0:
            rows = group.certificates[group.certificates["trial_id"].isin(trained["trial_id"])]
            acr = np.mean([average_certified_radius(own) for _, own in rows.groupby("trial_id")])
            points.append({"method": group.method, "x": float(f"{hours:.3g}"), "y": round(float(acr), 3)})
    return {"title": named_sigma(groups[0].sigma), "points": points}


def _share_from(rows: pd.DataFrame, radii: Floats) -> Floats:
    """`certified_accuracy` of one trial at each of the radii."""
    certified = np.sort(rows.loc[rows["correct"], "radius"].to_numpy())
    share: Floats = (len(certified) - np.searchsorted(certified, radii, side="left")) / len(rows)
    return share


def _panel(sigma: float, start: float, step: float, lines: list[Line]) -> Panel:
    return {"title": named_sigma(sigma), "start": start, "step": step, "lines": lines}


def _percent(shares: Floats) -> list[float | None]:
    return [round(100 * share, 1) for share in shares.tolist()]


def _colour(colour: str) -> str:
    return "currentColor" if colour == "#000000" else colour  # black would be lost on a dark page


def _dash(dash: Dash) -> str:
    """matplotlib's dashes, which are in units of the line's width, as SVG's for a line two pixels wide."""
    return "" if isinstance(dash, str) else " ".join(f"{2 * length:g}" for length in dash[1])
