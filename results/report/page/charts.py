"""The lines and points of the page's charts, as numbers that are already rounded to what is shown.

Every line has its values at equal steps of x, so that a reader of the chart reads exact values at exact places:
certified accuracy at a radius on the chart is what `results.analysis.metrics.certified_accuracy` gives for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd

from results.analysis.envelope import Envelope, envelopes
from results.analysis.groups import Group
from results.analysis.metrics import average_certified_radius, certified_accuracies, label_probabilities, worker_hours
from results.analysis.statistics import simultaneous_band
from results.printable import named_sigma
from results.report.caption import not_comparable
from results.report.figures.steps import Floats
from results.report.figures.style import Dash, looks
from results.report.page.content import Charts, CostPanel, CostPoint, Line, MethodLook, Panel, TrainingCharts
from results.report.table import ResultTable
from results.store.run import Run

POINTS = 400
"""Of a line at most: one for each pixel or two of its chart."""
P_A = np.round(np.arange(0.5, 1.00001, 0.0025), 4)


def methods(run: Run, groups: list[Group]) -> list[MethodLook]:
    """Every method with its look, which is that of the figures."""
    shared = run.planned.groupby("title")["method"].nunique()
    known = zip(run.planned["method"], run.planned["title"], strict=True)
    titles: dict[str, str] = {method: title for method, title in known if shared[title] == 1}
    titles |= {group.method: group.title for group in groups}
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
        "envelope": _envelopes(groups),
        "p_a": [_p_a(panel) for panel in by_sigma],
        **training_charts(run.epochs),
        "cost": [panel for groups in by_sigma if (panel := _cost(groups))["points"]],
    }


def training_charts(epochs: pd.DataFrame) -> TrainingCharts:
    """Those of the epochs, which need nothing that is finished."""
    return {
        "accuracy": _training(epochs, "noisy_test_accuracy", lambda value: round(100 * value, 1)),
        "loss": _training(epochs, "loss", lambda value: float(f"{value:.4g}")),
    }


def radius_step(largest: float) -> float:
    """The smallest of …, 0.0025, 0.005, 0.01, … that reaches `largest` in at most POINTS steps; 0.25 where it is
    not above 0."""
    if largest <= 0:
        return 0.25
    power = 10.0 ** math.floor(math.log10(largest / POINTS))
    return round(next(step * power for step in (1, 2.5, 5, 10) if step * power * POINTS >= largest), 12)


def _certified(groups: list[Group], tables: list[ResultTable]) -> Panel:
    published = {
        (row.sigma, row.method): row.published
        for table in tables
        if table.name == "certified_accuracy"
        for row in table.rows
    }
    numbers_of = {group.method: published.get((group.sigma, group.method), {}) for group in groups}
    points_of = {
        method: [(float(key[1:]), value) for key, value in numbers.items() if key.startswith("r") and value]
        for method, numbers in numbers_of.items()
    }
    step, grid = _grid(groups, max((radius for points in points_of.values() for radius, _ in points), default=0.0))
    lines: list[Line] = []
    for group in groups:
        points = points_of[group.method]
        seeds = np.stack([certified_accuracies(rows, grid) for rows in group.seeds])
        accuracy = seeds.mean(axis=0)
        lower, upper = simultaneous_band(accuracy, group.certificates["index"].nunique(), len(seeds))
        line: Line = {
            "method": group.method,
            "values": _percent(accuracy),
            "points": points,
            "apart": not_comparable(group.trials) if points else [],
            "lower": _percent(lower),
            "upper": _percent(upper),
        }
        if len(seeds) > 1:
            line |= {"lowest": _percent(seeds.min(axis=0)), "highest": _percent(seeds.max(axis=0))}
        lines.append(line)
    return _panel(groups[0].sigma, 0, step, lines)


def _envelopes(groups: list[Group]) -> list[Panel]:
    """One panel for each set of σ."""
    by_sigmas: dict[tuple[float, ...], list[Envelope]] = {}
    for found in envelopes(groups):
        by_sigmas.setdefault(found.sigmas, []).append(found)
    panels = []
    for sigmas, own in sorted(by_sigmas.items()):
        step, grid = _grid([group for found in own for group in found.groups])
        lines: list[Line] = [{"method": found.method, "values": _percent(found.best(grid)[0])} for found in own]
        title = f"best of σ = {', '.join(f'{sigma:g}' for sigma in sigmas)}"
        panels.append(Panel(title=title, start=0, step=step, lines=lines))
    return panels


def _grid(groups: list[Group], at_least: float = 0.0) -> tuple[float, Floats]:
    """A step, and the radii in such steps up to one further than the largest, where every line has come down to 0, and
    than `at_least`."""
    largest = max(float((group.certificates["radius"] * group.certificates["correct"]).max()) for group in groups)
    largest = max(largest, at_least)
    step = radius_step(largest)
    return step, np.round(np.arange(math.floor(largest / step) + 2) * step, 12)


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


def _panel(sigma: float, start: float, step: float, lines: list[Line]) -> Panel:
    return {"title": named_sigma(sigma), "start": start, "step": step, "lines": lines}


def _percent(shares: Floats) -> list[float | None]:
    return [round(100 * share, 1) for share in shares.tolist()]


def _colour(colour: str) -> str:
    return "currentColor" if colour == "#000000" else colour  # black would be lost on a dark page


def _dash(dash: Dash) -> str:
    """matplotlib's dashes, which are in units of the line's width, as SVG's for a line two pixels wide."""
    return "" if isinstance(dash, str) else " ".join(f"{2 * length:g}" for length in dash[1])
