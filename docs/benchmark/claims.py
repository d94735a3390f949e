"""The thesis's claims against the run in this folder, as the tables of README.md beside it.

python docs/benchmark/claims.py
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests

from results import compare, compare_seeds, images_needed, published_numbers, read_run, tables
from results.analysis.convergence import common_level, epochs_to_level, final_accuracies
from results.analysis.power import SD_TRAINING_ACR
from results.store.run import Run

FOLDER = Path(__file__).parent
TEST_IMAGES = 10_000
SEEDS = (2, 3, 5, 10)
"""That are tried for a design which would decide a claim."""
TRAINING_HOURS, IMAGE_SECONDS = 0.38, 0.771
"""Of a ResNet-110 on one H100: 90 epochs of 50 000 images with m = 4, 19.2 ms a step; an image at n = 100 000
(docs/performance.md)."""


@dataclass(frozen=True)
class Claim:
    """That the ACR of one method is larger than that of another."""

    said: str
    first: str
    second: str


CLAIMS = (
    Claim("Consistency beats Gaussian training (Table 5.1)", "consistency", "gaussian"),
    Claim("The thesis's method beats consistency (§5.2)", "generalised_ld", "consistency"),
    Claim("… beats the ensemble (§5.2)", "generalised_ld", "ensemble"),
    Claim("… beats MACER (Table 5.1)", "generalised_ld", "macer"),
    Claim("The linear decomposition helps (Figure 5.3)", "gaussian_ld", "gaussian"),
    Claim("Generalised consistency helps (Figure 5.2)", "generalised", "consistency"),
    Claim("… its mask alone, Eq. 4.1", "generalised_per_sample", "consistency"),
    Claim("The threshold of Eq. 3.3 helps (§3.2)", "direct", "direct_unthresholded"),
)


def summary(run: Run) -> str:
    """ACR with its interval and certified accuracy at radius 0 of each method, by its ACR at σ = .25."""
    accuracy = tables(run)["certified_accuracy"].set_index(["sigma", "method"])
    titles = dict(zip(run.trials["method"], run.trials["title"], strict=True))
    lines = [
        "| method | ACR, σ = .25 | ACC (%) | ACR, σ = .50 | ACC (%) |",
        "|---|--:|--:|--:|--:|",
    ]
    for method in accuracy.loc[0.25].sort_values("acr", ascending=False).index:
        cells = [f"{titles[method]} (`{method}`)"]
        for sigma in (0.25, 0.5):
            if (sigma, method) not in accuracy.index:
                cells += ["", ""]
                continue
            row = accuracy.loc[(sigma, method)]
            cells += [f"{row['acr']:.3f} [{row['acr_lower']:.3f}, {row['acr_upper']:.3f}]", f"{row['r0.00']:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def claims(run: Run) -> str:
    """Difference of ACR of each claim at each σ, with what would decide it."""
    tested = [
        (claim, sigma) for claim in CLAIMS for sigma in (0.25, 0.5) if _are_there(run, sigma, claim.first, claim.second)
    ]
    rows = pd.DataFrame([_measured(run, claim, sigma) for claim, sigma in tested])
    rows["holm"] = multipletests(rows["p_value"].fillna(1.0), method="holm")[1]
    lines = [
        "| claim | σ | thesis | measured | seeds | p (Holm) | here | what would decide it |",
        "|---|--:|--:|---|--:|--:|---|---|",
    ]
    for row in rows.to_dict("records"):
        measured = f"{row['difference']:+.3f} [{row['lower']:+.3f}, {row['upper']:+.3f}]"
        thesis = "" if np.isnan(row["thesis"]) else f"{row['thesis']:+.3f}"
        verdict = _verdict(row["difference"], row["holm"])
        if verdict == "undecided" and row["thesis"] > row["upper"]:
            verdict = "undecided, but less than the thesis's"
        design = _design(
            row["difference"] if np.isnan(row["thesis"]) else row["thesis"], row["sd_image"], row["sd_seed"]
        )
        cells = [row["said"], f"{row['sigma']:.2f}", thesis, measured, str(row["seeds"]), f"{row['holm']:.2g}"]
        lines.append("| " + " | ".join([*cells, verdict, design]) + " |")
    return "\n".join(lines)


def _are_there(run: Run, sigma: float, *methods: str) -> bool:
    return set(methods) <= set(run.trials.loc[run.trials["sigma"] == sigma, "method"])


def _measured(run: Run, claim: Claim, sigma: float) -> dict[str, object]:
    pair = [claim.first, claim.second]
    found, seeds = compare_seeds(run, pair), 0
    if not found.empty:
        seeds = int(found["seeds"].iloc[0])
    else:
        found = compare(run, pair)
        found, seeds = found[found["seed"] == 0], 1
    row = found[(found["endpoint"] == "primary") & (found["sigma"] == sigma)].iloc[0]
    spread = abs(row["difference"] / row["effect"]) if seeds == 1 else row["sd_image"]
    return {
        "said": claim.said, "sigma": sigma, "seeds": seeds, "thesis": _thesis(claim, sigma),
        "difference": row["difference"], "lower": row["lower"], "upper": row["upper"], "p_value": row["p_value"],
        "sd_image": spread, "sd_seed": row["sd_seed"] if seeds > 1 else 2**0.5 * SD_TRAINING_ACR * sigma,
    }  # fmt: skip


def _thesis(claim: Claim, sigma: float) -> float:
    printed = published_numbers()
    printed = printed[(printed["source"] == "thesis") & (printed["sigma"] == sigma)].set_index("method")["acr"]
    both = [printed.get(name, np.nan) for name in (claim.first, claim.second)]
    return float(both[0] - both[1])


def _verdict(difference: float, p_value: float) -> str:
    if not p_value < 0.05:
        return "undecided"
    return "supported" if difference > 0 else "contradicted"


def _design(difference: float, sd_image: float, sd_seed: float) -> str:
    """The fewest seeds with which so large a difference is found with probability .8 on the test images there are, and
    of 100 at least, below which a spread over images is not known well."""
    for seeds in SEEDS:
        images = float(images_needed(abs(difference), sd_image, seeds=seeds, sd_seed=sd_seed))
        if images <= TEST_IMAGES:
            images = max(images, 100.0)
            hours = 2 * seeds * (TRAINING_HOURS + images * IMAGE_SECONDS / 3600)
            return f"{seeds} seeds × {images:.0f} images, {hours:.0f} GPU hours"
    return f"more than {SEEDS[-1]} seeds of all test images"


def convergence(run: Run) -> str:
    """Noisy test accuracy at the end, and epochs to a common level."""
    pairs = (("generalised", "consistency"), ("direct", "direct_unthresholded"))
    lines = [
        "| first and second | σ | accuracy at the end | difference | epochs to 95 % of the better |",
        "|---|--:|--:|---|--:|",
    ]
    for names in pairs:
        for sigma in (0.25, 0.5):
            if not _are_there(run, sigma, *names):
                continue
            epochs = run.epochs[(run.epochs["sigma"] == sigma) & (run.epochs["seed"] == 0)]
            both = [epochs[epochs["method"] == name] for name in names]
            level = common_level(both)
            first, second = (final_accuracies(rows)[0] for rows in both)
            reached = " and ".join(str(epochs_to_level(rows, level)[0] or "never") for rows in both)
            # As if the noise and the images of the two were independent: an upper bound of the interval.
            half = 1.96 * np.sqrt((first * (1 - first) + second * (1 - second)) / TEST_IMAGES)
            cells = [" and ".join(f"`{name}`" for name in names), f"{sigma:.2f}", f"{first:.3f} and {second:.3f}"]
            difference = f"{first - second:+.3f} [{first - second - half:+.3f}, {first - second + half:+.3f}]"
            lines.append("| " + " | ".join([*cells, difference, reached]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    here = read_run(FOLDER)
    print("\n\n".join(part(here) for part in (summary, claims, convergence)))
