"""An independent reading of a finished run: files, counts, bounds, radii, tables, with nothing of this program.

    python independent.py RUN        (or: bench audit RUN)

What every run has comes first and can be read in five minutes; nothing here is shared with what is checked. Bounds and
radii are decided in interval arithmetic (Arb, by python-flint), whose roundings always go outwards, and so is the order
of two numbers: a radius R with n samples of which k gave the class is accepted where P(Binomial(n, Φ(R/σ)) ≥ k) ≤ alpha
certainly holds, and fails certainly for a radius larger by a part in a million: R is sound, and it is the one that the
counts give.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import chain, product
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pyarrow.parquet as pq

ROUNDING = 1e-9
"""Relative: stored numbers are doubles, and their last digits are nobody's."""
BITS = 128
"""Of the intervals' ends: with those of a double an interval is wider than ROUNDING where n is large."""
SLACK = 1e-6
"""By how much a radius may be below the one that its counts give."""
EDGES = [place / 32 for place in range(32)] + [1 - 2.0**-place for place in range(6, 17)] + [1.0]
"""Between which the softmax of a sample is kept."""
Row = dict[str, Any]
Design = tuple[float, int, int] | tuple[()]


class AuditError(ValueError):
    """What does not follow, with the row or file; the message is one sentence."""


def audit(run: Path) -> dict[str, Any]:
    """Check everything; how many trials, rows, and rows without counts (imported) were found in order, and by which
    beacons how many trials are seeded: what no file can tell is whether these were unknown when weights were fixed.

    Raises:
        AuditError: the first thing that does not follow.
        OSError: a file is not there.
    """
    listed = json.loads((run / "run.json").read_text(encoding="utf-8"))["trials"]
    rows = pq.read_table(run / "certificates.parquet").to_pylist()
    merged = {trial["trial_id"]: trial for trial in pq.read_table(run / "trials.parquet").to_pylist()}
    by_trial: dict[str, list[Row]] = {name: [] for name in merged}
    for row in rows:
        if row["trial_id"] not in by_trial:
            raise AuditError(f"certificates.parquet: image {row['index']}: trials.parquet has no {row['trial_id']}")
        by_trial[row["trial_id"]].append(row)
    imported, beacons = 0, Counter[str]()
    for name, own in by_trial.items():
        if name not in listed:
            raise AuditError(f"trials.parquet: {name} is not a trial of run.json")
        settings = json.loads((run / "trials" / name / "trial.json").read_text(encoding="utf-8"))
        training = _sealed(run / "trials" / name / "training.json")
        _check_shards(run / "trials" / name, own)
        if settings["kind"] != "imported":
            _check_weights(run, name, settings, training)
            _check_images(name, settings, training, own)
        _check_columns(name, settings, training, merged[name], own)
        if settings["kind"] == "imported":
            imported += len(own)
            continue
        beacons.update({settings["certify"]["beacon"]} - {None})
        for row in own:
            _check_row(f"{name}, image {row['index']}", settings, training, row)
    _check_table(run / "tables" / "certified_accuracy.csv", by_trial)
    return {"trials": len(merged), "rows": len(rows), "imported": imported, "beacons": beacons}


# --- files ----------------------------------------------------------------------------------------------------------


def _sealed(path: Path) -> dict[str, Any]:
    """A record that carries a digest of itself."""
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    written = values.pop("sha256", None)
    if written != hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest():
        raise AuditError(f"{path}: its contents are not those that its digest is of")
    return values


def _check_shards(folder: Path, rows: list[Row]) -> None:
    """What was merged is what the shards hold."""
    there = [row for path in sorted((folder / "shards").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    for kept, merged in zip(sorted(there, key=lambda row: row["index"]), rows, strict=False):
        if kept != merged:
            names = [name for name in merged if kept.get(name) != merged[name]]
            raise AuditError(f"{folder.name}, image {merged['index']}: {', '.join(names)} is another in its shard")
    if len(there) != len(rows):
        raise AuditError(f"{folder.name}: its shards hold {len(there)} images, certificates.parquet {len(rows)}")


def _check_columns(name: str, settings: Row, training: Row, merged: Row, rows: list[Row]) -> None:
    """What trials.parquet and the rows say of a trial is what its own files say; folders need not be told."""
    whose = {"method": settings["name"]} | {key: settings[key] for key in ("sigma", "seed", "dataset")}
    own = settings["certify"] | settings.get("train", {}) | settings | training | whose | {"images": len(rows)}
    own["certify_seconds"] = sum(row["seconds"] for row in rows)
    aside = {"variant_of", "data", "parts", "settings", *(["model"] if "/" in settings["model"] else [])}
    for told, there in ((json.loads(merged["settings"]), settings), (merged, own)):
        for key in sorted(told.keys() & there.keys() - aside):
            if not _agree(told[key], there[key]):
                raise AuditError(f"trials.parquet: {key} of {name} is {told[key]}, its own files have {there[key]}")
    for row, key in product(rows, whose):
        if row[key] != whose[key]:
            raise AuditError(f"{name}, image {row['index']}: {key} = {row[key]}, its trial has {whose[key]}")


def _agree(told: Any, own: Any) -> bool:
    if isinstance(told, dict) and isinstance(own, dict):
        return all(_agree(told[key], own[key]) for key in told.keys() & own.keys())
    return math.isclose(told, own) if isinstance(told, float) and own is not None else bool(told == own)


def _check_weights(run: Path, name: str, settings: dict[str, Any], training: dict[str, Any]) -> None:
    """The weights on disk are those that were trained, and those that the rows are of."""
    if settings["kind"] in ("external", "composed"):
        return
    if training["members"]:
        digests = [
            _sealed(run / "trials" / member / "training.json")["checkpoint_sha256"] for member in training["members"]
        ]
        for member in training["members"]:
            _check_weights(run, member, settings, _sealed(run / "trials" / member / "training.json"))
        found = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    else:
        found = hashlib.sha256((run / "trials" / name / "model.safetensors").read_bytes()).hexdigest()
    if found != training["checkpoint_sha256"]:
        raise AuditError(f"{name}: the weights are not those of its training.json")


def _check_images(name: str, settings: dict[str, Any], training: dict[str, Any], rows: list[Row]) -> None:
    """Every image that the trial certifies is there, once and in order: all, or so many evenly spaced ones."""
    available, wanted = training["test_images"], settings["certify"]["images"]
    expected = [i * available // wanted for i in range(wanted)] if wanted else list(range(available))
    if [row["index"] for row in rows] != expected:
        raise AuditError(f"{name}: its rows are not of the {len(expected)} images that its settings name")


# --- one row --------------------------------------------------------------------------------------------------------


def _check_row(place: str, settings: dict[str, Any], training: dict[str, Any], row: Row) -> None:
    certify = settings["certify"]
    own = _composed(settings, row) if settings["kind"] == "composed" else _single(certify, row)
    for fault in chain(_identity(certify, training, row), own, _soft(certify, row)):
        raise AuditError(f"{place}: {fault}")


def _single(certify: dict[str, Any], row: Row) -> Iterator[str]:
    return chain(_part(certify, row), _two_sided(certify, row))


def _part(certify: dict[str, Any], row: Row) -> Iterator[str]:
    """One smoothed classifier at one image."""
    estimate = _misclassified if row["status"] == "misclassified" else _estimated
    return chain(_selection(row), estimate(certify, row), _claim(certify, row))


def _identity(certify: dict[str, Any], training: dict[str, Any], row: Row) -> Iterator[str]:
    for key in ("alpha", "n0", "estimator"):
        if row[key] != certify[key]:
            yield f"{key} = {row[key]}, its trial has {certify[key]}"
    if row["checkpoint_sha256"] != training["checkpoint_sha256"]:
        yield "is of other weights than its trial's"
    if certify["beacon"] is not None:
        digest = hashlib.sha256(f"{row['checkpoint_sha256']}\n{certify['beacon']}".encode()).hexdigest()
        if row["noise_seed"] != int(digest[:12], 16):
            yield f"noise_seed {row['noise_seed']} is not that of its weights and the beacon {certify['beacon']}"


def _selection(row: Row) -> Iterator[str]:
    counts = row["selection_counts"]
    if sum(counts) != row["n0"] or row["selected"] != counts.index(max(counts)):
        yield f"class {row['selected']} is not the first of the most frequent of {row['n0']} selection samples"


def _misclassified(certify: dict[str, Any], row: Row) -> Iterator[str]:
    if row["selected"] == row["label"] or not certify["skip_misclassified"] or row["n"] or any(row["counts"]):
        yield "says misclassified, and the selection does not"


def _estimated(certify: dict[str, Any], row: Row) -> Iterator[str]:
    """The n rule: as many samples as were decided beforehand, or fewer where these could not be enough any more, or the
    bound holds wherever it was stopped."""
    alpha, n, k, counts = certify["alpha"], row["n"], row["count_top"], row["counts"]
    planned, design = _to_draw(certify, row), _design(certify, row)
    if min(counts) < 0 or sum(counts) != n or k != counts[row["selected"]]:
        yield f"counts {counts} are not of {n} samples with {k} of class {row['selected']}"
    if n > planned or (n < planned and not design and _certifies(k + planned - n, planned, alpha)):
        yield f"n = {n}: {planned} samples were to be drawn, and abstention was not certain"
    if (row["status"] == "certified") != ((n == planned or bool(design)) and _certifies(k, n, alpha, design)):
        yield f"is {row['status']}, with {k} of {n} samples"


def _to_draw(certify: dict[str, Any], row: Row) -> int:
    if certify["estimator"] != "two-stage":
        return int(certify["n"])
    return _planned(max(row["selection_counts"]), row["n0"], certify["n"], certify["alpha"])


def _claim(certify: dict[str, Any], row: Row) -> Iterator[str]:
    radius, k, n = row["radius"], row["count_top"], row["n"]
    if row["correct"] != (row["predicted"] == row["label"]):
        yield f"correct = {row['correct']}: predicted {row['predicted']}, label {row['label']}"
    if row["status"] != "certified":
        if radius or row["predicted"] != -1:
            yield f"has radius {radius} and class {row['predicted']} without a certificate"
        return
    if row["predicted"] != row["selected"]:
        yield f"predicts {row['predicted']}, certified was {row['selected']}"
    debit, distance = _lattice(row["lattice_pixels"], row["sigma"])
    whole = (radius + debit) / row["sigma"]
    if not _is_radius(whole, k, n, certify["alpha"], distance, _design(certify, row)):
        yield f"radius {radius} does not follow from {k} of {n} samples at alpha = {certify['alpha']:g}"
    if abs(NormalDist().cdf(whole) - row["p_lower"]) > ROUNDING:
        yield f"p_lower = {row['p_lower']} is not that of radius {radius}"


# --- arithmetic -----------------------------------------------------------------------------------------------------


def _tail(k: int, n: int, p: Any) -> Any:
    """P(Binomial(n, p) ≥ k) = I_p(k, n − k + 1), as an interval."""
    from flint import arb, ctx

    with ctx.workprec(BITS):
        return arb(1) if k == 0 else arb(p).beta_lower(k, n - k + 1, regularized=True)


def _phi(x: float, more: float) -> Any:
    """Φ(x) + more, as an interval."""
    from flint import arb, ctx

    with ctx.workprec(BITS):
        return (1 + (arb(x) / arb(2).sqrt()).erf()) / 2 + more


def _levels(p: Any, k: int, n: int, alpha: float, design: Design) -> list[Any]:
    """The levels of the tests that exclude a probability of p or less after k of n samples, as intervals: of the
    binomial tail, if there is no other design."""
    return _anytime_levels(p, k, n, alpha, design) if design else [_tail(k, n, p)]


@cache
def _certifies(k: int, n: int, alpha: float, design: Design = ()) -> bool:
    """Whether p_lower ≥ 1/2, which is whether k of n samples have probability at most alpha at p = 1/2."""
    return any(level <= alpha for level in _levels(0.5, k, n, alpha, design))


@cache
def _is_radius(r: float, k: int, n: int, alpha: float, distance: float, design: Design = ()) -> bool:
    """Whether r = R/σ is sound, and within SLACK the largest that is, where the noise that was drawn is at so much
    total variation from a Gaussian."""
    sound = any(level <= alpha * (1 + ROUNDING) for level in _levels(_phi(r, distance), k, n, alpha, design))
    more = _phi(r * (1 + SLACK) + SLACK, distance)
    return sound and all(level > alpha for level in _levels(more, k, n, alpha, design))


# --- tables ---------------------------------------------------------------------------------------------------------


def _check_table(path: Path, by_trial: dict[str, list[Row]]) -> None:
    """ACR and certified accuracies of the table are the means over the rows, and then over the seeds."""
    groups: dict[tuple[float, str], list[list[Row]]] = {}
    for rows in by_trial.values():
        groups.setdefault((rows[0]["sigma"], rows[0]["method"]), []).append(rows)
    with path.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            own = groups.pop((float(line["sigma"]), line["method"]), [])
            for key, text in line.items():
                if own and (key == "acr" or (key.startswith("r") and key.count("_") == 0)) and text:
                    seeds = [_mean(rows, None if key == "acr" else float(key[1:])) for rows in own]
                    expected = sum(seeds) / len(seeds)
                    if abs(float(text) - expected) > ROUNDING * max(1.0, abs(expected)):
                        raise AuditError(
                            f"{path}: {key} of {line['method']} at {line['sigma']} is {text}, not {expected}"
                        )
    if groups:
        raise AuditError(f"{path}: lacks {next(iter(groups))}")


def _mean(rows: list[Row], radius: float | None) -> float:
    if radius is None:
        return float(sum(row["radius"] * row["correct"] for row in rows) / len(rows))
    return 100.0 * sum(bool(row["correct"] and row["radius"] >= radius) for row in rows) / len(rows)


# --- what not every run has: n of two stages, lattices, two-sided radii, bounds at any time, expected softmax --------


@cache
def _planned(count: int, n0: int, n: int, alpha: float) -> int:
    """Two-stage: the fewest of n, n/2, … n/32 samples whose radius falls short of that of n by at most .03 σ times the
    share saved, were the class as frequent as in the selection."""

    def radius(size: int) -> float:
        p = _lower(math.floor(count / n0 * size), size, alpha)
        return NormalDist().inv_cdf(p) if p >= 0.5 else 0.0

    sizes = [-(-n // 2**halving) for halving in range(6)]
    return min(int(size) for size in sizes if radius(n) - radius(size) <= 0.03 * (1 - size / n))


def _lattice(pixels: int | None, sigma: float) -> tuple[float, float]:
    """The sound mode, on a lattice of 1/(255 · 64): h √d / 2 off the radius, for images that are not on it; and the
    noise's total variation, of 2 · ⌈9σ/h⌉ + 1 values with two roundings of 2⁻⁶⁴ each, and tails beyond 9 σ."""
    if pixels is None:
        return 0.0, 0.0
    h = 1 / (255 * 64)
    return h * math.sqrt(pixels) / 2, pixels * (
        (2 * math.ceil(9 * sigma / h) + 1) * 2**-63 + math.erfc(9 / math.sqrt(2))
    )


@cache
def _lower(k: int, n: int, alpha: float) -> float:
    """A p for which P(Binomial(n, p) ≥ k) ≤ alpha certainly holds, and within SLACK of its odds the largest."""
    from statsmodels.stats.proportion import proportion_confint

    if k == 0:
        return 0.0
    p = float(proportion_confint(k, n, 2 * alpha, method="beta")[0])
    more = 1 - (1 - p) * (1 - SLACK)
    if not _tail(k, n, p) <= alpha * (1 + ROUNDING) or not _tail(k, n, more) > alpha:
        raise AuditError(f"{p} is not the lower bound from {k} of {n} samples at {alpha:g}")
    return p


def _two_sided(certify: dict[str, Any], row: Row) -> Iterator[str]:
    """σ/2 (Φ⁻¹(p_A) − Φ⁻¹(p_B)), p_A at half of alpha, the others at half of it together; of a whole estimation."""
    claimed = row["radius_two_sided"]
    if (claimed is None) != (row["n"] != _to_draw(certify, row) or certify["estimator"] == "anytime"):
        yield f"radius_two_sided = {claimed} after {row['n']} samples"
    if claimed is None:
        return
    n, k, others = row["n"], row["count_top"], [*row["counts"]]
    others.pop(row["selected"])
    debit, distance = _lattice(row["lattice_pixels"], row["sigma"])
    p_a = max(_lower(k, n, certify["alpha"] / 2) - distance, 0.0)
    p_b = min(1 - _lower(n - max(others), n, certify["alpha"] / 2 / len(others)) + distance, 1 - p_a)
    radius = 0.0
    if p_a > p_b:
        normal = NormalDist()
        radius = max(row["sigma"] / 2 * (normal.inv_cdf(p_a) - normal.inv_cdf(p_b)) - debit, 0.0) if p_b else math.inf
    if not radius * (1 - SLACK) - SLACK <= claimed <= radius * (1 + ROUNDING) + ROUNDING:
        yield f"radius_two_sided {claimed} does not follow from counts {row['counts']}"


def _design(certify: dict[str, Any], row: Row) -> Design:
    """Of an anytime bound: what the selection says of the class's probability and of the samples needed, and n."""
    if certify["estimator"] != "anytime":
        return ()
    count, n0 = max(row["selection_counts"]), row["n0"]
    return (count + 0.5) / (n0 + 0.6), _planned(count, n0, certify["n"], certify["alpha"]), certify["n"]


def _anytime_levels(p: Any, k: int, n: int, alpha: float, design: tuple[float, int, int]) -> list[Any]:
    """A tenth of alpha is bet, λ = 1, 1/2, … 1/1024 of the wealth after each sample on its being above p, and the
    wealth never reaches 1/level with a larger probability than that; the rest is for the tail at n and at the samples
    needed, if the estimation ended there."""
    from flint import arb, ctx

    share, planned, most = design
    star = min(math.sqrt(-2 * math.log(alpha) / (share * (1 - share) * planned)), 1.0)
    weights = [2.0 ** -abs(place + math.log2(star)) for place in range(11)]
    with ctx.workprec(BITS):
        bets = [(weight / sum(weights), arb(2.0**-place)) for place, weight in enumerate(weights)]
        wealth = sum(weight * (1 + bet * (1 - p)) ** k * (1 - bet * p) ** (n - k) for weight, bet in bets)
        levels = [10 / wealth]
    if n in (planned, most):
        levels.append(_tail(k, n, p) * len({planned, most}) / 0.9)
    return levels


def _soft(certify: dict[str, Any], row: Row) -> Iterator[str]:
    """The expected softmax: its samples lie between edges, 2²⁰ of weight for each, and are bet on as at any time, with
    eleven equal purses."""
    claimed, weights = row["radius_soft"], row["soft_weights"]
    if not (certify.get("soft") and row["n"]):
        if (claimed, weights) != (None, None):
            yield f"radius_soft = {claimed}, which was not asked for"
        return
    if claimed is None or len(weights) != len(EDGES) or min(weights) < 0 or sum(weights) != row["n"] * 2**20:
        yield f"soft_weights are not of {row['n']} samples"
        return
    debit, distance = _lattice(row["lattice_pixels"], row["sigma"])
    r, enough = (claimed + debit) / row["sigma"], 11 / certify["alpha"]
    sound = not claimed or _wealth(weights, _phi(r, distance)) >= enough * (1 - ROUNDING)
    if not sound or not _wealth(weights, _phi(r * (1 + SLACK) + SLACK, distance)) < enough:
        yield f"radius_soft {claimed} does not follow from soft_weights"


def _wealth(weights: list[int], m: Any) -> Any:
    """Of who bets λ = 1, 1/2, … 1/1024 of a purse on samples (edges, with weights) being above m, as an interval."""
    from flint import arb, ctx

    with ctx.workprec(BITS):
        bets = [arb(2.0**-place) for place in range(11)]
        logs = [sum(w * (1 + bet * (e - m)).log() for w, e in zip(weights, EDGES, strict=True) if w) for bet in bets]
        return sum((log / 2**20).exp() for log in logs)


# --- composed classifiers -------------------------------------------------------------------------------------------


def _composed(settings: dict[str, Any], row: Row) -> Iterator[str]:
    """Several smoothed classifiers at one image: each by itself, at its share of alpha, and the smaller radius of both.

    dual: the selector chooses who answers; 2 bounds share alpha. multi-scale: the first scale with a class above 1/2
    answers. Of K scales each may, and each but the last may be passed, where its other classes must stay below 1/2:
    2K − 1 bounds.
    """
    parts, own, kept = settings["parts"], row["classifier_radius"], row["selector_radius"]
    if row["checkpoint_sha256"] != hashlib.sha256("\n".join(part["weights"] for part in parts).encode()).hexdigest():
        yield "its weights are not those of its parts"
    if row["radius_two_sided"] is not None:
        yield f"radius_two_sided = {row['radius_two_sided']} of a composed classifier"
    dual, width = settings["composition"] == "dual", len(row["counts"])
    shares = 2 if dual else 2 * len(parts) - 1
    share = {**settings["certify"], "alpha": settings["certify"]["alpha"] / shares}
    pairs = _pairs(row, len(parts) - 1 if dual else width)
    place = 1 + pairs[0][0].index(max(pairs[0][0])) if dual else len(pairs)
    asked = [parts[0]["sigma"]] if dual else [part["sigma"] for part in parts[:place]]
    if row["selector_sigmas"] != asked or row["sigma_input"] != parts[place]["sigma"] or row["alpha_shares"] != shares:
        yield f"its parts or their {row['alpha_shares']} shares of alpha are not those that its trial asks"
    answer = _view(row, (row["selection_counts"], row["counts"]), own, row["sigma_input"])
    answer |= {"p_lower": row["p_lower"], "label": row["label"], "correct": answer["predicted"] == row["label"]}
    yield from _part(share, answer)
    if not dual and place < len(parts) - 1 and answer["status"] != "certified":
        yield f"part {place} answers, and none of its classes is above 1/2"
    if dual and row["n"]:
        yield from _part(share, _view(row, pairs[0], kept, asked[0]))
    elif dual and (any(pairs[0][1]) or kept):
        yield "is misclassified, and its selector was estimated"
    elif not dual:
        yield from _passed(share, row, pairs, asked)
    sure = answer["status"] == "certified" and (kept is None or kept > 0)
    status = "certified" if sure else "abstained" if row["n"] else "misclassified"
    expected = {
        "status": status,
        "radius": (own if kept is None else min(own, kept)) if sure else 0.0,
        "predicted": row["selected"] if sure else -1,
        "correct": sure and row["selected"] == row["label"],
    }
    for key, value in expected.items():
        if row[key] != value:
            yield f"{key} is {row[key]}, with radii {own} and {kept} it is {value}"


def _pairs(row: Row, width: int) -> list[tuple[list[int], list[int]]]:
    """Counts of the selection and of the estimation, of the selector or of each scale that was passed."""
    both = row["selector_selection_counts"], row["selector_counts"]
    if len(both[0]) != len(both[1]) or len(both[0]) != width * len(row["selector_sigmas"]):
        raise AuditError(f"image {row['index']}: its selector has counts of other classes")
    return [(both[0][i : i + width], both[1][i : i + width]) for i in range(0, len(both[0]), width)]


def _view(row: Row, counts: tuple[list[int], list[int]], radius: float, sigma: float) -> Row:
    """A part of a composed classifier as the row that it would have by itself, its own answer for the label."""
    selected, debit = counts[0].index(max(counts[0])), _lattice(row["lattice_pixels"], sigma)[0]
    n = sum(counts[1])
    status = "certified" if radius else "abstained" if n else "misclassified"
    return row | {
        "selection_counts": counts[0], "counts": counts[1], "selected": selected, "n": n, "status": status,
        "count_top": counts[1][selected], "radius": radius, "sigma": sigma, "label": selected,
        "predicted": selected if radius else -1, "correct": bool(radius),
        "p_lower": NormalDist().cdf((radius + debit) / sigma),
    }  # fmt: skip


@cache
def _is_sound(r: float, k: int, n: int, alpha: float, distance: float) -> bool:
    """Whether r = R/σ is not too large."""
    return bool(_tail(k, n, _phi(r, distance)) <= alpha * (1 + ROUNDING))


def _passed(
    share: dict[str, Any], row: Row, pairs: list[tuple[list[int], list[int]]], sigmas: list[float]
) -> Iterator[str]:
    """Scales without a class above 1/2, none of whose classes but the one that answers gets there within a radius."""
    kept, tight = row["selector_radius"], not pairs
    if (kept is None) != (not pairs):
        yield f"selector_radius is {kept}, with {len(pairs)} scales passed"
    for (selection, counts), sigma in zip(pairs, sigmas, strict=True):
        n, level = sum(counts), share["alpha"] / (len(counts) - 1)
        planned = share["n"]
        if row["estimator"] == "two-stage":
            planned = _planned(max(selection), row["n0"], planned, share["alpha"])
        if sum(selection) != row["n0"] or n != planned or min(counts) < 0:
            yield f"a scale that was passed has {n} samples, {planned} were to be drawn"
        if _certifies(counts[selection.index(max(selection))], n, share["alpha"]):
            yield "a scale was passed of which a class is above 1/2"
        rest = n - max(count for place, count in enumerate(counts) if place != row["selected"])
        debit, distance = _lattice(row["lattice_pixels"], sigma)
        if not kept:
            tight |= not _certifies(rest, n, level)
        elif not _is_sound((kept + debit) / sigma, rest, n, level, distance):
            yield f"selector_radius {kept} does not follow from a scale where the others have {n - rest} of {n} samples"
        else:
            tight |= _is_radius((kept + debit) / sigma, rest, n, level, distance)
    if not tight:
        yield f"selector_radius {kept} is less than any scale says"


if __name__ == "__main__":
    try:
        print(audit(Path(sys.argv[1])))
    except AuditError as error:
        sys.exit(str(error))
