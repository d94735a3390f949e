from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import beta, binom, norm

from results.analysis.simultaneous import false_at_most, holding_together
from results.bounds.anytime import Design, anytime_bound
from results.bounds.radius import certified_radius


def test_of_ten_thousand_certificates_fifteen_may_be_false() -> None:
    assert false_at_most(10_000, 0.001) == 15  # .15 points of certified accuracy
    assert false_at_most(500, 0.001) == 2
    assert false_at_most(1, 0.001) == 0
    draws = np.random.default_rng(0).binomial(10_000, 0.001, 200_000)
    assert (draws <= 15).mean() >= 0.95 > (draws <= 14).mean()


@pytest.mark.parametrize("alpha", [1e-6, 0.001, 0.01, 0.05, 0.3, 0.5, 0.9, 0.999])
def test_the_most_that_are_false_is_the_quantile_of_scipy(alpha: float) -> None:
    for certificates in (*range(1, 60), 500, 1000, 9_999, 10_000, 50_000, 10**6):
        assert false_at_most(certificates, alpha) == binom.ppf(0.95, certificates, alpha)


TRIALS = pd.DataFrame({"trial_id": ["t"], "n": [100_000]})


def rows_of(counts: list[int], n: int, images: int, sigma: float = 1.0) -> pd.DataFrame:
    """Certificates at alpha = .001 of which the first have these counts, and the others were misclassified."""
    known = len(counts)
    bounds = [beta.ppf(0.001, k, n - k + 1) for k in counts]
    return pd.DataFrame(
        {
            "trial_id": "t",
            "status": ["certified" if p >= 0.5 else "abstained" for p in bounds] + ["misclassified"] * (images - known),
            "alpha": 0.001,
            "estimator": "fixed",
            "sigma": sigma,
            "lattice_pixels": pd.array([pd.NA] * images, "Int64"),
            "n": [n] * known + [0] * (images - known),
            "count_top": [*counts, *[0] * (images - known)],
            "selected": 3,
            "label": [3] * known + [4] * (images - known),
            "p_lower": bounds + [0.0] * (images - known),
            "radius": [*certified_radius(bounds, sigma), *[0.0] * (images - known)],
        }
    )


def test_the_largest_radius_falls_from_3_811_to_3_668_sigma() -> None:
    rows = rows_of([100_000], 100_000, 10_000)
    assert rows["radius"].iloc[0] == pytest.approx(3.811, abs=5e-4)
    found = holding_together(rows, TRIALS)
    assert found["radius"].iloc[0] == pytest.approx(3.668, abs=5e-4)
    assert found["radius"].iloc[0] == pytest.approx(norm.ppf(beta.ppf(0.05 / 10_000, 100_000, 1)))
    assert (
        holding_together(rows_of([100_000], 100_000, 10), TRIALS)["radius"].iloc[0] == rows["radius"].iloc[0]
    )  # few: alpha


def test_a_bound_at_any_time_stays_one() -> None:
    """Of an image that was stopped by its answers, at a smaller alpha too."""
    selection = pd.Series([[0, 2, 0, 98], [100, 0, 0, 0], [100, 0, 0, 0]])
    rows = rows_of([49_000], 50_000, 3).assign(estimator="anytime", n0=100, selection_counts=selection)
    wide = pd.concat([rows, *[rows.iloc[1:]] * 5000], ignore_index=True)
    design = Design.of(np.array([98]), 100, 100_000, 0.001)
    [expected] = anytime_bound([49_000], [50_000], design, 0.05 / len(wide))
    assert holding_together(wide, TRIALS)["p_lower"].iloc[0] == pytest.approx(expected, rel=1e-12)
    assert expected < beta.ppf(0.05 / len(wide), 49_000, 1001)


def test_what_is_no_certificate_stays_none_and_a_bare_one_is_lost() -> None:
    n = 1000
    bare = next(k for k in range(n) if beta.ppf(0.001, k, n - k + 1) >= 0.5)  # the fewest that certify
    rows = pd.concat([rows_of([bare, bare - 1, n], n, 5), rows_of([], n, 1000)], ignore_index=True)
    assert rows["status"].tolist()[:5] == ["certified", "abstained", "certified", "misclassified", "misclassified"]
    found = holding_together(rows, TRIALS)
    assert found["status"].tolist()[:5] == ["abstained", "abstained", "certified", "misclassified", "misclassified"]
    assert found["predicted"].tolist()[:5] == [-1, -1, 3, -1, -1]
    assert found["correct"].tolist()[:5] == [False, False, True, False, False]
    assert (found["radius"] <= rows["radius"]).all()


def test_all_hold_at_once_as_often_as_is_said() -> None:
    """400 images of true probability .8, drawn 3000 times: all bounds are below it in 95 % of the draws and more, while
    at alpha each a third of the draws has one above."""
    generator = np.random.default_rng(1)
    n, images, draws = 1000, 400, 3000
    counts = generator.binomial(n, 0.8, (draws, images))
    quantiles = {
        int(k): (beta.ppf(0.001, k, n - k + 1), beta.ppf(0.05 / images, k, n - k + 1)) for k in np.unique(counts)
    }
    alone, together = (np.vectorize(lambda k, place=place: quantiles[int(k)][place])(counts) for place in (0, 1))
    assert (alone > 0.8).any(axis=1).mean() > 0.2
    assert (together > 0.8).any(axis=1).mean() <= 0.05 + 3 * np.sqrt(0.05 / draws)
