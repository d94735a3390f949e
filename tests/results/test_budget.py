from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from results import at_budget as thinned_of_trials
from results import average_certified_radius
from results.bounds import certified_radius, lower_confidence_bound


def trials_of(n: int) -> pd.DataFrame:
    return pd.DataFrame({"trial_id": ["t"], "n": [n]})


def at_budget(
    rows: pd.DataFrame, n: int, generator: np.random.Generator, *, planned: int = 1000, alpha: float | None = None
) -> pd.DataFrame:
    return thinned_of_trials(rows, n, generator, trials=trials_of(planned), alpha=alpha)


def certificates(p_a: np.ndarray, n: int, seed: int = 0) -> pd.DataFrame:
    """Certificates of images whose label's class has probability p_a; odd ones are of another class."""
    counts = np.random.default_rng(seed).binomial(n, p_a)
    p_lower = lower_confidence_bound(counts, n, 0.001)
    index = np.arange(len(p_a))
    frame = pd.DataFrame(
        {"trial_id": "t", "index": index, "label": 0, "selected": index % 2, "sigma": 0.5, "estimator": "fixed"}
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


def test_thinned_certificates_are_those_of_a_run_with_fewer_copies() -> None:
    p_a = np.random.default_rng(1).beta(6, 2, 4000)
    large = certificates(p_a, 100_000)
    for n in (1000, 10_000):
        thinned = at_budget(large, n, np.random.default_rng(2), planned=100_000)
        fresh = certificates(p_a, n, seed=3)
        assert average_certified_radius(thinned) == pytest.approx(average_certified_radius(fresh), abs=0.004)
        assert (thinned["status"] == "abstained").mean() == pytest.approx(
            (fresh["status"] == "abstained").mean(), abs=0.01
        )
        assert average_certified_radius(thinned) < average_certified_radius(large)


def test_all_copies_give_the_same_certificates() -> None:
    rows = certificates(np.array([0.4, 0.6, 0.9, 0.99]), 1000)
    again = at_budget(rows, 1000, np.random.default_rng(0))
    pd.testing.assert_frame_equal(again[rows.columns], rows, check_dtype=False)


def test_another_alpha_needs_no_copies() -> None:
    rows = certificates(np.full(2, 0.9), 1000)
    looser = at_budget(rows, 1000, np.random.default_rng(0), alpha=0.05)
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
    found = at_budget(rows, 100, np.random.default_rng(0), alpha=0.4)
    assert found["status"].tolist() == ["misclassified", "abstained", "certified"]
    assert found["n"].tolist() == [0, 0, 100]
    assert found["radius"].tolist()[:2] == [0, 0]


def test_a_sequential_image_keeps_the_copies_it_has() -> None:
    rows = certificates(np.full(2, 0.99), 1000)
    rows = rows.assign(n=[125, 1000], count_top=[124, 990], estimator="sequential")
    found = at_budget(rows, 500, np.random.default_rng(0))
    assert found["n"].tolist() == [125, 500]
    assert found["count_top"].iloc[0] == 124
    # No image needed all copies: any n up to the trial's own is a budget.
    assert at_budget(rows.assign(n=[125, 500], count_top=[124, 495]), 800, np.random.default_rng(0))["n"].tolist() == [
        125,
        500,
    ]
    abstained = rows.assign(status=["abstained", "certified"])  # after 125 copies: of 125, or of more?
    assert at_budget(abstained, 500, np.random.default_rng(0), alpha=0.4)["status"].tolist() == [
        "abstained",
        "certified",
    ]


def test_a_trial_that_certifies_nothing_stays_so() -> None:
    rows = certificates(np.full(3, 0.3), 1000)
    found = at_budget(rows, 100, np.random.default_rng(0))
    assert set(found["status"]) == {"abstained"}
    assert (found["radius"] == 0).all()


def test_how_many_copies_were_planned_is_known_from_the_trials_alone() -> None:
    # .55 of 1000 copies abstain at alpha = .001 and are certified at .05, whatever the other rows of the trial are.
    rows = certificates(np.full(3, 0.9), 1000).assign(
        count_top=[900, 550, 500], status=["certified", "abstained", "abstained"], n=[1000, 1000, 990]
    )
    for part in (rows, rows[1:], rows[:2], rows[1:2]):
        for estimator in ("fixed", "sequential"):
            found = at_budget(part.assign(estimator=estimator), 1000, np.random.default_rng(0), alpha=0.05)
            expected = {0: "certified", 1: "certified", 2: "abstained"}
            assert found["status"].to_dict() == {index: expected[index] for index in part.index}
    # The same rows of a trial with more copies: now their estimation ended early.
    found = at_budget(rows[1:], 1000, np.random.default_rng(0), planned=2000, alpha=0.05)
    assert set(found["status"]) == {"abstained"}
    with pytest.raises(ValueError, match="the certificates are of u, which is not among the trials"):
        at_budget(rows.assign(trial_id="u"), 1000, np.random.default_rng(0))


def test_a_billion_copies_and_more() -> None:
    most = 2**32 - 1
    rows = certificates(np.array([0.4, 0.6, 0.9]), 1000).assign(n=most, count_top=[most // 3, most // 2 + 10**6, most])
    rows = rows.assign(status=["abstained", "certified", "certified"])
    found = at_budget(rows, most, np.random.default_rng(0), planned=most, alpha=0.05)
    assert found["n"].tolist() == [most] * 3
    assert found["count_top"].tolist() == rows["count_top"].tolist()
    assert found["p_lower"].tolist() == pytest.approx([1 / 3, 0.5 + 1e6 / most, 1], abs=2e-5)
    assert found["status"].tolist() == ["abstained", "certified", "certified"]
    with pytest.raises(
        ValueError, match=f"n = 1000: cannot be drawn from {most} copies; only from fewer than 10000000"
    ):
        at_budget(rows, 1000, np.random.default_rng(0), planned=most)
    fewer = at_budget(
        rows.assign(n=10**9 - 1, count_top=[0, 5 * 10**8, 10**9 - 1]),
        10**8,
        np.random.default_rng(0),
        planned=10**9 - 1,
    )
    assert fewer["count_top"].tolist() == pytest.approx([0, 5 * 10**7, 10**8], rel=1e-3)
    for n in (10**10, 10**30):
        with pytest.raises(ValueError, match=f"n = {n}: must be at most the 1000 copies of the trial"):
            at_budget(certificates(np.full(2, 0.9), 1000), n, np.random.default_rng(0))


def test_what_has_no_answer_is_refused() -> None:
    rows = certificates(np.full(2, 0.9), 1000)
    with pytest.raises(ValueError, match="at most the 1000 copies of the trial"):
        at_budget(rows, 1001, np.random.default_rng(0))
    with pytest.raises(ValueError, match="n = 0: must be at least 1"):
        at_budget(rows, 0, np.random.default_rng(0))
    for alpha in (0.0, 1.0, np.nan):
        with pytest.raises(ValueError, match="alpha must be above 0 and below 1"):
            at_budget(rows, 100, np.random.default_rng(0), alpha=alpha)
    with pytest.raises(ValueError, match="no counts"):
        at_budget(rows.assign(count_top=np.nan), 100, np.random.default_rng(0))
