"""Certificates of a classifier that is composed of smoothed classifiers, so that every input has a σ of its own.

*dual* (C. Sun, Mao & Vechev 2026, "Dual Randomized Smoothing: Beyond Global Noise Variance"): a selector, smoothed with
a σ of its own, says which of several classifiers answers, each smoothed with its own σ. Where the selector's answer is
certified within R₁ and that of the classifier it selects within R₂, one and the same classifier answers for all
perturbations below min(R₁, R₂), and always with the same class. Two bounds share alpha.

*multi-scale* (Jeong & Shin 2023, "Multi-scale Diffusion Denoised Smoothing", cascaded smoothing): scales are asked in
order, by their authors from the largest σ down; the first one at which a class has a probability above 1/2 answers with
that class. If scale j answers c, then for every perturbation below

    min( σ_j Φ⁻¹(p_lower),  min over the scales k that were passed of  −σ_k Φ⁻¹(q_k) )

it still has c above 1/2 at j (Cohen et al. 2019), and no class but c is above 1/2 at any k, whose other classes are all
of probability q_k at most: those scales are passed again or answer c as well, and the answer stays c. Of K scales each
may be the one that answers, and each but the last may be passed: 2K − 1 bounds share alpha. q_k is the largest of the
upper bounds on the other classes, each at its share divided by their number.

Shares are equal (Bonferroni over all bounds that an image may need, for which those are is seen in the same samples),
so that with probability 1 − alpha everything holds that a row states, both its radii among it. For the minimum alone
less would do: it is too large only where the smallest is (intersection–union test, Berger 1982).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from results.bounds.lattice import debited, is_certified
from results.bounds.radius import lower_confidence_bound, upper_confidence_bound


@dataclass(frozen=True)
class Estimate:
    """How often each class was the answer of one smoothed classifier at one image."""

    sigma: float
    """Of its noise, in [0, 1] pixel units."""
    selected: int
    """The class that other samples chose."""
    counts: Sequence[int]
    """One per class; they sum to n, which was decided beforehand; or to 0, where nothing was estimated."""


@dataclass(frozen=True)
class Composed:
    """The certificate that follows from the estimates."""

    p_lower: float
    """Of the class, at the classifier that answers."""
    classifier_radius: float
    """Within it that classifier's answer stays; 0: it is not certified."""
    selector_radius: float | None
    """Within it the same classifier answers; 0: not certified; none: it always does."""
    radius: float
    """The smaller of both; 0 unless certified."""
    certified: bool


def composed(
    composition: str, classifier: Estimate, selector: Sequence[Estimate], alpha: float, pixels: int | None
) -> Composed:
    """The certificate of a composed classifier at one image.

    Args:
        classifier: the one that was selected.
        selector: the selector's estimate alone; or that of each scale that was passed, in order.
        alpha: of one bound: the certificate's, divided by `results.bounds.shares`.
        pixels: numbers of the image where arithmetic is sound, else None.
    """
    p_lower, own, sure = _debited(_lower(classifier, alpha), classifier.sigma, pixels)
    if composition == "dual":
        bounds = [_lower(part, alpha) for part in selector]
    else:
        bounds = [1 - _most_of_others(part, classifier.selected, alpha) for part in selector]
    kept: float | None = None
    for part, bound in zip(selector, bounds, strict=True):
        _, radius, stays = _debited(bound, part.sigma, pixels)
        kept, sure = radius if kept is None else min(kept, radius), sure and stays
    radius = own if kept is None else min(own, kept)
    return Composed(p_lower, own, kept, radius if sure else 0.0, sure)


def estimates_of(row: Mapping[Any, Any]) -> tuple[Estimate, list[Estimate]]:
    """The estimates of the classifier that was selected, and of the selector, as `composed` takes them.

    Args:
        row: the columns of `results.store.rows.CertificateRow`, of a composed classifier.
    """
    classifier = Estimate(row["sigma_input"], row["selected"], row["counts"])
    parts = len(row["selector_sigmas"])
    selections, counts = (
        np.reshape(np.asarray(row[name], dtype=np.int64), (parts, -1)) if parts else ()
        for name in ("selector_selection_counts", "selector_counts")
    )
    selector = [
        Estimate(float(sigma), int(selection.argmax()), own.tolist())
        for sigma, selection, own in zip(row["selector_sigmas"], selections, counts, strict=True)
    ]
    return classifier, selector


def composed_row(row: Mapping[Any, Any], alpha: float) -> Composed:
    """The certificate that follows from the counts of a row, at another alpha too.

    Args:
        row: as for `estimates_of`.
        alpha: of the certificate as a whole.
    """
    pixels = row["lattice_pixels"]
    classifier, selector = estimates_of(row)
    known = pixels is not None and np.isfinite(pixels)
    return composed(
        row["composition"], classifier, selector, alpha / row["alpha_shares"], int(pixels) if known else None
    )


def passes(scale: Estimate, alpha: float, pixels: int | None) -> bool:
    """Whether the next scale is asked: no class of this one is certified. Arguments as for `composed`."""
    return not _debited(_lower(scale, alpha), scale.sigma, pixels)[2]


def _lower(part: Estimate, alpha: float) -> float:
    n = int(np.sum(part.counts))
    return float(lower_confidence_bound(part.counts[part.selected], n, alpha)) if n else 0.0


def _most_of_others(part: Estimate, selected: int, alpha: float) -> float:
    """Upper bound on the largest probability of the classes that are not `selected`."""
    others = np.delete(np.asarray(part.counts, dtype=np.int64), selected)
    n = int(np.sum(part.counts))
    return float(upper_confidence_bound(others.max(), n, alpha / len(others))) if n else 1.0


def _debited(bound: float, sigma: float, pixels: int | None) -> tuple[float, float, bool]:
    p_lower, radius = map(float, debited(bound, sigma, math.nan if pixels is None else pixels))
    return p_lower, radius, bool(is_certified(p_lower, radius, pixels))
