"""Published numbers, as printed, with where they stand and what is known to be odd about them.

`numbers.csv`: source, method, variant (empty: the source's main recipe), network, σ of training and of certification,
number of test images (empty: not given; the thesis's Gaussian rows are those of a log of 500), ACR, certified
accuracies in percent, the largest radius of a log, where in the source, note. Numbers of a source whose key ends in
_logs are computed from the certification logs that its authors published; the others are as printed. `costs.csv`: the
thesis's Table 5.2. Tables that take the best of several σ are left out.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from results.errors import BenchError

if TYPE_CHECKING:
    import pandas as pd

ACCURACY_ORDER = ("generalised_ld", "ensemble", "consistency", "macer", "gaussian_ld", "gaussian")
"""Of methods, from best to worst, as Table 5.1 of the thesis lists them; others follow."""
COST_ORDER = ("gaussian", "consistency", "generalised_ld", "ensemble", "macer")
"""As Table 5.2 of the thesis lists them."""

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""The classes of the data that all these numbers are of, in the order of its labels."""


@dataclass(frozen=True)
class Source:
    """Where numbers were published."""

    short: str
    """As in "thesis Table 5.1"."""
    citation: str
    setting: str
    notes: tuple[str, ...] = ()
    """Sentences: what is odd about its numbers."""


ACCURACY_NOTES = (
    "The gain of 0.34 in ACR that the thesis's text states is 0.034 by its own table; that of 6.6 % in clean "
    "accuracy at both σ is 5.7 at σ = 0.50, where ACR gains 0.028.",
    "It says to outperform the ensemble, which is better at σ = 0.25, r = 0.50 and at σ = 0.50, r = 1.00 and 1.25; "
    "consistency is better at σ = 0.50, r = 1.75. The best ACC is that of Gaussian+LD at σ = 0.25 and of Gaussian at "
    "σ = 0.50. The table's own title says approximated certified accuracy.",
    "Both Gaussian rows equal the 500-image log published with Cohen et al. 2019 (90 epochs, rate 0.1), with 24.3 "
    "for 23.4 at σ = 0.50, r = 1.00. That log's largest radius (0.978) exceeds the limit of n = 100 000 and alpha = "
    "0.001.",
    "The 90-epoch, rate-0.01 recipe is the consistency paper's for MNIST; its recipe for CIFAR-10 reaches ACR 0.552 "
    "at σ = 0.25, against 0.508 here.",
    "MACER's own publication reports 0.556 at σ = 0.25 on test images 500 to 999; on all 10 000 it is 0.531.",
    "λ, η, batch size, weight decay, the subset of images and the seeds are not given.",
    "The linear decomposition keeps variances above σ²/5 by section 4.2 and above σ²/10 by section 5.4; Figure 4.2 "
    "says 10-fold noise, its text 5-fold. Eq. 4.4 projects images as they are, the trials here centre them first.",
    "Eq. 2.6 is the two-sided radius (σ/2)(Φ⁻¹(p_A) − Φ⁻¹(p_B)), section 5.1 uses the one-sided CERTIFY; the table "
    "of smaller budgets has both.",
    "Eq. 3.3 leaves out MACER's runner-up class and hinge; the method macer is as its own publication has it. Eq. "
    "3.4 has a σ² in the exponent that does not belong there.",
    "The third contribution is a method of its own: Eq. 3.3 as printed with a threshold of 0.99 on the probability "
    "(section 3.2). No number shows that it greatly accelerates the optimisation, and the softmax alone already "
    "bounds the gradient by 0.627, floating point at probability 1 aside.",
    "The mask of Eq. 4.1 is printed as of the mean probabilities; the looser accuracy condition of the text, and Eq. "
    "4.3, speak for the mean logits, the default here. On random logits the two differ for 9 to 17 % of the images.",
    "Not said, and taken here as in brackets: whether the mean prediction in the divergence and the entropy is the "
    "mean of softmaxes (yes) or the softmax of mean logits; whether the masked mean divides by all images (yes) or "
    "by those masked in; of what the accuracy in Figure 5.2 is (the base classifier, on one noise sample of each "
    "image).",
    "Figures 4.1 and 4.2 are illustrations. That noise samples nearer to the image count more can be measured: in "
    "3 072 dimensions their distance is σ (55.4 ± 0.7), so hardly any is nearer than another.",
)
COST_NOTES = (
    "The ensemble's ACR at σ = 0.25 is 0.532 here and 0.535 in Table 5.1.",
    "One NVIDIA 3080 Ti. Gaussian's 0.5 h against consistency's 2.1 h implies one sample for Gaussian. The 33 % of "
    "the ensemble's training time that the text states are 2.2/5.8 = 38 %.",
)

_ALL = "CIFAR-10, ResNet-110, all 10 000 test images, n = 100 000, n0 = 100, alpha = 0.001"
_FEW = "CIFAR-10, ResNet-110, 500 test images, n = 100 000, n0 = 100, alpha = 0.001"
_SUN = f"{_ALL}; Gaussian with four noise samples"
_NOT_1E5 = (
    "The largest radius of the logs at σ = 0.25 and 0.50 exceeds the limit of n = 100 000 and alpha = 0.001: they were "
    "made with another n or alpha."
)

SOURCES = {
    "thesis": Source(
        "thesis",
        "X. Song, Trustworthy and Certified Robustness for Deep Learning, Nanyang Technological University",
        "CIFAR-10, ResNet-110, n = 100 000, n0 = 100, alpha = 0.001; test images, λ, η and seeds not given",
        ACCURACY_NOTES,
    ),
    "cohen2019": Source(
        "Cohen et al. 2019",
        "Cohen, Rosenfeld & Kolter, Certified Adversarial Robustness via Randomized Smoothing, ICML 2019; "
        "tables of the repository locuslab/smoothing",
        _FEW,
    ),
    "cohen2019_logs": Source(
        "logs of Cohen et al. 2019", "logs of the repository locuslab/smoothing", _FEW, (_NOT_1E5,)
    ),
    "salman2019_logs": Source(
        "logs of Salman et al. 2019",
        "Salman et al., Provably Robust Deep Learning via Adversarially Trained Smoothed Classifiers, NeurIPS 2019; "
        "logs of the repository Hadisalman/smoothing-adversarial",
        _ALL,
    ),
    "zhai2020": Source(
        "Zhai et al. 2020, Table 1",
        "Zhai et al., MACER: Attack-free and Scalable Robust Training via Maximizing Certified Radius, ICLR 2020",
        "CIFAR-10, ResNet-110, test images 500 to 999, n = 100 000, n0 = 100, alpha = 0.001",
        ("On test images 500 to 999 MACER reaches 0.556 at σ = 0.25; on all 10 000 it is 0.531.",),
    ),
    "jeong2020_logs": Source(
        "logs of Jeong & Shin 2020",
        "Jeong & Shin, Consistency Regularization for Certified Robustness of Smoothed Classifiers, NeurIPS 2020; "
        "logs of the repository jh-jeong/smoothing-consistency",
        _ALL,
    ),
    "jeong2021_logs": Source(
        "logs of Jeong et al. 2021",
        "Jeong et al., SmoothMix: Training Confidence-calibrated Smoothed Classifiers for Certified Robustness, "
        "NeurIPS 2021; logs of the repository jh-jeong/smoothmix",
        _ALL,
        (
            "SmoothMix without its one-step adversary (mix_step 0) at both σ; with it, as CAT-RS's comparison trains "
            "at σ = 0.50, ACR is 0.736 there and 0.548 at 0.25.",
        ),
    ),
    "jeong2023_logs": Source(
        "logs of Jeong et al. 2023",
        "Jeong, Kim & Shin, Confidence-aware Training of Smoothed Classifiers for Certified Robustness, AAAI 2023; "
        "logs of the repository alinlab/smoothing-catrs",
        _ALL,
    ),
    "aces2022_logs": Source(
        "logs of Horváth et al. 2022",
        "Horváth et al., Robust and Accurate: Compositional Architectures for Randomized Smoothing, 2022; "
        "logs of the repository eth-sri/ACES",
        _FEW,
        (
            "The largest radius of the logs is that of n = 100 000 at alpha = 0.0005, or of fewer samples at 0.001, "
            "which lowers these numbers a little.",
        ),
    ),
    "sun2025": Source(
        "Sun et al. 2025, Table 2",
        "Sun et al., Average Certified Radius is a Poor Metric for Randomized Smoothing, arXiv 2410.06895",
        _SUN,
        ("The authors' own logs (sun2025_logs) differ from the printed table by up to 0.02 in ACR.",),
    ),
    "sun2025_logs": Source(
        "logs of Sun et al. 2025", "logs of the repository eth-sri/acr-weakness, of the paper of sun2025", _SUN
    ),
}

ASSUMED_IMAGES = 10_000
"""CIFAR-10's test set, where a source does not say how many images its numbers are of."""
Key = tuple[float, str]
RADIUS_COLUMNS = tuple(f"r{quarter / 4:.2f}" for quarter in range(10))


def reference(source: str = "thesis") -> dict[Key, dict[str, float]]:
    """(σ, method) -> "acr" and "r0.00" … "r2.25", as far as they are given; accuracies in percent.

    The main recipe of each method on ResNet-110, certified with the σ it was trained with.

    Raises:
        BenchError: an unknown source.
    """
    return _by_key(_main_recipes(source), ["acr", *RADIUS_COLUMNS])


def image_counts(source: str = "thesis") -> dict[Key, int]:
    """(σ, method) -> of how many test images the numbers of `reference` are; ASSUMED_IMAGES where it is not given.

    Raises:
        BenchError: an unknown source.
    """
    rows = _main_recipes(source)
    counts = rows["images"].fillna(ASSUMED_IMAGES).astype(int)
    return dict(zip(zip(rows["sigma"], rows["method"], strict=True), counts, strict=True))


def costs(source: str = "thesis") -> dict[Key, dict[str, float]]:
    """(σ, method) -> "acr" and "accuracy_percent"; of the thesis also "memory_gb" and "runtime_hours".

    Raises:
        BenchError: an unknown source.
    """
    rows = _read("costs.csv")
    printed = _by_key(rows[rows["source"] == source], ["acr", "accuracy_percent", "memory_gb", "runtime_hours"])
    same = {"acr": "acr", "r0.00": "accuracy_percent"}
    accuracies = {
        cell: {same[name]: value for name, value in numbers.items() if name in same}
        for cell, numbers in reference(source).items()
    }
    return printed or accuracies


def find_source(name: str) -> Source:
    """The source of that key; ValueError names the known ones."""
    if name not in SOURCES:
        raise BenchError(f"unknown source of published numbers {name!r}; known: {', '.join(SOURCES)}")
    return SOURCES[name]


def count_models() -> Counter[str]:
    """How many models numbers.csv has of each source; read without pandas, which takes long to import."""
    lines = (resources.files(__name__) / "numbers.csv").read_text(encoding="utf-8").splitlines()
    return Counter(row["source"] for row in csv.DictReader(lines))


def published_numbers() -> pd.DataFrame:
    """All published numbers, one row per model; NaN where a source does not give a number.

    Columns: `source` (a key of SOURCES), `method`, `variant` (empty: the source's main recipe), `network`,
    `trained_sigma`, `sigma` (of certification), `images` (test images), `acr` ([0, 1] pixel units), `r0.00` … `r2.25`
    (certified accuracy in percent), `largest_radius` (of a log), `where` (in the source), `note`.
    """
    return _read("numbers.csv").copy()


def _main_recipes(source: str) -> pd.DataFrame:
    find_source(source)
    rows = published_numbers()
    plain = (rows["variant"] == "") & (rows["network"] == "resnet110") & (rows["trained_sigma"] == rows["sigma"])
    return rows[plain & (rows["source"] == source)]


@cache
def _read(name: str) -> pd.DataFrame:
    import pandas as pd

    with (resources.files(__name__) / name).open(encoding="utf-8") as file:
        frame: pd.DataFrame = pd.read_csv(file)
    words = [name for name in ("variant", "note", "where") if name in frame]
    return frame.fillna(dict.fromkeys(words, ""))


def _by_key(rows: pd.DataFrame, columns: list[str]) -> dict[Key, dict[str, float]]:
    return {
        (float(row["sigma"]), str(row["method"])): {
            name: float(row[name]) for name in columns if not math.isnan(row[name])
        }
        for row in rows.to_dict("records")
    }
