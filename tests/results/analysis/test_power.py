"""Differences that a run could detect: against other programs, simulation, and the published logs assumed in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from results import detectable_difference, images_needed, published_numbers
from results.analysis import power
from results.analysis.power import detectable
from results.analysis.seeds import crossed

LOGS = Path(__file__).parents[4] / "shared" / "reference" / "logs"


@pytest.mark.parametrize(("images", "alpha", "share"), [(30, 0.05, 0.8), (500, 0.01, 0.9), (10_000, 0.05, 0.8)])
def test_one_seed_is_the_paired_t_test(images: int, alpha: float, share: float) -> None:
    from statsmodels.stats.power import TTestPower

    expected = TTestPower().solve_power(nobs=images, alpha=alpha, power=share)
    found = detectable_difference(images, 0.3, alpha=alpha, power=share)
    assert float(found) == pytest.approx(0.3 * expected, rel=0.01)


def test_seeds_count_where_there_are_several_and_few_of_them_hide_much() -> None:
    one, *several = detectable_difference(10_000, 0.2, seeds=[1, 2, 3, 5, 10, 100], sd_seed=0.005)
    assert one == detectable_difference(10_000, 0.2)
    assert several == sorted(several, reverse=True)
    assert several[0] > 5 * several[2]
    assert several[-1] == pytest.approx(2.8016 * np.sqrt(0.005**2 / 100 + 0.2**2 / 10_000), rel=0.02)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_a_difference_that_can_be_detected_is_found_so_often(seeds: int, seed: int) -> None:
    random, repetitions = np.random.default_rng(seed), 400
    difference = float(detectable_difference(200, 1.0, seeds=seeds, sd_seed=0.05))
    found = 0
    for _ in range(repetitions):
        by_seed, by_image = random.normal(0, 0.05, (seeds, 1)), random.normal(0, 1, 200)
        found += crossed(difference + by_seed + by_image).p_value < 0.05
    assert found / repetitions == pytest.approx(0.8, abs=4 * np.sqrt(0.16 / repetitions))


def test_the_images_needed_are_the_fewest() -> None:
    columns = pd.DataFrame({"difference": [0.005, 0.02, 0.1], "sd": [0.2, 0.2, 0.4]})
    needed = images_needed(columns["difference"], columns["sd"], seeds=5, sd_seed=0.002)
    for count, (difference, sd) in zip(needed, columns.to_numpy(), strict=True):
        assert detectable_difference(count, sd, seeds=5, sd_seed=0.002) <= difference
        assert detectable_difference(count - 1, sd, seeds=5, sd_seed=0.002) > difference
    assert float(images_needed(0.005, 0.2)) == pytest.approx((2.8016 * 0.2 / 0.005) ** 2, rel=0.001)
    assert images_needed(0.001, 0.2, seeds=3, sd_seed=0.01) == np.inf  # two seeds more would help, images do not


@pytest.mark.parametrize(
    "given", [{"images": 1}, {"seeds": 0}, {"sd_image": -1.0}, {"sd_seed": -1.0}, {"alpha": 0.0}, {"power": 0.04}]
)
def test_what_cannot_be_is_refused(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        detectable_difference(**{"images": 100, "sd_image": 1.0} | given)
    with pytest.raises(ValueError, match="difference must be above 0"):
        images_needed(0.0, 1.0)


def test_what_is_assumed_of_trainings_is_that_of_two_programs() -> None:
    numbers = published_numbers()
    chosen = numbers[
        numbers["source"].isin(["jeong2023_logs", "sun2025_logs"])
        & numbers["method"].isin(["consistency", "macer", "smoothmix"])
        & (numbers["network"] == "resnet110")
        & ~numbers["variant"].map(bool)
    ]
    pairs = chosen.pivot_table(["acr", "r0.00"], ["method", "sigma"], "source").dropna()
    assert len(pairs) == 8
    sources = ("jeong2023_logs", "sun2025_logs")
    differences = {name: pairs[name, sources[1]] - pairs[name, sources[0]] for name in ("acr", "r0.00")}
    of_sigma = differences["acr"] / pairs.index.get_level_values("sigma")
    assert np.sqrt((of_sigma**2).mean() / 2) == pytest.approx(power.SD_TRAINING_ACR, abs=5e-4)
    assert np.sqrt((differences["r0.00"] ** 2).mean() / 2) / 100 == pytest.approx(power.SD_TRAINING_ACCURACY, abs=5e-5)


@pytest.mark.skipif(not LOGS.exists(), reason="the published logs are not here")
def test_what_is_assumed_of_images_is_that_of_two_logs() -> None:
    names = (
        "cohen2019_cifar10_resnet110_sigma0.25_skip20.tsv",
        "jeong2020_consistency_cifar10_resnet110_sigma0.25_full.tsv",
    )
    first, second = (pd.read_csv(LOGS / name, sep="\t").set_index("idx") for name in names)
    second = second.loc[first.index]
    values = [log["radius"] * log["correct"] for log in (first, second)]
    assert (values[0] - values[1]).std() / 0.25 == pytest.approx(power.SD_IMAGES_ACR, abs=5e-3)
    spreads = []
    for radius in (0.0, 0.25, 0.5, 0.75):
        certified = [((log["correct"] == 1) & (log["radius"] >= radius)).astype(float) for log in (first, second)]
        spreads.append((certified[0] - certified[1]).std())
    assert max(spreads) == pytest.approx(power.SD_IMAGES_ACCURACY, abs=5e-3)


def test_a_run_of_the_thesis_detects_what_its_images_allow() -> None:
    one = detectable(0.25, 10_000, 1, 15)
    assert one.acr == pytest.approx(2.8016 * power.SD_IMAGES_ACR * 0.25 / 100, rel=1e-3)
    assert one.accuracy == pytest.approx(2.8016 * power.SD_IMAGES_ACCURACY / 100, rel=1e-3)
    assert one.acr < one.acr_corrected < 1.5 * one.acr  # 3.79 for 2.80 at .05/15
    assert detectable(0.25, 10_000, 1, 1).acr_corrected == one.acr
