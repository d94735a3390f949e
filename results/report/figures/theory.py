"""The gradient of the robustness item, of its formula alone, and the variances of the training images, of them alone:
Figures 3.1 and 4.3 of the thesis."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from results.report.figures.style import COLOURS, DASHES, note_below, panels, panels_by_sigma, plain_log_ticks, styled
from results.store.run import Run

Floats = NDArray[np.float64]
THRESHOLD = 0.99
"""Above which the thesis lets the robustness item have no gradient (section 3.2)."""
SOFTMAX_BOUND = math.sqrt(2 * math.pi) / 4
"""The largest value of `softmax_gradient`, at p = 1/2."""
GRADIENT_NOTE = (
    "As Figure 3.1 of the thesis. √(2π) exp(Φ⁻¹(p)²/2): its Eq. 3.4 without the σ² in the exponent. The bound in (c): "
    "where p is the mean over an image's noise samples, the sum over them of |∂Φ⁻¹(p) / ∂ label's logit| is at most "
    "p (1 − p) / φ(Φ⁻¹(p)) ≤ √(2π)/4, reached at p = 1/2. So the softmax alone already keeps the gradient from "
    "exploding, without a threshold; only in floating point does Φ⁻¹ still become infinite where p rounds to 1."
)
RATIOS = (1.0, 1 / 5, 1 / 10)
"""Of a direction's variance to σ²: the noise itself, the threshold of section 4.2, and that of section 5.4."""
RANGES = {0.25: (100, 500), 0.5: (50, 450)}
"""σ -> the components that the thesis's Figure 4.3 shows."""


def robustness_gradient(p: ArrayLike) -> Floats:
    """d Φ⁻¹(p) / dp = √(2π) exp(Φ⁻¹(p)² / 2), infinite at 0 and 1.

    The thesis's Eq. 3.4 has σ² beside the 2, which does not belong there: Φ is the distribution function of the
    standard normal, and σ is a factor before Φ⁻¹.

    Args:
        p: in (0, 1); any shape.
    """
    gradient: Floats = np.sqrt(2 * np.pi) * np.exp(ndtri(np.asarray(p, dtype=np.float64)) ** 2 / 2)
    return gradient


def thresholded_gradient(p: ArrayLike) -> Floats:
    """As `robustness_gradient`, and 0 above THRESHOLD."""
    return np.where(np.asarray(p) > THRESHOLD, 0.0, robustness_gradient(p))


def softmax_gradient(p: ArrayLike) -> Floats:
    """As `thresholded_gradient`, with respect to the logit of a softmax with probability p: dp / dlogit = p (1 − p)."""
    p = np.asarray(p, dtype=np.float64)
    slope: Floats = p * (1 - p)
    return slope * thresholded_gradient(p)


def figure_robustness_gradient() -> Figure:
    """The gradient of the robustness item, raw, with a threshold, and through the softmax as well, with its bound."""
    p = np.concatenate([np.linspace(0.001, THRESHOLD, 400), np.linspace(np.nextafter(THRESHOLD, 1), 0.999, 100)])
    with styled():
        figure, axes = panels("Gradient of the robustness item", 3)
        shown = (
            ("(a) the gradient itself", "d Φ⁻¹(p) / dp", robustness_gradient),
            (f"(b) 0 above p = {THRESHOLD:g}", "d Φ⁻¹(p) / dp", thresholded_gradient),
            (f"(c) through the softmax, 0 above p = {THRESHOLD:g}", "d Φ⁻¹(p) / d logit", softmax_gradient),
        )
        for panel, (title, name, gradient) in zip(axes, shown, strict=True):
            panel.plot(p, gradient(p), color=COLOURS[0])
            panel.axvline(THRESHOLD, color="0.4", linestyle=":", linewidth=1)
            panel.set(title=title, xlabel="p, the smoothed probability of the label", ylabel=name, xlim=(0, 1))
            panel.set_ylim(bottom=0)
        for panel in axes[:2]:
            panel.set_ylim(top=1.3 * float(robustness_gradient(THRESHOLD)))  # both go on to infinity
        bound: dict[str, Any] = {"color": COLOURS[1], "linestyle": DASHES[1], "linewidth": 1.2}
        axes[2].axhline(SOFTMAX_BOUND, **bound)
        axes[2].annotate(
            f"√(2π)/4 = {SOFTMAX_BOUND:.3f}", (0.5, SOFTMAX_BOUND), (0, 3), textcoords="offset points", ha="center",
            va="bottom", color=COLOURS[1],
        )  # fmt: skip
        axes[2].set_ylim(top=1.25 * SOFTMAX_BOUND)
        note_below(figure, GRADIENT_NOTE)
    return figure


def figure_principal_variances(run: Run) -> Figure:
    """Variance of the training images along each principal component, beside that of the noise; one panel per σ.

    Of several sets of training images it shows the largest. A dashed line is a threshold, the vertical line below it
    stands at the number of components whose variance exceeds it.

    Args:
        run: with at least one spectrum, so one trial with a linear decomposition.
    """
    spectrum = largest_spectrum(run.spectra)
    variances = spectrum["variance"].to_numpy()
    with styled():
        title = "Variance of the training images along their principal components"
        figure, axes = panels_by_sigma(title, filter(None, run.trials["sigma"]))  # not where it is per input
        for sigma, panel in axes.items():
            _draw_spectrum(panel, variances, sigma)
        dataset, images = spectrum["dataset"].iloc[0], int(spectrum["images"].iloc[0])
        figure.set_figheight(figure.get_figheight() * 1.15)  # for the legends below the panels
        shown = f"{dataset}, {f'{images:,}'.replace(',', ' ')} training images."
        note_below(figure, f"{shown} As Figure 4.3 of the thesis.")
    return figure


def largest_spectrum(spectra: pd.DataFrame) -> pd.DataFrame:
    """The rows of the set with the most images, by component."""
    _, rows = max(spectra.groupby(["dataset", "images"]), key=lambda item: int(item[1]["images"].iloc[0]))
    return rows.sort_values("component")


def kept_components(variances: Floats, sigma: float) -> list[int]:
    """How many variances (components,) exceed ratio · σ², for each of RATIOS."""
    return [int((variances > ratio * sigma**2).sum()) for ratio in RATIOS]


def component_range(variances: Floats, sigma: float) -> tuple[int, int]:
    """The first and the last component to show, counted from 1.

    The thesis's range where a decomposition's last kept component lies in it; otherwise one about those.
    """
    above, *kept = kept_components(variances, sigma)
    first, last = RANGES.get(sigma, (1, 0))
    if not any(first <= count <= last for count in kept):
        first, last = int(0.5 * above), int(1.3 * max(kept)) + 10
    last = min(last, len(variances))
    return max(1, min(first, last - 1)), last


def _draw_spectrum(panel: Axes, variances: Floats, sigma: float) -> None:
    first, last = component_range(variances, sigma)
    numbers = np.arange(first, last + 1)
    panel.plot(numbers, variances[first - 1 : last], color="black")
    for place, (ratio, kept) in enumerate(zip(RATIOS, kept_components(variances, sigma), strict=True)):
        how: dict[str, Any] = {"color": COLOURS[place], "linestyle": DASHES[place + 1], "linewidth": 1.2}
        level = ratio * sigma**2
        panel.axhline(level, **how, label=f"{threshold_name(ratio)} = {level:g}: {kept} components above")
        if first <= kept <= last:
            panel.vlines(kept, 0, level, **how)
    panel.set(yscale="log", xlabel="principal component", ylabel="variance")
    panel.margins(x=0)
    plain_log_ticks(panel.yaxis)
    panel.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15))


def threshold_name(ratio: float) -> str:
    """How a threshold of `ratio` times σ² is written: "σ²/5" for 0.2."""
    inverse = 1 / ratio
    if ratio == 1:
        return "σ²"
    return f"σ²/{round(inverse)}" if abs(inverse - round(inverse)) < 1e-6 else f"{ratio:g} σ²"
