from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtri
from scipy.stats import norm
from statsmodels.stats.proportion import proportion_confint

from results import at_budget, read_run, two_sided_radius
from results.bounds import certified_radius, lower_confidence_bound, two_sided_certified_radius
from results.folder import RunFolder
from results.merge import merge_run
from results.tables import table_beyond_acr

TRIALS = pd.DataFrame({"trial_id": ["t"], "n": [1000]})


def rows_of(counts: list[int], status: str = "certified", **changes: object) -> pd.DataFrame:
    """One row whose selected class is 1."""
    row: dict[str, object] = {"trial_id": "t", "selected": 1, "label": 1, "status": status, "sigma": 0.5, "alpha": 0.01}
    row |= {"n": sum(counts), "counts": counts, "estimator": "fixed"}
    return pd.DataFrame([row | changes])


def test_by_hand_with_statsmodels_bounds() -> None:
    # alpha = .01: p_A at .005, each of three other classes at .005 / 3 (two-sided intervals at twice that)
    p_a = proportion_confint(600, 1000, 0.01, method="beta")[0]
    p_b = proportion_confint(150, 1000, 0.01 / 3, method="beta")[1]
    expected = 0.25 * (norm.ppf(p_a) - norm.ppf(p_b))
    assert two_sided_certified_radius(600, 150, 1000, 0.01, 0.5, 4) == pytest.approx(expected)
    [found] = two_sided_radius(rows_of([150, 600, 130, 120]), TRIALS)
    assert found == pytest.approx(expected)
    assert found > certified_radius(lower_confidence_bound(600, 1000, 0.01), 0.5)  # from p_A alone


def test_where_no_class_shares_the_rest_it_is_the_one_sided_radius_at_half_alpha() -> None:
    for num_classes in (2, 10):
        found = two_sided_certified_radius([1000, 900, 500, 0], [0, 100, 500, 1000], 1000, 0.01, 0.5, num_classes)
        assert found == pytest.approx(certified_radius(lower_confidence_bound([1000, 900, 500, 0], 1000, 0.005), 0.5))
    with pytest.raises(ValueError, match="num_classes = 1: must be at least 2"):
        two_sided_certified_radius(1, 0, 1, 0.01, 0.5, 1)


@pytest.mark.parametrize(
    "probabilities",
    [
        [0.5, 0.5],
        [0.35, 0.33, 0.32],
        [0.4, 0.15, 0.15, 0.15, 0.15],
        [0.2, *[0.8 / 9] * 9],
        [0.9, 0.05, 0.05],
        [0.3, 0.4, 0.1, 0.1, 0.1],  # the selected class is not the most probable
    ],
)
@pytest.mark.parametrize(("n", "alpha"), [(100, 0.2), (1000, 0.05)])
def test_it_is_above_the_truth_at_most_as_often_as_alpha_says(
    probabilities: list[float], n: int, alpha: float, seed: int
) -> None:
    repeats = 20_000
    counts = np.random.default_rng(seed).multinomial(n, probabilities, size=repeats)
    found = two_sided_certified_radius(counts[:, 0], counts[:, 1:].max(axis=1), n, alpha, 1.0, len(probabilities))
    truth = max(0.0, (ndtri(probabilities[0]) - ndtri(max(probabilities[1:]))) / 2)
    assert (found > truth + 1e-12).mean() <= alpha + 4 * np.sqrt(alpha / repeats)


def test_it_may_certify_what_abstains_and_never_a_tie() -> None:
    [found] = two_sided_radius(rows_of([150, 450, *[100] * 4], "abstained"), TRIALS)
    assert found > 0
    assert two_sided_radius(rows_of([450, 450, 100], "abstained"), TRIALS).tolist() == [0]
    assert two_sided_radius(rows_of([450, 150, 400], "abstained"), TRIALS).tolist() == [0]


def test_it_is_unknown_without_the_counts_of_a_whole_sample() -> None:
    nothing = pd.concat(
        [
            rows_of([400, 100, 100], "abstained"),  # ended early
            rows_of([0, 0, 0], "misclassified"),
            rows_of([0, 1000, 0], selected=np.nan, estimator="imported").assign(counts=None),
            rows_of([200, 250, 50], "abstained", estimator="sequential"),  # of 500, or of 1000?
            rows_of([0, 1000, 0], n=500),  # thinned
        ],
        ignore_index=True,
    )
    assert two_sided_radius(nothing, TRIALS).isna().all()
    known = pd.concat([nothing, rows_of([10, 480, 10], estimator="sequential"), rows_of([10, 980, 6, 4])])
    known.index = pd.Index(range(10, 17))
    found = two_sided_radius(known, TRIALS)
    assert found.name == "radius_two_sided"
    assert found.index.tolist() == known.index.tolist()
    assert found.notna().tolist() == [False] * 5 + [True] * 2
    with pytest.raises(ValueError, match="of t, which is not among the trials"):
        two_sided_radius(known, TRIALS.assign(trial_id="u"))
    assert len(two_sided_radius(known[:0], TRIALS)) == 0


def test_a_run_has_it_beside_the_radius(fake_run: RunFolder) -> None:
    merge_run(fake_run)
    run = read_run(fake_run.path)
    rows = run.certificates.assign(radius_two_sided=two_sided_radius(run.certificates, run.trials))
    assert rows["radius_two_sided"].isna().equals(rows["status"] == "misclassified")
    assert (rows["radius_two_sided"] > rows["radius"]).any()  # the rest is spread over nine classes
    for row in table_beyond_acr(run).rows:
        own = rows[(rows["sigma"] == row.sigma) & (rows["method"] == row.method) & rows["correct"]]
        assert row.measured["two_sided"] == pytest.approx(own["radius_two_sided"].sum() / 12)
    strict = at_budget(rows, 2000, np.random.default_rng(0), trials=run.trials, alpha=1e-6)
    shorter = two_sided_radius(strict, run.trials) <= rows["radius_two_sided"]
    assert shorter.equals(rows["radius_two_sided"].notna())
    thinned = at_budget(rows, 100, np.random.default_rng(0), trials=run.trials)
    assert two_sided_radius(thinned, run.trials).isna().all()
