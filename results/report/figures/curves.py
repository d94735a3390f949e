"""Certified accuracy against radius (Figures 5.1 and 5.3 of the thesis), and the distribution of p_A behind it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from results.analysis import published
from results.analysis.envelope import envelopes
from results.analysis.groups import Group, of_published_data
from results.analysis.metrics import certified_accuracies, label_probabilities
from results.analysis.statistics import simultaneous_band
from results.report.caption import not_comparable
from results.report.figures.steps import CELLS, Floats, curve, distribution, thinned
from results.report.figures.style import MARKERS, THIN, Look, legend_below, looks, panels, panels_by_sigma, styled
from results.report.figures.theory import threshold_name
from results.report.subject import Subject
from results.store.run import Run

BASELINE = "gaussian"
BAND = "Bands hold at all radii at once, over test images (DKW); the table has the intervals at single radii."
NO_BANDS = "Without bands, which would hide one another: over test images, at all radii at once (DKW), they are at most"
MOST_BANDS = 7
"""Curves of a panel that have bands; of more, bands would hide one another."""
GREYED: dict[str, Any] = {"markeredgecolor": "0.6", "zorder": 1.5}
"""Published marks of another setting than a line's."""
SEEDS_ALPHA = 0.3


@dataclass(frozen=True)
class Words:
    """What a figure says above and below its panels."""

    title: str
    note: str


def baselines(run: Run) -> set[str]:
    """The methods of `figure_decomposition`: Gaussian augmentation and its variants."""
    trials = run.trials
    return set(trials["method"][(trials["method"] == BASELINE) | (trials["variant_of"] == BASELINE)])


def figure_certified_accuracy(run: Run | Subject, source: str = "thesis") -> Figure:
    """Certified accuracy against radius for every method, one panel per σ.

    The line is the mean over the seeds; each of several seeds is a thin line, in a darker band from the lowest to the
    highest. The wider band is that of the whole curve (`results.analysis.statistics.simultaneous_band`), for the
    uncertainty of the test images. Where a panel has more than `MOST_BANDS` curves, they are drawn without bands and
    single seeds, and the widest band is said in words. Markers are the values of a published source, zeros left out; in
    grey where network, data, n or alpha is another, with the reason below. Of a source other than the thesis also those
    of methods that the run lacks, in grey.

    Args:
        run: with at least one finished trial.
        source: a key of `results.analysis.published.SOURCES`.

    Raises:
        ValueError: an unknown source; or as `certified_groups`.
    """
    words = Words("Certified accuracy by radius", "As Figure 5.1 of the thesis.")
    subject = Subject.of(run)
    figure, _ = _certified_accuracy(subject.groups, looks(subject.run), source, words, others=source != "thesis")
    return figure


def figure_envelope(run: Run | Subject) -> Figure:
    """The best of several σ: certified accuracy against radius at whichever σ gives most of it there; one panel for
    each set of σ. A marker stands where another σ becomes the best.

    Args:
        run: with a method that was certified at several σ in the same way.

    Raises:
        ValueError: as `certified_groups`.
    """
    subject = Subject.of(run)
    found = envelopes(subject.groups)
    look, entries = looks(subject.run), dict[str, Artist]()
    with styled():
        sets = sorted({envelope.sigmas for envelope in found})
        figure, axes = panels("The best of several σ: certified accuracy by radius", len(sets))
        for sigmas, panel in zip(sets, axes, strict=True):
            panel.set_title(f"best of σ = {', '.join(f'{sigma:g}' for sigma in sigmas)}")
            panel.set(ylim=(0, 100), xlabel="ℓ2 radius", ylabel="certified accuracy (%)")
        for envelope in found:
            panel, how = axes[sets.index(envelope.sigmas)], look[envelope.method]
            certified = [group.certificates["radius"][group.certificates["correct"]] for group in envelope.groups]
            at = np.unique(np.concatenate([[0.0], *certified]))
            best, sigma = envelope.best(at)
            x, y = thinned(np.append(at, at[-1]), np.append(best, 0.0))
            [line] = panel.step(x, 100 * y, where="pre", **how.line)
            entries.setdefault(envelope.title, line)
            changed = np.flatnonzero((np.diff(sigma) != 0) & np.isfinite(sigma[1:]))
            panel.plot(at[changed], 100 * best[changed], **how.points)
        for panel in axes:
            panel.set_xlim(left=0)
        note = (
            "At each radius at whichever σ gives most certified accuracy there, mean over the seeds; markers: from "
            "there on another σ. No one classifier has it, and the σ is chosen on these test images."
        )
        legend_below(figure, entries, note)
    return figure


def figure_decomposition(run: Run | Subject, source: str = "thesis") -> Figure:
    """As `figure_certified_accuracy`, for Gaussian augmentation with and without linear decomposition: that method
    and its variants.

    The title of a panel says how many directions each decomposition keeps.
    """
    subject = Subject.of(run)
    methods = baselines(subject.run)
    groups = [group for group in subject.groups if group.method in methods]
    words = Words("Certified accuracy with and without linear decomposition", "As Figure 5.3 of the thesis.")
    shown = [_with_threshold(group) for group in groups]
    figure, axes = _certified_accuracy(shown, looks(subject.run), source, words)
    for sigma, panel in axes.items():
        kept = dict.fromkeys(text for group in groups if group.sigma == sigma for text in _kept_directions(group))
        if kept:  # not by set_title, which would take the size from the user's own style
            panel.title.set_text(f"{panel.get_title()}\ndirections kept: {', '.join(kept)}")
    return figure


def figure_p_a(run: Run | Subject) -> Figure:
    """The share of test images whose estimated p_A, the probability of the label under noise, is at most x.

    Several seeds count together. Errors as for `certified_groups`.
    """
    subject = Subject.of(run)
    groups, look = subject.groups, looks(subject.run)
    entries: dict[str, Artist] = {}
    imported = False
    with styled():
        figure, axes = panels_by_sigma("Distribution of p_A", (group.sigma for group in groups))
        for group in groups:
            x, y = thinned(*distribution(label_probabilities(group.certificates)))
            [line] = axes[group.sigma].step(x, 100 * y, where="post", **look[group.method].line)
            entries.setdefault(group.title, line)
            imported |= bool((group.certificates["estimator"] == "imported").any())
        for panel in axes.values():
            panel.set(xlim=(0.5, 1), ylim=(0, 100), xlabel="p_A", ylabel="test images with at most this p_A (%)")
        note = "At 1/2: images whose label is less probable than that, or for which nothing was estimated."
        if imported:
            note += "\nImported certificates have no counts: of those, the lower bound of p_A is drawn."
        legend_below(figure, entries, note)
    return figure


def _certified_accuracy(
    groups: list[Group], look: dict[str, Look], source: str, words: Words, *, others: bool = False
) -> tuple[Figure, dict[float, Axes]]:
    reference = published.reference(source)
    entries: dict[str, Artist] = {}
    reasons: dict[str, None] = {}
    crowded = max(Counter(group.sigma for group in groups).values()) > MOST_BANDS
    widest = 0.0
    with styled():
        figure, axes = panels_by_sigma(words.title, (group.sigma for group in groups))
        for group in groups:
            panel, how = axes[group.sigma], look[group.method]
            widest = max(widest, _draw(group, panel, how, alone=crowded))
            known = _published_points(group.published_among(reference))
            apart = not_comparable(group.trials) if known else []
            reasons |= dict.fromkeys(apart)
            if known:
                panel.plot(*zip(*known, strict=True), **how.points, **GREYED if apart else {})
            if known and not apart:
                entries[group.title] = Line2D([], [], **{**how.points, **how.line})
            entries.setdefault(group.title, Line2D([], [], **how.line))
        if others:
            entries |= _published_alone(groups, reference, axes)
        several = [group for group in groups if len(group.seeds) > 1]
        if several and not crowded:
            kinds = dict.fromkeys("certification" if group.of_certification else "training" for group in several)
            entries[f"one {' or '.join(kinds)} seed"] = Line2D([], [], color="grey", linewidth=THIN)
            entries["lowest to highest of the seeds"] = Patch(color="grey", alpha=2 * SEEDS_ALPHA, linewidth=0)
        if not crowded:
            entries["95 % band of the whole curve"] = Patch(color="grey", alpha=0.3, linewidth=0)
        if any(group.published_among(reference) for group in groups):
            points = Line2D([], [], **Look("grey", "-", "o").points)
            entries[f"published: {published.find_source(source).short}"] = points
        for panel in axes.values():
            panel.set(ylim=(0, 100), xlabel="ℓ2 radius", ylabel="certified accuracy (%)")
            panel.set_xlim(left=0)
        note = f"{words.note} {f'{NO_BANDS} ±{100 * widest:.1f} points.' if crowded else BAND}"
        if reasons:
            note += f"\nGrey marks: published for another setting, since here {'; '.join(reasons)}."
        legend_below(figure, entries, note)
    return figure, axes


def _published_alone(
    groups: Sequence[Group], reference: dict[published.Key, dict[str, float]], axes: dict[float, Axes]
) -> dict[str, Artist]:
    """Draw what was published of methods that the run lacks; a legend's entry of each."""
    here = {(group.sigma, group.method) for group in groups}
    same_data = {group.sigma for group in groups if of_published_data(group.trials).all()}
    absent = [cell for cell in reference if cell not in here and cell[0] in same_data]
    names = list(dict.fromkeys(method for _, method in absent))
    entries: dict[str, Artist] = {}
    for sigma, method in absent:
        how = Look("0.45", ":", MARKERS[names.index(method) % len(MARKERS)])
        axes[sigma].plot(*zip(*_published_points(reference[sigma, method]), strict=True), **how.points)
        entries[f"{method} (published)"] = Line2D([], [], **how.points)
    return entries


def _draw(group: Group, panel: Axes, how: Look, *, alone: bool) -> float:
    """The curve of a group, alone or with its band and seeds; half of the band's largest width."""
    x, y = thinned(*_curve_of(group.certificates))
    seeds = group.seeds
    lower, upper = simultaneous_band(y, group.certificates["index"].nunique(), len(seeds))
    half = float((upper - lower).max()) / 2
    if alone:
        panel.step(x, 100 * y, where="pre", **how.line)
        return half
    panel.fill_between(x, 100 * lower, 100 * upper, step="pre", color=how.colour, alpha=0.14, linewidth=0)
    if len(seeds) > 1:
        grid = np.linspace(0.0, float(x[-1]), CELLS + 1)
        each = np.stack([certified_accuracies(rows, grid) for rows in seeds])
        ends = 100 * each.min(axis=0), 100 * each.max(axis=0)
        panel.fill_between(grid, *ends, step="pre", color=how.colour, alpha=SEEDS_ALPHA, linewidth=0)
    for seed in seeds if len(seeds) > 1 else []:
        a, b = thinned(*_curve_of(seed))
        panel.step(a, 100 * b, where="pre", color=how.colour, linewidth=THIN, alpha=0.7)
    panel.step(x, 100 * y, where="pre", **how.line)
    return half


def _curve_of(certificates: pd.DataFrame) -> tuple[Floats, Floats]:
    return curve(certificates["radius"].to_numpy(), certificates["correct"].to_numpy())


def _published_points(values: dict[str, float]) -> list[tuple[float, float]]:
    """Radius and certified accuracy (percent), where it is given and not zero."""
    return [(float(name[1:]), values[name]) for name in published.RADIUS_COLUMNS if values.get(name)]


def _with_threshold(group: Group) -> Group:
    """The group with its decomposition's threshold in the title."""
    names = dict.fromkeys(threshold_name(ratio) for ratio in group.trials["decomposition_ratio"].dropna())
    return replace(group, title=f"{group.title}, variances above {' or '.join(names)}") if names else group


def _kept_directions(group: Group) -> list[str]:
    """As "447 (σ²/5)", for each decomposition of the group."""
    decomposed = group.trials.dropna(subset=["decomposition_ratio", "decomposition_kept"])
    pairs = zip(decomposed["decomposition_ratio"], decomposed["decomposition_kept"], strict=True)
    return [f"{int(kept)} ({threshold_name(ratio)})" for ratio, kept in pairs]
