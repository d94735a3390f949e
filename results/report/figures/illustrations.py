"""What the thesis illustrates in its Figures 4.1 and 4.2, drawn from formulas alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, gammaln, ndtr

from results.report.figures.style import COLOURS, DASHES, legend_below, note_below, panels, styled

Floats = NDArray[np.float64]
NEAREST, FALL = 6.0, 3.0
"""Of the logit that Figure 4.1 assumes: at the image itself, and how much less it is at a distance of σ."""
DIMENSIONS = 3 * 32 * 32
"""Of an image of CIFAR-10."""
WEIGHTS_NOTE = (
    "As Figure 4.1 of the thesis, which gives no formula. Assumed here, in two dimensions: two classes, and a logit of "
    f"the label that falls with the distance of the noise sample from the image, z = {NEAREST:g} − {FALL:g} ‖ε‖/σ. The "
    "weight is what a sample adds to the mean that decides: (a) its probability, at most 1; (b) its logit, without a "
    "bound. In the gradient it is otherwise: −log of the mean probability weighs a sample by its share of that "
    "probability, cross-entropy of the mean logits weighs all samples alike. (c) That nearer samples count more can be "
    "measured, but in 3 072 dimensions ‖ε‖ = σ (55.4 ± 0.7): hardly any sample is nearer than another."
)
OVERLAP_NOTE = (
    "As Figure 4.2 of the thesis: a direction in which two equally frequent classes lie at −s and +s without any "
    "spread, so that its variance is s², the best case; drawn from the formula N(±s, σ²). The thesis contradicts "
    "itself: noise of 10-fold variance in the caption (the threshold σ²/10 of section 5.4), of 5-fold in the text "
    "(σ²/5 of section 4.2). It calls such a direction helpless; alone it still tells the classes apart better than "
    "the 50 % of a guess: Φ(s/σ) of the noise samples fall on the side of their class."
)


def sample_weights(distance: ArrayLike) -> tuple[Floats, Floats]:
    """What a noise sample adds to the mean of probabilities, and to that of logits, under the assumed logit.

    Args:
        distance: ‖ε‖/σ, any shape.
    """
    logit = NEAREST - FALL * np.asarray(distance, dtype=np.float64)
    return expit(logit), logit


def distance_density(distance: ArrayLike, dimensions: int) -> Floats:
    """Density of ‖ε‖/σ for ε ~ N(0, σ² I): the chi distribution.

    Args:
        distance: at least 0; any shape.
    """
    r = np.asarray(distance, dtype=np.float64)
    with np.errstate(divide="ignore"):
        log = (dimensions - 1) * np.log(r) - r**2 / 2 - (dimensions / 2 - 1) * np.log(2) - gammaln(dimensions / 2)
    density: Floats = np.exp(log)
    return density


def distance_moments(dimensions: int) -> tuple[float, float]:
    """Mean and standard deviation of ‖ε‖/σ."""
    mean = float(np.sqrt(2) * np.exp(gammaln((dimensions + 1) / 2) - gammaln(dimensions / 2)))
    return mean, float(np.sqrt(dimensions - mean**2))


def figure_sample_weights() -> Figure:
    """The weight of a noise sample in the decision, by mean probabilities and by mean logits, and how far samples are
    from their image."""
    offsets = np.linspace(-3, 3, 241)
    distance = np.hypot(*np.meshgrid(offsets, offsets))
    with styled():
        figure, axes = panels("Weight of a noise sample in the decision", 3)
        shown = (
            ("(a) mean of probabilities", np.arange(0, 1.01, 0.1)),
            ("(b) mean of logits", np.arange(-7, 6.1, 1.0)),
        )
        for panel, (title, levels), weight in zip(axes[:2], shown, sample_weights(distance), strict=True):
            filled = panel.contourf(offsets, offsets, weight, levels, cmap="Blues")
            panel.set(title=title, xlabel="ε₁ / σ", ylabel="ε₂ / σ", aspect="equal")
            panel.grid(visible=False)
            figure.colorbar(filled, ax=panel, label="weight", shrink=0.9)
        _draw_distances(axes[2])
        note_below(figure, WEIGHTS_NOTE)
    return figure


def _draw_distances(panel: Axes) -> None:
    share = np.concatenate([np.linspace(0, 0.9, 200), np.linspace(0.9, 1.1, 801)[1:], np.linspace(1.1, 3, 300)[1:]])
    for place, dimensions in enumerate((DIMENSIONS, 2)):
        mean, deviation = distance_moments(dimensions)
        density = distance_density(share * mean, dimensions)
        name = f"{dimensions:,} dimensions: {mean:.1f} ± {deviation:.1f}".replace(",", "\u00a0")
        panel.plot(share, density / density.max(), color=COLOURS[place], linestyle=DASHES[place], label=name)
    panel.set(title="(c) how far noise samples are", xlabel="‖ε‖ / its mean", ylabel="density / its maximum")
    panel.set(xlim=(0, 3), ylim=(0, 1.3))
    panel.legend(loc="upper right", title="‖ε‖ / σ")


def overlap_accuracy(ratio: ArrayLike) -> Floats:
    """Share of noise samples on the side of their class: Φ(s/σ).

    Args:
        ratio: σ²/s², the variance of the noise to that of the direction.
    """
    accuracy: Floats = ndtr(1 / np.sqrt(np.asarray(ratio, dtype=np.float64)))
    return accuracy


def figure_class_overlap() -> Figure:
    """Two classes without spread inside a class, as they are and under noise of 10-fold and of 5-fold variance."""
    with styled():
        figure, axes = panels("Two classes without spread, under noise", 3)
        x = np.linspace(-10, 10, 401)
        entries: dict[str, Artist] = {}
        for place, (name, centre) in enumerate((("class at −s", -1.0), ("class at +s", 1.0))):
            look: dict[str, Any] = {"color": COLOURS[place], "linestyle": DASHES[place]}
            axes[0].plot([centre, centre], [0, 1], **look)
            for panel, ratio in zip(axes[1:], (10, 5), strict=True):
                density = np.exp(-((x - centre) ** 2) / (2 * ratio)) / np.sqrt(2 * np.pi * ratio)
                [line] = panel.plot(x, density, **look)
                panel.fill_between(x, density, color=COLOURS[place], alpha=0.12, linewidth=0)
                entries[name] = line
        axes[0].set(title="(a) without noise: 100 % on the right side", ylabel="share of the class", ylim=(0, 1.1))
        for panel, (letter, ratio) in zip(axes[1:], (("b", 10), ("c", 5)), strict=True):
            right = 100 * float(overlap_accuracy(ratio))
            panel.set(title=f"({letter}) noise of {ratio}-fold variance: {right:.1f} %", ylabel="density · s")
            panel.set_ylim(0, 0.22)
        for panel in axes:
            panel.set(xlim=(-10, 10), xticks=range(-10, 11, 5), xlabel="position along the direction, in s")
        legend_below(figure, entries, OVERLAP_NOTE)
    return figure
