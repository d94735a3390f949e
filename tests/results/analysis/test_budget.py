from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from results import at_budget, average_certified_radius
from results.bounds.radius import certified_radius, lower_confidence_bound
from results.bounds.two_stage import sufficient_samples


def certificates(p_a: np.ndarray, n: int, seed: int = 0) -> pd.DataFrame:
    """Certificates of images whose label's class has probability p_a; odd ones are of another class."""
    counts = np.random.default_rng(seed).binomial(n, p_a)
    p_lower = lower_confidence_bound(counts, n, 0.001)
    index = np.arange(len(p_a))
    frame = pd.DataFrame(
        {
            "trial_id": "t",
            "index": index,
            "label": 0,
            "selected": index % 2,
            "sigma": 0.5,
            "estimator": "fixed",
            "lattice_pixels": np.nan,
        }
    )
    predicted = np.where(p_lower >= 0.5, frame["selected"], -1)
    return frame.assign(
        n=n,
        alpha=0.001,
        count_top=counts,
        p_lower=p_lower,
        radius=certified_radius(p_lower, 0.5),
        predicted=predicted,
        correct=predicted == 0,
        status=np.where(p_lower >= 0.5, "certified", "abstained"),
    )


def trials(n: int) -> pd.DataFrame:
    return pd.DataFrame({"trial_id": ["t", "another"], "n": [n, 7]})


def test_thinned_certificates_are_those_of_a_run_with_fewer_copies() -> None:
    p_a = np.random.default_rng(1).beta(6, 2, 4000)
    large = certificates(p_a, 100_000)
    for n in (1000, 10_000):
        thinned, fresh = (
            at_budget(large, n, np.random.default_rng(2), trials=trials(100_000)),
            certificates(p_a, n, seed=3),
        )
        assert average_certified_radius(thinned) == pytest.approx(average_certified_radius(fresh), abs=0.004)
        assert (thinned["status"] == "abstained").mean() == pytest.approx(
            (fresh["status"] == "abstained").mean(), abs=0.01
        )
        assert average_certified_radius(thinned) < average_certified_radius(large)


def test_all_copies_give_the_same_certificates() -> None:
    rows = certificates(np.array([0.4, 0.6, 0.9, 0.99]), 1000)
    again = at_budget(rows, 1000, np.random.default_rng(0), trials=trials(1000))
    pd.testing.assert_frame_equal(again[rows.columns], rows, check_dtype=False)


def test_another_alpha_needs_no_copies() -> None:
    rows = certificates(np.full(2, 0.9), 1000)
    looser = at_budget(rows, 1000, np.random.default_rng(0), trials=trials(1000), alpha=0.05)
    expected = certified_radius(lower_confidence_bound(rows["count_top"], 1000, 0.05), 0.5)
    assert looser["radius"].to_numpy() == pytest.approx(expected)
    assert (looser["radius"] > rows["radius"]).all()


def test_what_was_not_estimated_to_its_end_stays_without_a_certificate() -> None:
    rows = certificates(np.full(3, 0.95), 1000)
    rows = rows.assign(
        n=[0, 600, 1000],
        count_top=[0, 590, 950],
        radius=[0.0, 0.0, rows["radius"].iloc[2]],
        status=["misclassified", "abstained", "certified"],
    )
    found = at_budget(rows, 100, np.random.default_rng(0), trials=trials(1000), alpha=0.4)
    assert found["status"].tolist() == ["misclassified", "abstained", "certified"]
    assert found["n"].tolist() == [0, 0, 100]
    assert found["radius"].tolist()[:2] == [0, 0]


def test_a_two_stage_image_keeps_the_copies_it_has() -> None:
    planned = [sufficient_samples(count, 10, 100_000, 0.001) for count in (9, 10)]
    assert planned == [25_000, 100_000]
    rows = certificates(np.full(2, 0.99), 1000).assign(
        n=planned,
        count_top=[24_900, 99_000],
        estimator="two-stage",
        n0=10,
        selection_counts=pd.Series([[9, 1], [0, 10]]),
    )
    found = at_budget(rows, 50_000, np.random.default_rng(0), trials=trials(100_000))
    assert found["n"].tolist() == [25_000, 50_000]
    assert found["count_top"].iloc[0] == 24_900
    # an abstention after all the samples that were planned may be none at another alpha; one that came earlier stays
    for drawn, status in ((25_000, "certified"), (24_000, "abstained")):
        abstained = rows.assign(status=["abstained", "certified"], n=[drawn, 100_000], count_top=[drawn - 100, 99_000])
        found = at_budget(abstained, 50_000, np.random.default_rng(0), trials=trials(100_000), alpha=0.4)
        assert found["status"].tolist() == [status, "certified"]


def test_the_planned_n_is_the_trials_not_that_of_rows_beside() -> None:
    """All images abstain, none of them early: at a larger alpha they are certified."""
    rows = certificates(np.full(50, 0.54), 1000)
    rows = rows[rows["status"] == "abstained"]
    assert len(rows) > 20
    found = at_budget(rows, 1000, np.random.default_rng(0), trials=trials(1000), alpha=0.4)
    assert (found["status"] == "certified").mean() > 0.5


def test_a_trial_that_certifies_nothing_stays_so() -> None:
    rows = certificates(np.full(3, 0.3), 1000)
    found = at_budget(rows, 100, np.random.default_rng(0), trials=trials(1000))
    assert set(found["status"]) == {"abstained"}
    assert (found["radius"] == 0).all()


def test_what_has_no_answer_is_refused() -> None:
    rows = certificates(np.full(2, 0.9), 1000)
    with pytest.raises(ValueError, match="at most the 1000 samples"):
        at_budget(rows, 1001, np.random.default_rng(0), trials=trials(1000))
    with pytest.raises(ValueError, match="n = 0: must be at least 1"):
        at_budget(rows, 0, np.random.default_rng(0), trials=trials(1000))
    with pytest.raises(ValueError, match="no counts"):
        at_budget(rows.assign(count_top=np.nan), 100, np.random.default_rng(0), trials=trials(1000))
    with pytest.raises(ValueError, match="alpha = 1: must be above 0 and below 1"):
        at_budget(rows, 100, np.random.default_rng(0), trials=trials(1000), alpha=1)
    with pytest.raises(ValueError, match="the trial t of the certificates is not among the trials"):
        at_budget(rows, 100, np.random.default_rng(0), trials=trials(1000).iloc[1:])
    with pytest.raises(ValueError, match="anytime certificates were stopped by their answers"):
        at_budget(rows.assign(estimator="anytime"), 100, np.random.default_rng(0), trials=trials(1000))
    many = rows.assign(n=10**9, count_top=9 * 10**8)
    with pytest.raises(ValueError, match="rows of 1000000000 samples cannot be thinned"):
        at_budget(many, 10**6, np.random.default_rng(0), trials=trials(10**9))
