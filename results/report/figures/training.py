"""What training reaches, by epoch (Figure 5.2 of the thesis) and by its cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from results.analysis.groups import Group
from results.analysis.metrics import worker_hours
from results.printable import named_sigma
from results.report.figures.style import THIN, legend_below, looks, panels, panels_by_sigma, plain_log_ticks, styled
from results.report.subject import Subject
from results.store.run import Run

CONSISTENCY, GENERALISED = "consistency", "generalised"
MAXIMISING = ("macer", "direct")
MAXIMISING_NOTE = (
    "The third contribution of the thesis (section 3.2) says that a threshold, 0.99, greatly accelerates the "
    "optimisation; no number or figure of it shows that. Gradient: of the loss with respect to all parameters, mean of "
    "its ℓ2 norm over the steps of an epoch. The bound that the softmax alone gives is in the figure of the gradient "
    "of the robustness item; the table of convergence has the epochs to a common level."
)
WIDE = 10.0
"""Where the largest gradient is so many times the smallest, their axis is logarithmic."""
Fill = Literal["full", "none", "left", "right", "top", "bottom"]
FILLS: tuple[Fill, ...] = ("full", "none", "left", "right", "top", "bottom")
"""Of a marker: one for each σ."""


def compared(run: Run) -> list[str]:
    """The methods that `figure_accuracy_by_epoch` shows, among those trained: consistency, and generalised consistency
    with any accuracy item."""
    variants = set(run.trials["method"][run.trials["variant_of"] == GENERALISED])
    return [method for method in dict.fromkeys(run.epochs["method"]) if method in {CONSISTENCY, GENERALISED, *variants}]


def figure_accuracy_by_epoch(run: Run | Subject) -> Figure:
    """Accuracy of the base classifier after each epoch, on one noise sample of each test image; one panel per σ.

    The line is the mean over the seeds, an ensemble's members included; each of several seeds is a thin line. Errors as
    for `certified_groups`.
    """
    subject = Subject.of(run)
    titles = {group.method: group.title for group in subject.groups}
    look = looks(subject.run)
    methods = sorted(compared(subject.run), key=list(look).index)
    epochs = _epochs_of(subject.run, methods)
    entries: dict[str, Artist] = {}
    with styled():
        figure, axes = panels_by_sigma("Accuracy on noisy test images while training", epochs["sigma"])
        for sigma, panel in axes.items():
            for method in methods:
                rows = epochs[(epochs["sigma"] == sigma) & (epochs["method"] == method)]
                how = look[method]
                models = [seed for _, seed in rows.groupby("trial_id", sort=False)]
                for seed in models if len(models) > 1 else []:
                    panel.plot(seed["number"], seed["percent"], color=how.colour, linewidth=THIN, alpha=0.7)
                mean = rows.groupby("number")["percent"].mean()
                [line] = panel.plot(mean.index, mean, **{**how.points, **how.line}, markevery=max(1, len(mean) // 8))
                entries.setdefault(titles.get(method, method), line)
            panel.set(xlabel="epoch", ylabel="noisy test accuracy (%)")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if epochs.duplicated(["sigma", "method", "epoch"]).any():
            entries["one training seed"] = Line2D([], [], color="grey", linewidth=THIN)
        legend_below(figure, entries, "As Figure 5.2 of the thesis.")
    return figure


def _epochs_of(run: Run, methods: list[str]) -> pd.DataFrame:
    """The epochs of these methods, with the `number` of each from 1 and its accuracy in `percent`."""
    epochs = run.epochs[run.epochs["method"].isin(methods)]
    return epochs.assign(number=epochs["epoch"] + 1, percent=100 * epochs["noisy_test_accuracy"])


def maximising(run: Run) -> list[str]:
    """The methods that `figure_gradient_by_epoch` shows, among those trained: MACER, the thesis's Eq. 3.3 maximised
    directly, and the variants of both; none where no gradient of theirs is known."""
    variants = set(run.trials["method"][run.trials["variant_of"].isin(MAXIMISING)])
    epochs = run.epochs[run.epochs["method"].isin({*MAXIMISING, *variants})]
    return [*dict.fromkeys(epochs["method"])] if epochs["gradient_norm"].notna().any() else []


def figure_gradient_by_epoch(run: Run | Subject) -> Figure:
    """Accuracy of the base classifier and size of the gradient in each epoch, of the methods that maximise the
    robustness item; a pair of panels per σ. Means over the seeds. Errors as for `certified_groups`.

    Args:
        run: with at least one of those methods (`maximising`).
    """
    subject = Subject.of(run)
    titles = {group.method: group.title for group in subject.groups}
    look = looks(subject.run)
    methods = sorted(maximising(subject.run), key=list(look).index)
    epochs = _epochs_of(subject.run, methods)
    quantities = {"percent": "noisy test accuracy (%)", "gradient_norm": "ℓ2 norm of the gradient"}
    sigmas = sorted(epochs["sigma"].unique())
    entries: dict[str, Artist] = {}
    with styled():
        figure, axes = panels("Accuracy and gradient while maximising the robustness item", 2 * len(sigmas), beside=2)
        places = [(sigma, name) for sigma in sigmas for name in quantities]
        for panel, (sigma, name) in zip(axes, places, strict=True):
            for method in methods:
                rows = epochs[(epochs["sigma"] == sigma) & (epochs["method"] == method)]
                mean = rows.groupby("number")[name].mean().dropna()
                if len(mean):
                    how = {**look[method].points, **look[method].line, "markevery": max(1, len(mean) // 8)}
                    [line] = panel.plot(mean.index, mean, **how)
                    entries.setdefault(titles.get(method, method), line)
            panel.set(title=named_sigma(sigma), xlabel="epoch", ylabel=quantities[name])
            panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        for panel in axes[1::2]:
            _fit_sizes(panel)
        legend_below(figure, entries, MAXIMISING_NOTE)
    return figure


def _fit_sizes(panel: Axes) -> None:
    """Lines of positive numbers: from 0, or on a logarithmic axis where they differ by factors."""
    values = [float(value) for line in panel.lines for value in np.asarray(line.get_ydata())]
    if values and max(values) >= WIDE * min(values) > 0:
        panel.set_yscale("log")
        plain_log_ticks(panel.yaxis)
    else:
        panel.set_ylim(bottom=0)


def figure_cost(run: Run | Subject) -> Figure:
    """ACR and accuracy of each method and σ against what it took to train and to certify, summed over workers.

    Means over the seeds. Trials trained elsewhere are left out, for nobody knows what they cost. Errors as for
    `certified_groups`.
    """
    subject = Subject.of(run)
    groups = [known for group in subject.groups if (known := _trained_here(group))]
    look = looks(subject.run)
    fills = dict(zip(sorted({group.sigma for group in groups}), FILLS * len(groups), strict=False))
    accelerated = all((group.trials["memory_kind"] == "accelerator").all() for group in groups)
    entries: dict[str, Artist] = {}
    with styled():
        figure, axes = panels("ACR and accuracy against cost", 2)
        for group in groups:
            how, hours = look[group.method], worker_hours(group.trials).mean()
            radii = group.certificates["radius"] * group.certificates["correct"]
            shape: dict[str, Any] = {"color": how.colour, "marker": how.marker, "linestyle": "none", "markersize": 7}
            for panel, value in zip(axes, (radii.mean(), 100 * group.certificates["correct"].mean()), strict=True):
                panel.plot(hours, value, **shape, fillstyle=fills[group.sigma])
            entries.setdefault(group.title, Line2D([], [], **shape))
        for sigma, fill in fills.items():
            entries[named_sigma(sigma)] = Line2D([], [], color="grey", marker="o", linestyle="none", fillstyle=fill)
        unit = "accelerator-hours" if accelerated else "worker-hours"
        for panel, name in zip(axes, ("ACR", "certified accuracy at radius 0 (%)"), strict=True):
            panel.set(xscale="log", xlabel=f"{unit} of training and certification", ylabel=name)
            plain_log_ticks(panel.xaxis)
        legend_below(figure, entries)
    return figure


def _trained_here(group: Group) -> Group | None:
    """The group's trials whose training time is known, with their certificates; None where there are none."""
    trials = group.trials[group.trials["train_seconds"].notna()]
    rows = group.certificates["trial_id"].isin(trials["trial_id"])
    return replace(group, trials=trials, certificates=group.certificates[rows]) if len(trials) else None
