from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, ttest_rel
from statsmodels.stats.contingency_tables import mcnemar as mcnemar_of_statsmodels
from statsmodels.stats.multitest import multipletests

from results import compare, read_run
from results.analysis.comparison import CompareError, holm, mcnemar, newcombe
from results.store.folder import RunFolder
from results.store.merge import merge_run
from results.store.run import Run
from tests.conftest import small_trial, write_fake_run


@pytest.fixture
def run(fake_run: RunFolder) -> Run:
    merge_run(fake_run)
    return read_run(fake_run.path)


def made(first: np.ndarray, second: np.ndarray, names: tuple[str, ...] = ("a", "b")) -> Run:
    """A run of two methods with these radii; every image with a radius is correct."""
    cells = {"sigma": 0.5, "seed": 0, "dataset": "d", "n": 1000, "n0": 10, "alpha": 0.001, "images": len(first)}
    trials = pd.DataFrame([{"trial_id": name, "method": name, **cells} for name in names])
    certificates = pd.concat(
        [
            pd.DataFrame(
                {
                    "trial_id": name,
                    "index": range(len(radii)),
                    "label": 0,
                    "radius": radii,
                    "correct": radii > 0,
                    "estimator": "fixed",
                    "lattice_pixels": None,
                }
            )
            for name, radii in zip(names, (first, second), strict=True)
        ]
    )
    return Run(certificates, trials, pd.DataFrame())


def test_mcnemar_and_its_effect_by_hand() -> None:
    # At radius .5 the first certifies 30 images that the second does not, the second 10 that the first does not.
    first = np.array([0.6] * 30 + [0.1] * 10 + [0.7] * 60)
    second = np.array([0.1] * 30 + [0.6] * 10 + [0.7] * 60)
    table = compare(made(first, second))
    row = table[(table["quantity"] == "accuracy") & (table["radius"] == 0.5)].iloc[0]
    assert (row["only_first"], row["only_second"]) == (30, 10)
    assert row["difference"] == pytest.approx(0.2)
    assert row["effect"] == pytest.approx(30 / 40 - 0.5)
    assert row["p_value"] == pytest.approx(binomtest(10, 40).pvalue)
    assert row["lower"] < 0.2 < row["upper"]


def test_mcnemar_is_that_of_statsmodels_and_scipy() -> None:
    few = [(first, second) for first in range(25) for second in range(25)]
    many = [(0, 300), (300, 0), (4, 400), (120, 180), (499, 500), (500, 500), (501, 499), (2400, 2600), (5000, 5200)]
    for first, second in (*few, *many):
        found = mcnemar(first, second)
        theirs = mcnemar_of_statsmodels([[7, first], [second, 7]], exact=True).pvalue
        assert found == pytest.approx(theirs, rel=1e-12, abs=1e-300)
        if first + second:
            assert found == pytest.approx(binomtest(first, first + second).pvalue, rel=1e-12, abs=1e-300)
        if abs(first - second) <= 1:
            assert found == 1


def test_the_sign_flips_of_acr_agree_with_a_paired_t_test_where_both_hold() -> None:
    random = np.random.default_rng(0)
    first = random.uniform(0.6, 0.9, 2000)
    second = first + random.normal(0.004, 0.1, 2000)
    table = compare(made(first, second))
    row = table[table["quantity"] == "acr"].iloc[0]
    difference = first - second
    assert row["difference"] == pytest.approx(difference.mean())
    assert row["effect"] == pytest.approx(difference.mean() / difference.std())
    assert row["p_value"] == pytest.approx(ttest_rel(first, second).pvalue, abs=0.03)
    half = 1.96 * difference.std() / np.sqrt(2000)
    assert [row["lower"], row["upper"]] == pytest.approx(
        [difference.mean() - half, difference.mean() + half], abs=half / 8
    )


def test_equal_methods_do_not_differ_and_are_rarely_told_apart() -> None:
    random = np.random.default_rng(1)
    same = random.uniform(0, 0.9, 200)
    equal = compare(made(same, same))
    assert equal.loc[equal["endpoint"] == "primary", ["lower", "upper", "p_value", "p_holm"]].isna().all(axis=None)
    assert (equal.loc[equal["endpoint"] == "secondary", "p_value"] == 1).all()
    runs = []
    for seed in range(100):
        image = random.uniform(0, 0.9, 150)
        first, second = (np.clip(image + random.normal(0, 0.1, 150), 0, None) for _ in range(2))
        run = made(first, second)
        names = {"trial_id": lambda rows, seed=seed: rows["trial_id"] + str(seed)}
        runs.append((run.certificates.assign(**names), run.trials.assign(seed=seed, **names)))
    table = compare(Run(pd.concat(rows for rows, _ in runs), pd.concat(rows for _, rows in runs), pd.DataFrame()))
    p_values = table.loc[table["quantity"] == "acr", "p_value"]
    assert len(p_values) == 100
    assert 1 <= (p_values < 0.05).sum() <= 12  # 5 % of 100, by almost two standard errors and by three


@pytest.mark.parametrize("count", [1, 2, 3, 10, 200])
def test_holm_is_that_of_statsmodels(count: int) -> None:
    random = np.random.default_rng(count)
    for p_values in (random.random(count), random.random(count) ** 9, random.choice([1e-4, 0.02, 1.0], count)):
        assert holm(p_values).tolist() == multipletests(p_values, method="holm")[1].tolist()


def test_holm_by_hand_over_the_primary_endpoint_of_the_whole_output(tmp_path: Path) -> None:
    cells = [
        (method, sigma, seed)
        for method in ("generalised_ld", "gaussian", "macer")
        for sigma in (0.25, 0.5)
        for seed in (0, 1)
    ]
    folder = write_fake_run(tmp_path / "run", [small_trial(method, sigma, seed=seed) for method, sigma, seed in cells])
    merge_run(folder)
    table = compare(read_run(folder.path))
    primary, secondary = table[table["quantity"] == "acr"], table[table["quantity"] == "accuracy"]
    assert set(primary["endpoint"]) == {"primary"}
    assert len(primary) == 3 * 2 * 2  # pairs, σ, seeds
    known = primary["p_value"].notna()
    p = np.sort(primary["p_value"].fillna(1).to_numpy())
    steps = np.minimum(1, np.maximum.accumulate(p * (len(p) - np.arange(len(p)))))
    assert np.sort(primary.loc[known, "p_holm"].to_numpy()) == pytest.approx(steps[: known.sum()])
    assert set(secondary["endpoint"]) == {"secondary"}
    assert secondary["p_holm"].isna().all()
    assert secondary["p_value"].notna().all()


def test_a_pair_without_a_p_value_is_of_the_family_all_the_same() -> None:
    random = np.random.default_rng(3)
    first = random.uniform(0.3, 0.9, 60)
    two = made(first, first + random.uniform(0, 0.2, 60))
    three = replace(
        two,
        trials=pd.concat([two.trials, two.trials[1:].assign(trial_id="c", method="c")]),
        certificates=pd.concat([two.certificates, two.certificates[60:].assign(trial_id="c")]),
    )
    alone, among = (table[table["endpoint"] == "primary"] for table in (compare(two), compare(three)))
    assert among["p_value"].isna().tolist() == [False, False, True]  # b and c are equal
    assert among["p_holm"].isna().tolist() == [False, False, True]
    assert among["p_holm"].iloc[0] == pytest.approx(3 * alone["p_value"].iloc[0])


def test_methods_that_share_trained_models_say_so() -> None:
    pair = made(np.linspace(0.1, 0.8, 20), np.linspace(0.2, 0.7, 20))
    assert set(compare(pair)["shared_models"]) == {0}
    ensemble = pair.trials.assign(members=pd.Series([[], np.array(["a", "other"])], dtype=object))
    assert set(compare(replace(pair, trials=ensemble))["shared_models"]) == {1}
    ensembles = pair.trials.assign(members=pd.Series([["x", "y", "z"], ["y", "z", "w"]], dtype=object))
    assert set(compare(replace(pair, trials=ensembles))["shared_models"]) == {2}


def test_only_the_methods_asked_for(run: Run) -> None:
    with pytest.raises(CompareError, match=r"no trial is macer; there are generalised_ld, gaussian"):
        compare(run, ["generalised_ld", "macer"])
    with pytest.raises(CompareError, match="no two methods"):
        compare(run, ["generalised_ld"])
    turned = compare(run, ["gaussian", "generalised_ld"])
    assert turned["difference"].to_numpy() == pytest.approx(-compare(run)["difference"].to_numpy())


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        # Newcombe 1998, table II, method 10
        ((36, 12, 2, 0), (0.0569, 0.3404)),
        ((54, 0, 0, 0), (-0.0664, 0.0664)),
    ],
)
def test_newcombes_interval_gives_his_own_examples(cells: tuple[int, ...], expected: tuple[float, float]) -> None:
    found = newcombe(*cells)
    assert [found.lower, found.upper] == pytest.approx(expected, abs=5.1e-5)


def test_few_discordant_images_give_a_narrow_interval_about_no_difference() -> None:
    found = newcombe(7000, 3, 0, 2997)
    assert found.lower < 0 < 0.0003 < found.upper < 0.005


def test_the_interval_of_an_accuracy_difference_covers() -> None:
    random = np.random.default_rng(4)
    inside = 0
    for _ in range(600):
        cells = random.multinomial(200, [0.55, 0.12, 0.06, 0.27])
        inside += 0.06 in newcombe(*(int(count) for count in cells))
    assert 0.93 <= inside / 600 <= 0.98


def test_the_p_value_of_acr_agrees_with_its_interval_and_has_no_floor() -> None:
    random = np.random.default_rng(5)
    contradictions = 0
    for _ in range(60):
        first = random.gamma(1.0, 0.2, 60)
        second = np.clip(first + random.exponential(0.1, 60) - 0.08, 0, None)
        row = compare(made(first, second)).iloc[0]
        contradictions += (row["p_value"] > 0.05) != (row["lower"] <= 0 <= row["upper"])
    assert contradictions == 0
    image = random.uniform(0.2, 0.9, 1000)
    assert compare(made(image, image + random.normal(0.05, 0.1, 1000))).iloc[0]["p_value"] < 1e-10


def test_a_constant_difference_has_no_spread_and_no_p_value() -> None:
    row = compare(made(np.full(50, 0.1), np.full(50, 0.3))).iloc[0]
    assert row["difference"] == pytest.approx(-0.2)
    assert np.isnan([row["effect"], row["lower"], row["upper"], row["p_value"], row["p_holm"]]).all()


def test_two_trials_of_one_cell_are_refused() -> None:
    pair = made(np.full(5, 0.3), np.full(5, 0.4))
    with pytest.raises(ValueError, match=r"two trials are a at σ = 0\.5 with seed 0"):
        compare(replace(pair, trials=pair.trials.assign(method="a")))


@pytest.mark.parametrize(("column", "value"), [("n", 10), ("alpha", 0.05), ("dataset", "other"), ("n0", 3)])
def test_unlike_trials_are_refused_with_the_reason(column: str, value: object) -> None:
    pair = made(np.full(5, 0.3), np.full(5, 0.4))
    unlike = pair.trials.copy()
    unlike[column] = [unlike[column].iloc[0], value]
    with pytest.raises(CompareError, match=rf"a and b at σ = 0.5 cannot be compared: {column} is"):
        compare(replace(pair, trials=unlike))


def test_other_images_labels_estimators_and_arithmetics_are_refused() -> None:
    pair = made(np.full(5, 0.3), np.full(5, 0.4))
    second = pair.certificates["trial_id"] == "b"
    for column, value, reason in (
        ("index", pair.certificates["index"] + 1, "test images are different"),
        ("label", 7, "different labels"),
        ("estimator", "two-stage", "estimators are fixed and two-stage"),
        ("lattice_pixels", 3072, "arithmetics are float and sound"),
    ):
        changed = pair.certificates.assign(**{column: pair.certificates[column].where(~second, value)})
        with pytest.raises(CompareError, match=reason):
            compare(replace(pair, certificates=changed))


def test_seeds_are_paired_and_never_mixed(tmp_path: Path) -> None:
    trials = [small_trial(method, seed=seed) for method in ("generalised_ld", "gaussian") for seed in (0, 1)]
    folder = write_fake_run(tmp_path / "run", trials)
    merge_run(folder)
    table = compare(read_run(folder.path))
    assert sorted(set(table["seed"])) == [0, 1]
    assert (table.groupby("seed").size() == len(table) / 2).all()
