"""The thesis's claims against the run in this folder, as the tables of README.md beside it.

python docs/benchmark/claims.py
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from statsmodels.stats.multitest import multipletests

from bench.settings.grid import load_grid
from results import compare_seeds, images_needed, published_numbers, read_run, tables
from results.analysis.convergence import final_accuracies
from results.analysis.permutation import ASSIGNMENTS, sign_flip_test
from results.analysis.power import SD_TRAINING_ACR
from results.store.run import Run

FOLDER = Path(__file__).parent
SIGMAS = (0.25, 0.5)
LEVEL = 0.05
TEST_IMAGES, FEWEST_IMAGES = 10_000, 100
"""There are; below which a spread over images is not known well."""
SEEDS = (2, 3, 5, 10)
"""That are tried for a design which would decide a claim."""
PASS_HOURS, IMAGE_SECONDS = 0.38 / (90 * 4), 0.771
"""Of a ResNet-110 on one H100: a pass of 50 000 images, 19.2 ms a step of m = 4; an image at n = 100 000
(docs/performance.md)."""


@dataclass(frozen=True)
class Claim:
    """That the ACR of one method is larger than that of another, or its certified accuracy at radius 0."""

    said: str
    first: str
    second: str
    quantity: str = "acr"


OURS = "The thesis's method"
CLAIMS = (
    Claim(f"{OURS} beats consistency: ACR", "generalised_ld", "consistency"),
    Claim("… accuracy", "generalised_ld", "consistency", "accuracy"),
    Claim(f"{OURS} beats the ensemble: ACR", "generalised_ld", "ensemble"),
    Claim("… accuracy", "generalised_ld", "ensemble", "accuracy"),
    Claim(f"{OURS} beats MACER: ACR", "generalised_ld", "macer"),
    Claim("… accuracy", "generalised_ld", "macer", "accuracy"),
    Claim(f"{OURS} beats Gaussian training: ACR", "generalised_ld", "gaussian"),
    Claim("… accuracy", "generalised_ld", "gaussian", "accuracy"),
    Claim("LD helps Gaussian training (Figure 5.3): ACR", "gaussian_ld", "gaussian"),
    Claim("… accuracy", "gaussian_ld", "gaussian", "accuracy"),
    Claim("Consistency beats Gaussian training (Table 5.1): ACR", "consistency", "gaussian"),
    Claim("The ensemble beats consistency (Table 5.1): ACR", "ensemble", "consistency"),
)
QUESTIONS = (
    Claim("Generalised consistency against consistency: ACR", "generalised", "consistency"),
    Claim("… accuracy", "generalised", "consistency", "accuracy"),
    Claim("Consistency with half its λ against itself: ACR", "consistency_half", "consistency"),
    Claim("… accuracy", "consistency_half", "consistency", "accuracy"),
    Claim("Generalised consistency against consistency with half its λ: ACR", "generalised", "consistency_half"),
    Claim("… accuracy", "generalised", "consistency_half", "accuracy"),
    Claim("Gaussian training of twice the epochs against itself: ACR", "gaussian_long", "gaussian"),
    Claim("… accuracy", "gaussian_long", "gaussian", "accuracy"),
    Claim("Consistency against Gaussian training of twice the epochs: ACR", "consistency", "gaussian_long"),
    Claim("… accuracy", "consistency", "gaussian_long", "accuracy"),
    Claim(f"{OURS} against Gaussian training of twice the epochs: ACR", "generalised_ld", "gaussian_long"),
    Claim("… accuracy", "generalised_ld", "gaussian_long", "accuracy"),
    Claim("The mask of misclassified images alone against consistency: ACR", "generalised_per_sample", "consistency"),
    Claim("LD on top of generalised consistency: ACR", "generalised_ld", "generalised"),
    Claim("Eq. 3.3 with its threshold against without: ACR", "direct", "direct_unthresholded"),
    Claim("Eq. 3.3 with its threshold against Gaussian training: ACR", "direct", "gaussian"),
)


def summary(run: Run) -> str:
    """ACR with its interval and certified accuracy at radius 0 of each method, by its ACR at σ = .25."""
    accuracy = tables(run)["certified_accuracy"].set_index(["sigma", "method"])
    titles = dict(zip(run.trials["method"], run.trials["title"], strict=True))
    copies = run.trials.groupby("method")["copies"].max()
    seeds = run.trials.groupby(["sigma", "method"])["seed"].nunique()
    lines = [
        "| method | m | seeds | ACR, σ = .25 | ACC (%) | ACR, σ = .50 | ACC (%) |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for method in accuracy.loc[SIGMAS[0]].sort_values("acr", ascending=False).index:
        own = {int(seeds[sigma, method]) for sigma in SIGMAS if (sigma, method) in seeds.index}
        known = "" if np.isnan(copies[method]) else f"{copies[method]:.0f}"
        cells = [f"{titles[method]} (`{method}`)", known, " and ".join(map(str, sorted(own)))]
        for sigma in SIGMAS:
            if (sigma, method) not in accuracy.index:
                cells += ["", ""]
                continue
            row = accuracy.loc[(sigma, method)]
            cells += [f"{row['acr']:.3f} [{row['acr_lower']:.3f}, {row['acr_upper']:.3f}]", f"{row['r0.00']:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def claims(run: Run) -> str:
    """What the thesis says of its methods, with its numbers, and what would decide it."""
    return _table(run, CLAIMS, thesis=True)


def questions(run: Run) -> str:
    """What the thesis gives no number of."""
    return _table(run, QUESTIONS, thesis=False)


def _table(run: Run, asked: Sequence[Claim], *, thesis: bool) -> str:
    found = [
        _measured(run, claim, sigma)
        for claim in asked
        for sigma in SIGMAS
        if {claim.first, claim.second} <= set(run.trials.loc[run.trials["sigma"] == sigma, "method"])
    ]
    rows = pd.DataFrame(found)
    rows["holm"] = multipletests(rows["p_value"].fillna(1.0), method="holm")[1]
    rows["holm_seeds"] = multipletests(rows["p_value_seeds"].fillna(1.0), method="holm")[1]
    heads = ["claim" if thesis else "question", "σ", *["thesis"] * thesis, "measured", "p (Holm)", "seeds"]
    heads += ["over seeds", "here", *["what would decide it"] * thesis]
    right = {"σ", "thesis", "p (Holm)", "seeds"}
    lines = [f"| {' | '.join(heads)} |", "|" + "|".join("--:" if head in right else "---" for head in heads) + "|"]
    smallest = len(rows) / ASSIGNMENTS  # of a p-value by simulation, corrected
    for row in rows.to_dict("records"):
        over = "" if np.isnan(row["lower_seeds"]) else _between(row["lower_seeds"], row["upper_seeds"], row["percent"])
        holm = f"{row['holm']:.2g}" if row["holm"] > smallest else f"≤ {row['holm']:.1g}"
        cells = [row["said"], f"{row['sigma']:.2f}"]
        if thesis:
            cells.append(_number(row["thesis"], row["percent"]))
        interval = _between(row["lower"], row["upper"], row["percent"])
        cells += [
            f"{_number(row['difference'], row['percent'])} {interval}",
            holm,
            str(row["seeds"]),
            over,
            _verdict(row),
        ]
        if thesis:
            cells.append(_design(row, LEVEL / len(rows)))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(value: float, percent: bool) -> str:
    return f"{100 * value:+.1f} %" if percent else f"{value:+.3f}"


def _between(lower: float, upper: float, percent: bool) -> str:
    ends = (f"{100 * lower:+.1f}", f"{100 * upper:+.1f}") if percent else (f"{lower:+.3f}", f"{upper:+.3f}")
    return f"[{', '.join(ends)}]"


def _measured(run: Run, claim: Claim, sigma: float) -> dict[str, object]:
    """The difference over the images, of these trained models (their mean, where there are several), and over the seeds
    that both have."""
    cell = run.trials[run.trials["sigma"] == sigma]
    of = {name: set(cell.loc[cell["method"] == name, "seed"]) for name in (claim.first, claim.second)}
    seeds = sorted(of[claim.first] & of[claim.second])
    values = [np.stack([_values(run, name, sigma, seed, claim.quantity) for seed in seeds]) for name in of]
    differences = values[0] - values[1]
    p_value, interval = sign_flip_test(differences.mean(axis=0), np.random.default_rng(0))
    over = pd.DataFrame()
    if len(seeds) > 1:
        over = compare_seeds(run, [claim.first, claim.second])
        over = over[(over["sigma"] == sigma) & (over["quantity"] == claim.quantity) & ~(over["radius"] > 0)]
    [crossed] = over.to_dict("records") or [{}]
    return {
        "said": claim.said, "first": claim.first, "second": claim.second, "sigma": sigma, "seeds": len(seeds),
        "percent": claim.quantity == "accuracy", "thesis": _thesis(claim, sigma),
        "difference": differences.mean(), "lower": interval.lower, "upper": interval.upper, "p_value": p_value,
        **{f"{name}_seeds": crossed.get(name, np.nan) for name in ("lower", "upper", "p_value")},
        "sd_image": differences.std(axis=1, ddof=1).mean(),
    }  # fmt: skip


def _values(run: Run, method: str, sigma: float, seed: int, quantity: str) -> NDArray[np.float64]:
    """Of each image: its radius where the answer is right, else 0; or whether it is right."""
    rows = run.certificates
    rows = rows[(rows["method"] == method) & (rows["sigma"] == sigma) & (rows["seed"] == seed)].sort_values("index")
    right = rows["correct"].to_numpy(np.float64)
    return right * rows["radius"].to_numpy() if quantity == "acr" else right


def _thesis(claim: Claim, sigma: float) -> float:
    """The difference of its Table 5.1."""
    printed = published_numbers()
    printed = printed[(printed["source"] == "thesis") & (printed["sigma"] == sigma)].set_index("method")
    column, scale = ("acr", 1.0) if claim.quantity == "acr" else ("r0.00", 100.0)
    both = [printed[column].get(name, np.nan) / scale for name in (claim.first, claim.second)]
    return float(both[0] - both[1])


def _verdict(row: Mapping[Hashable, Any]) -> str:
    """Of methods where several seeds say so, each p-value corrected; else of these trained models alone."""
    if not row["holm"] < LEVEL:
        return "undecided"
    word = "yes" if row["difference"] > 0 else "no"
    return word if row["holm_seeds"] < LEVEL else f"{word}, of these trainings"


def _design(row: Mapping[Hashable, Any], level: float) -> str:
    """The fewest seeds with which a difference as large as the thesis's is found with probability .8 at that level, on
    the fewest test images, and what its trainings and certificates cost."""
    difference, sigma = row["thesis"], row["sigma"]
    if row["percent"]:
        return ""
    sd_seed = 2**0.5 * SD_TRAINING_ACR * sigma
    for seeds in SEEDS:
        images = float(images_needed(difference, row["sd_image"], seeds=seeds, sd_seed=sd_seed, alpha=level))
        if images <= TEST_IMAGES:
            images = max(images, float(FEWEST_IMAGES))
            hours = seeds * sum(_hours(row[name], sigma, images) for name in ("first", "second"))
            return f"{seeds} seeds × {images:.0f} images, {hours:.0f} GPU hours"
    return f"more than {SEEDS[-1]} seeds of all test images"


def _hours(method: str, sigma: float, images: float) -> float:
    """Of one training with the thesis's recipe, of all members, and of so many certificates."""
    [trial] = load_grid("thesis", methods=[method], sigmas=[sigma]).trials("cifar10")
    networks = trial.members or [trial]
    passes = sum(each.train.epochs * each.objective.copies for each in networks)
    return passes * PASS_HOURS + len(networks) * images * IMAGE_SECONDS / 3600


def convergence(run: Run) -> str:
    """Noisy test accuracy at the end, and after each epoch, over the seeds there are."""
    pairs = (
        ("generalised", "consistency"), ("generalised_ld", "consistency"), ("consistency_half", "consistency"),
        ("generalised", "consistency_half"), ("direct", "direct_unthresholded"),
    )  # fmt: skip
    lines = [
        "| first and second | σ | seeds | accuracy at the end | first above every seed of second |",
        "|---|--:|--:|---|--:|",
    ]
    for names in pairs:
        for sigma in SIGMAS:
            cell = run.epochs[run.epochs["sigma"] == sigma]
            first, second = (cell[cell["method"] == name] for name in names)
            if first.empty or second.empty:
                continue
            ends = [final_accuracies(rows) for rows in (first, second)]
            worst = first.groupby("epoch")["noisy_test_accuracy"].min()
            ahead = worst > second.groupby("epoch")["noisy_test_accuracy"].max()
            cells = [" and ".join(f"`{name}`" for name in names), f"{sigma:.2f}"]
            cells += [" and ".join(str(len(end)) for end in ends), " and ".join(map(_range, ends))]
            lines.append(f"| {' | '.join(cells)} | after {ahead.sum()} of {len(ahead)} epochs |")
    return "\n".join(lines)


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.3f}" if len(values) == 1 else f"{low:.3f} to {high:.3f}"


if __name__ == "__main__":
    here = read_run(FOLDER)
    print("\n\n".join(part(here) for part in (summary, claims, questions, convergence)))
