"""Beside which rows published numbers stand, and when one is marked as different."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom
from statsmodels.stats.proportion import confint_proportions_2indep

from results.analysis import published
from results.analysis.groups import of_published_data
from results.analysis.published import CIFAR10
from results.report.tables import table_certified_accuracy
from results.store.run import Run
from tests.conftest import repeated


@pytest.mark.parametrize(
    ("dataset", "same"),
    [
        ("cifar10", True), ("cifar10-jpeg@0aa89b6a", True), ("CIFAR-10@1", True), ("cifar10-exact-6k@1f21c531", True),
        ("cifar100", False), ("cifar10-c@1", False), ("cifar10.1@1", False), ("cifar10_c-fog@1", False),
        ("svhn", False), ("mnist", False), ("fashion_mnist", False), ("CIFAR-100@1", False),
    ],
)  # fmt: skip
def test_what_is_the_data_of_the_published_numbers(dataset: str, same: bool) -> None:
    trials = pd.DataFrame({"dataset": [dataset] * 3, "classes": [None, CIFAR10, ("cat", "dog")]})
    assert of_published_data(trials).tolist() == [same, same, False]


def of_radii(radii: np.ndarray) -> Run:
    """A run of `gaussian` at σ = .25 on CIFAR-10 with these radii, as if from counts; 0 is wrong."""
    n, k = 100_000, np.full(len(radii), 99_000)
    rows = pd.DataFrame(
        {"trial_id": "t", "method": "gaussian", "sigma": 0.25, "seed": 0, "dataset": "cifar10", "index": range(len(k))}
    )
    rows = rows.assign(
        label=0, selected=0, status="certified", correct=radii > 0, radius=radii, n=n, count_top=k, alpha=0.001,
        estimator="fixed", counts=None, precision="fp32", engine="eager", device="a machine", lattice_pixels=np.nan,
    )  # fmt: skip
    trial = {"trial_id": "t", "method": "gaussian", "title": "Gaussian", "sigma": 0.25, "seed": 0, "dataset": "cifar10"}
    trial |= {"classes": None, "images": len(k), "n": n, "n0": 100, "alpha": 0.001, "model": "resnet110", "members": []}
    trial |= {"device": "a machine", "train_precision": "fp32", "workers": 1, "settings": "{}"}
    return Run(rows, pd.DataFrame([trial]), pd.DataFrame())


@repeated(40, 400)
@pytest.mark.parametrize(("published_images", "own_images"), [(500, 2000), (10_000, 500)])
def test_the_same_truth_is_marked_in_one_of_twenty(
    published_images: int, own_images: int, repeats: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng([seed, published_images, own_images])
    marks = dict.fromkeys(("acr", "r0.00", "r0.50"), 0)

    def radii(images: int) -> np.ndarray:
        return np.round(np.clip(random.gamma(2, 0.25, images), 0.05, 0.95), 1) * (random.random(images) < 0.75)

    monkeypatch.setattr(published, "image_counts", lambda _: {(0.25, "gaussian"): published_images})
    for _ in range(repeats):
        theirs = radii(published_images)
        numbers = {"acr": theirs.mean(), "r0.00": 100 * (theirs > 0).mean(), "r0.50": 100 * (theirs >= 0.5).mean()}
        monkeypatch.setattr(published, "reference", lambda _, numbers=numbers: {(0.25, "gaussian"): numbers})
        [row] = table_certified_accuracy(of_radii(radii(own_images))).rows
        for key in marks:
            marks[key] += row.is_outside(key)
    assert binom.sf(max(marks.values()) - 1, repeats, 0.05) > 1e-4
    assert sum(marks.values()) > 0


def test_a_mark_needs_an_interval_of_the_difference() -> None:
    radii = np.where(np.arange(10_000) < 7300, 0.4, 0.0)
    [row] = table_certified_accuracy(of_radii(radii)).rows
    # 73.0 ± .9 % leaves out 74.8 %, which is of 500 images: that of the difference does not.
    assert row.published["r0.00"] not in row.intervals["r0.00"]
    assert row.published_images == 500
    expected = confint_proportions_2indep(7300, 10_000, 374, 500, method="newcomb", compare="diff")
    found = row.difference_intervals["r0.00"]
    assert [found.lower, found.upper] == pytest.approx([100 * end for end in expected])
    assert not row.is_outside("r0.00")
    assert row.is_outside("r0.25")  # 73.0 %, published 60.0 %
    # Of 10 000 images, as the others of the thesis are assumed to be, it would do.
    other = of_radii(radii)
    other = replace(other, **{name: getattr(other, name).assign(method="macer") for name in ("certificates", "trials")})
    [row] = table_certified_accuracy(other).rows
    assert row.published_images == 10_000
    assert row.published["r0.00"] == 71.4
    assert row.is_outside("r0.00")
    [sentence] = [sentence for sentence in table_certified_accuracy(other).caption if "†" in sentence]
    assert "Published test images: 10\u00a0000 (Gaussian)" in sentence
    assert "are assumed where a source does not say" in sentence
    assert "and fewer where they are the same; chance in training is not in it" in sentence
    [row] = table_certified_accuracy(replace(other, trials=other.trials.assign(n=1_000_000))).rows
    assert not row.is_outside("r0.00")  # of another n
