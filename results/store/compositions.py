"""What holds for the certificates of a composed classifier beside what holds for all: which part answered, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from results.bounds.composition import Estimate, composed_row, estimates_of, passes
from results.bounds.radius import lower_confidence_bound
from results.store.settings import CertifiedTrial, ComposedTrial, PartSettings

SELECTOR_LISTS = ("selector_sigmas", "selector_selection_counts", "selector_counts")
NEEDED = ("composition", "alpha_shares", "sigma_input", "classifier_radius", *SELECTOR_LISTS)
Row = dict[str, Any]


def may_be_skipped(table: pa.Table, settings: CertifiedTrial) -> NDArray[np.bool_]:
    """For each row, whether nothing is estimated where the selected class is not the label: as the settings say, but
    not at a scale that may be passed, after which another one answers."""
    skip = settings.certify.skip_misclassified
    if not isinstance(settings, ComposedTrial) or settings.composition == "dual":
        return np.full(len(table), skip)
    passed = pc.list_value_length(table["selector_sigmas"]).to_numpy()
    return np.asarray(skip & (passed == len(settings.parts) - 1))


def composed_radii(table: pa.Table, alpha: float) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """What the counts of composed rows give: the selector's radius (NaN: none), the radius, and whether certified."""
    found = [composed_row(row, alpha) for row in table.to_pylist()]
    kept = [np.nan if each.selector_radius is None else each.selector_radius for each in found]
    return np.array(kept), np.array([each.radius for each in found]), np.array([each.certified for each in found])


def odd_compositions(table: pa.Table, settings: CertifiedTrial) -> Iterator[tuple[int, str]]:
    """The index and the fault of each row whose parts are not those that its trial asks, in the way it asks them."""
    if not isinstance(settings, ComposedTrial):
        for name in (*NEEDED, "selector_radius"):
            if table[name].null_count < len(table):
                at = table[name].is_valid().to_pylist().index(True)
                yield table["index"][at].as_py(), f"has {name}, and its trial is not composed"
        return
    judge = _dual if settings.composition == "dual" else _multi_scale
    for row in table.to_pylist():
        for fault in _general(row, settings):
            yield row["index"], fault
            break
        else:
            for fault in judge(row, settings):
                yield row["index"], fault


def _general(row: Row, settings: ComposedTrial) -> Iterator[str]:
    for name in NEEDED:
        if row[name] is None:
            yield f"{name} is missing, and its trial is composed"
    expected = {"composition": settings.composition, "alpha_shares": settings.alpha_shares}
    for name, own in expected.items():
        if row[name] != own:
            yield f"{name} is not the trial's {own}"
    if min([*row["selector_selection_counts"], *row["selector_counts"]], default=0) < 0:
        yield "a count of the selector is negative"


def _dual(row: Row, settings: ComposedTrial) -> Iterator[str]:
    selector, *classifiers = settings.parts
    if row["selector_sigmas"] != [selector.sigma]:
        yield f"its selector's σ is not the trial's {selector.sigma}"
    for name in ("selector_selection_counts", "selector_counts"):
        if len(row[name]) != len(classifiers):
            yield f"{name} are not of the {len(classifiers)} classifiers"
            return
    _, [part] = estimates_of(row)
    if row["sigma_input"] != classifiers[part.selected].sigma:
        yield "sigma_input is not that of the classifier that the selection chose"
    yield from _selection(row["selector_selection_counts"], row["n0"])
    n, planned = sum(part.counts), settings.bound.samples_to_draw(max(row["selector_selection_counts"]))
    if not row["n"]:
        if n:
            yield "its selector was estimated where misclassified"
    elif n > planned or (n < planned and _hope(part, planned, settings)):
        yield f"its selector has {n} samples, {planned} were to be drawn"


def _multi_scale(row: Row, settings: ComposedTrial) -> Iterator[str]:
    passed: list[PartSettings] = settings.parts[: len(row["selector_sigmas"])]
    if row["selector_sigmas"] != [part.sigma for part in passed] or len(passed) == len(settings.parts):
        yield "the scales that were passed are not the first ones of its trial"
        return
    if row["sigma_input"] != settings.parts[len(passed)].sigma:
        yield "sigma_input is not that of the scale after those that were passed"
    for name in ("selector_selection_counts", "selector_counts"):
        if len(row[name]) != len(passed) * len(row["counts"]):
            yield f"{name} are not of {len(passed)} scales with {len(row['counts'])} classes"
            return
    classifier, scales = estimates_of(row)
    width = len(row["counts"])
    asked = [(part, row["selector_selection_counts"][width * i :][:width], True) for i, part in enumerate(scales)]
    if len(passed) < len(settings.parts) - 1:
        asked.append((classifier, row["selection_counts"], False))
    for part, selection, was_passed in asked:
        yield from _selection(selection, row["n0"])
        if sum(part.counts) != (planned := settings.bound.samples_to_draw(max(selection, default=0))):
            yield f"a scale that may be passed has {sum(part.counts)} samples, {planned} were to be drawn"
        elif passes(part, settings.bound.alpha, row["lattice_pixels"]) != was_passed:
            yield "a scale was passed that is certified" if was_passed else "a scale answers that is to be passed"


def _selection(counts: list[int], n0: int) -> Iterator[str]:
    if sum(counts) != n0:
        yield "the counts of the selector's selection do not sum to n0"


def _hope(part: Estimate, planned: int, settings: ComposedTrial) -> bool:
    """Whether an estimation might still have been enough, had it gone on."""
    most = part.counts[part.selected] + planned - sum(part.counts)
    return bool(lower_confidence_bound(most, planned, settings.bound.alpha) >= 0.5)
