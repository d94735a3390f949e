"""Figures of the thesis, from certificates alone."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from results import published
from results.folder import write_whole
from results.run import Run
from results.tables import RADII, certified_groups

# Okabe & Ito's palette and dashes: told apart by colour-blind readers and in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))


def figure_5_1(run: Run) -> Figure:
    """Certified accuracy against radius for every method, one panel per σ; markers are the published values."""
    groups = certified_groups(run)
    sigmas = sorted({group.sigma for group in groups})
    methods = list(dict.fromkeys(group.method for group in groups))
    figure, axes = plt.subplots(1, len(sigmas), figsize=(5.2 * len(sigmas), 4.4), sharey=True, squeeze=False)
    reference = published.table_5_1()
    for panel, sigma in zip(axes[0], sigmas, strict=True):
        for group in groups:
            if group.sigma != sigma:
                continue
            style = methods.index(group.method) % len(COLOURS)
            radii, accuracies = curve(
                (group.certificates["radius"] * group.certificates["correct"]).to_numpy(),
                group.certificates["correct"].to_numpy(),
            )
            panel.step(
                radii, 100 * accuracies, where="pre", color=COLOURS[style], linestyle=DASHES[style], label=group.title
            )
            known = reference.get((sigma, group.method))
            if known:
                values = [known[f"r{radius:.2f}"] for radius in (0, *RADII)]
                shown = [(radius, value) for radius, value in zip((0, *RADII), values, strict=True) if value]
                panel.plot(*zip(*shown, strict=True), "o", color=COLOURS[style], markersize=4, markerfacecolor="none")
        _dress(panel, f"σ = {sigma:g}")
    axes[0][0].set_ylabel("certified accuracy (%)")
    axes[0][-1].plot([], [], "o", color="grey", markersize=4, markerfacecolor="none", label="published (CIFAR-10)")
    axes[0][-1].legend(frameon=False, fontsize=9)
    figure.tight_layout()
    return figure


def curve(radii: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The radii at which certified accuracy falls, rising from 0, and the accuracy up to each: both (points,)."""
    at = np.unique(np.concatenate([[0.0], radii[correct]]))
    ordered = np.sort(radii[correct])
    still = len(ordered) - np.searchsorted(ordered, at, side="left")
    return np.append(at, at[-1]), np.append(still, 0) / len(radii)


def save_figure(figure: Figure, folder: Path, name: str) -> None:
    """As PNG and PDF."""
    for kind in ("png", "pdf"):
        # The date would make two equal figures differ.
        metadata = {"CreationDate": None} if kind == "pdf" else None
        write_whole(
            folder / f"{name}.{kind}",
            lambda temporary, kind=kind, metadata=metadata: figure.savefig(  # type: ignore[misc]
                temporary, format=kind, dpi=150, metadata=metadata
            ),
        )
    plt.close(figure)


def _dress(panel: Axes, title: str) -> None:
    panel.set_title(title)
    panel.set_xlabel("ℓ2 radius")
    panel.set_xlim(left=0)
    panel.set_ylim(0, 100)
    panel.grid(alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)
