"""Two methods over several training seeds: the analysis of variance, how often it errs, and what it says of a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.stats import t as student
from scipy.stats import ttest_1samp

from results import compare_seeds, read_run
from results.analysis.comparison import CompareError
from results.analysis.seeds import FEWEST, crossed
from results.store.folder import RunFolder
from results.store.merge import merge_run
from results.store.run import Run
from tests.command import bench
from tests.conftest import small_trial, write_fake_run

Floats = NDArray[np.float64]


def drawn(random: np.random.Generator, shape: tuple[int, int], by_seed: float, by_image: float, rest: float) -> Floats:
    """Differences (seeds, images) with these standard deviations and a mean of 0."""
    a, b = random.normal(0, by_seed, (shape[0], 1)), random.normal(0, by_image, shape[1])
    found: Floats = a + b + random.normal(0, rest, shape)
    return found


def test_the_mean_squares_are_those_of_the_analysis_of_variance() -> None:
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    differences = drawn(np.random.default_rng(0), (3, 40), 1.0, 2.0, 0.5)
    seed, image = np.indices(differences.shape)
    frame = pd.DataFrame({"d": differences.ravel(), "seed": seed.ravel(), "image": image.ravel()})
    squares = anova_lm(ols("d ~ C(seed) + C(image)", frame).fit())
    of_seeds, of_images, of_rest = squares["sum_sq"] / squares["df"]
    found = crossed(differences)
    assert found.sd_rest**2 == pytest.approx(of_rest)
    assert found.sd_seed**2 == pytest.approx((of_seeds - of_rest) / 40)
    assert found.sd_image**2 == pytest.approx((of_images - of_rest) / 3)
    half = np.sqrt((student.ppf(0.975, 2) ** 2 * of_seeds + student.ppf(0.975, 39) ** 2 * of_images) / 120)
    assert [found.interval.lower, found.interval.upper] == pytest.approx([found.mean - half, found.mean + half])


def test_with_one_effect_alone_it_is_the_t_test_over_it() -> None:
    random = np.random.default_rng(1)
    of_seeds, of_images = random.normal(0.5, 1, 5), random.normal(0.2, 1, 60)
    for differences, alone in (
        (np.repeat(of_seeds[:, None], 60, axis=1), of_seeds),
        (np.repeat(of_images[None], 5, axis=0), of_images),
    ):
        found, expected = crossed(differences), ttest_1samp(alone, 0)
        assert found.p_value == pytest.approx(expected.pvalue, rel=1e-6)
        interval = expected.confidence_interval(0.95)
        assert [found.interval.lower, found.interval.upper] == pytest.approx([interval.low, interval.high])


def test_the_interval_leaves_out_0_where_p_is_below_05() -> None:
    random = np.random.default_rng(2)
    significant = 0
    for _ in range(50):
        found = crossed(random.normal(0.2, 0.5) + drawn(random, (3, 50), 0.1, 0.5, 0.5))
        assert (0 not in found.interval) == (found.p_value < 0.05)
        significant += found.p_value < 0.05
    assert 5 < significant < 45


def test_where_few_images_differ_or_all_alike_there_is_no_interval() -> None:
    few = np.zeros((3, 500))
    few[:, : FEWEST - 1] = np.random.default_rng(3).normal(1, 1, (3, FEWEST - 1))
    for differences in (few, np.full((3, 500), 0.1), np.zeros((3, 500))):
        found = crossed(differences)
        assert not found.interval
        assert np.isnan(found.p_value)
    few[:, FEWEST - 1] = 1.0
    assert crossed(few).interval
    with pytest.raises(ValueError, match="at least two seeds"):
        crossed(few[:1])


def rejected(seed: int, repetitions: int, shape: tuple[int, int], *spreads: float) -> float:
    """How often a true mean of 0 is rejected at .05."""
    random = np.random.default_rng(seed)
    return float(np.mean([0 not in crossed(drawn(random, shape, *spreads)).interval for _ in range(repetitions)]))


def test_equal_methods_are_rarely_told_apart(seed: int) -> None:
    share = rejected(seed, 1500, (3, 30), 1.0, 0.3, 0.3)
    assert 0.02 < share < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 1500)


def satterthwaite(differences: Floats) -> bool:
    """Whether the usual approximation rejects a mean of 0."""
    found = crossed(differences)
    s, n = differences.shape
    squares = found.sd_rest**2 + n * found.sd_seed**2, found.sd_rest**2 + s * found.sd_image**2
    total = sum(squares) - found.sd_rest**2
    df = total**2 / (squares[0] ** 2 / (s - 1) + squares[1] ** 2 / (n - 1) + found.sd_rest**4 / ((s - 1) * (n - 1)))
    return bool(abs(found.mean) > student.ppf(0.975, df) * np.sqrt(total / (s * n)))


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize(("by_seed", "rest"), [(0.0, 1.0), (0.1, 1.0), (0.3, 0.3), (1.0, 0.3)])
def test_the_level_holds_whatever_the_variances(seeds: int, by_seed: float, rest: float, seed: int) -> None:
    share = rejected(seed, 20_000, (seeds, 30), by_seed, 1.0, rest)
    assert share < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 20_000)


@pytest.mark.slow
def test_satterthwaites_degrees_of_freedom_would_not_hold_it(seed: int) -> None:
    random = np.random.default_rng(seed)
    for seeds, least in ((2, 0.1), (3, 0.065)):
        found = np.mean([satterthwaite(drawn(random, (seeds, 30), 1.0, 1.0, 0.3)) for _ in range(5000)])
        assert found > least


@pytest.mark.slow
def test_the_level_holds_for_radii(seed: int) -> None:
    """Two equal methods whose radii are cut at 0 and at a limit, and depend on the image, the training and both."""
    random, found = np.random.default_rng(seed), []
    for _ in range(10_000):
        image = random.normal(0.3, 0.6, 100)
        radii = image + random.normal(0, 0.1, (2, 3, 1)) + random.normal(0, 0.2, (2, 3, 100))
        first, second = np.clip(radii, 0, 0.95)
        found.append(0 not in crossed(first - second).interval)
    assert 0.005 < np.mean(found) < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 10_000)


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Two methods with three seeds each, and one with a single seed."""
    certify = {"n": 2000, "n0": 10}
    trials = [small_trial(name, seed=seed, certify=certify) for name in ("macer", "gaussian") for seed in range(3)]
    trials.append(small_trial("consistency", seed=1, certify=certify))
    run = write_fake_run(tmp_path_factory.mktemp("seeds") / "run", trials, images=60, shard=60)
    merge_run(run)
    return run


def test_a_run_is_compared_over_the_seeds_that_both_have(seeded: RunFolder) -> None:
    run = read_run(seeded.path)
    table = compare_seeds(run)
    assert set(zip(table["first"], table["second"], strict=True)) == {("macer", "gaussian")}
    assert set(table["seeds"]) == {3}
    assert set(table["images"]) == {60}
    acr = table[table["endpoint"] == "primary"].iloc[0]
    rows = run.certificates.assign(value=run.certificates["radius"] * run.certificates["correct"])
    values = {method: own.pivot_table("value", "seed", "index").to_numpy() for method, own in rows.groupby("method")}
    expected = crossed(values["macer"] - values["gaussian"])
    assert acr["difference"] == pytest.approx(values["macer"].mean() - values["gaussian"].mean())
    assert [acr[name] for name in ("p_value", "sd_seed", "sd_image", "sd_rest")] == [
        expected.p_value, expected.sd_seed, expected.sd_image, expected.sd_rest,
    ]  # fmt: skip
    assert acr["p_holm"] == acr["p_value"]
    accuracy = table[(table["quantity"] == "accuracy") & (table["radius"] == 0.25)].iloc[0]
    shares = rows.assign(at=rows["correct"] & (rows["radius"] >= 0.25)).groupby("method")["at"].mean()
    assert accuracy["difference"] == pytest.approx(shares["macer"] - shares["gaussian"])
    assert compare_seeds(run, ["macer", "consistency"]).empty
    with pytest.raises(CompareError, match="no trial is other"):
        compare_seeds(run, ["other"])


def test_holm_corrects_over_all_pairs(tmp_path: Path) -> None:
    names, certify = ("macer", "gaussian", "consistency"), {"n": 2000, "n0": 10}
    trials = [small_trial(name, seed=seed, certify=certify) for name in names for seed in range(2)]
    run = write_fake_run(tmp_path / "run", trials, images=60, shard=60)
    merge_run(run)
    primary = compare_seeds(read_run(run.path)).query("endpoint == 'primary'")
    assert len(primary) == 3
    assert primary["p_holm"].min() == pytest.approx(min(1.0, 3 * primary["p_value"].min()))


def test_seeds_of_other_settings_are_refused(seeded: RunFolder) -> None:
    run = read_run(seeded.path)
    trials = run.trials.assign(n=run.trials["n"].where(run.trials["seed"] != 2, 500))
    with pytest.raises(CompareError, match="n is 2000 for one and 500 for the other"):
        compare_seeds(Run(run.certificates, trials, run.epochs), ["macer", "gaussian"])


def test_the_command_says_it_after_the_seeds_themselves(seeded: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("compare", str(seeded.path), "--methods", "macer,gaussian")
    assert bench(*arguments) == 0
    text = capsys.readouterr().out
    assert "σ = 0.25, seed 2: A = macer, B = gaussian" in text
    assert "σ = 0.25, over 3 seeds: A = macer, B = gaussian" in text
    assert "seed and image as crossed random effects" in " ".join(text.split())
    assert bench(*arguments, "--json") == 0
    found = json.loads(capsys.readouterr().out)["over_seeds"]
    assert {row["seeds"] for row in found["comparisons"]} == {3}
