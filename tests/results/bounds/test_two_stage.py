"""Two-stage sampling, and the bound that holds at any time, against alpha spending and a confidence sequence that knows
nothing of the selection, on published distributions of radii."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.special import betaincc, betaln, ndtr, xlog1py, xlogy

from results.bounds.anytime import TOLERANCE, Design, anytime_bound, look_sizes
from results.bounds.radius import certified_radius, lower_confidence_bound
from results.bounds.two_stage import sample_sizes, sufficient_samples

LOGS = Path(__file__).parents[4] / "shared" / "reference" / "logs"
N0, N, ALPHA = 100, 100_000, 0.001
STAGES = [12_500, 25_000, 50_000, 100_000]
Floats = NDArray[np.float64]


def radius(k: Floats, n: object, alpha: object = ALPHA) -> Floats:
    return certified_radius(lower_confidence_bound(np.floor(k), np.asarray(n), np.asarray(alpha)), 1.0)


def replayed(path: Path) -> tuple[Floats, Floats]:
    """The probabilities behind a log's radii, in case of which each is the likeliest, and whether it was correct. Every
    image is there often enough for 5000 in all."""
    log = pd.read_csv(path, sep="\t")
    sigma = float(path.name.split("sigma")[1][:4])
    target = np.where(log["predict"] == -1, 0.45, ndtr(log["radius"] / sigma))
    low, high = np.zeros(len(log)), np.full(len(log), float(N))
    for _ in range(40):
        middle = (low + high) / 2
        below = lower_confidence_bound(middle, N, ALPHA) < target
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    share = np.where(log["predict"] == -1, 0.45, high / N)
    picked = np.arange(5000) * len(log) // 5000
    return share[picked], log["correct"].to_numpy(dtype=float)[picked]


def two_stage(p: Floats, random: np.random.Generator) -> tuple[Floats, Floats]:
    """Copies used and radii (of σ = 1); the n0 samples are spent by every estimator."""
    size = cache(lambda count: sufficient_samples(count, N0, N, ALPHA))
    n = np.array([size(int(count)) for count in random.binomial(N0, p)])
    return n.astype(float), radius(random.binomial(n, p).astype(float), n)


def anytime(p: Floats, random: np.random.Generator) -> tuple[Floats, Floats]:
    design = Design.of(random.binomial(N0, p), N0, N, ALPHA)
    used, found, k = np.full(len(p), float(N)), np.zeros(len(p)), np.zeros(len(p), dtype=np.int64)
    live, drawn = np.arange(len(p)), 0
    for n in look_sizes(N):
        k[live] += random.binomial(n - drawn, p[live])
        drawn, own = n, Design(design.share[live], design.planned[live], N)
        now = certified_radius(anytime_bound(k[live], n, own, ALPHA), 1.0)
        whole = certified_radius(anytime_bound(k[live] * N // n, N, own, ALPHA), 1.0)
        used[live], found[live] = n, now
        live = live[whole - now > TOLERANCE * (1 - n / N)]
    return used, found


ESTIMATORS = {
    "two-stage": two_stage,
    "anytime": anytime,
    "spending": lambda p, random: staged(p, random, "spending"),
    "betting": lambda p, random: staged(p, random, "betting"),
}


def staged(p: Floats, random: np.random.Generator, bound: str) -> tuple[Floats, Floats]:
    """Stop at the first stage after which all N samples would add at most .03 σ, were the share to stay. Alpha spending
    leaves .8 alpha to the last stage; the betting sequence is a mixture of likelihood ratios (beta prior on (p, 1])."""
    used, found, k, drawn = np.zeros(len(p)), np.zeros(len(p)), np.zeros(len(p)), 0
    live = np.ones(len(p), dtype=bool)
    spent = [0.2 / 3, 0.2 / 3, 0.2 / 3, 0.8]
    for stage, n in enumerate(STAGES):
        k[live] += random.binomial(n - drawn, p[live])
        drawn = n
        if bound == "spending":
            now = radius(k, n, ALPHA * spent[stage])
            later = radius(k / n * N, N, ALPHA * spent[-1])
        else:
            now, later = betting_radius(k, n), betting_radius(k / n * N, N)
        used[live], found[live] = n, now[live]
        live &= later - now > 0.03
    return used, found


def betting_radius(k: Floats, n: int) -> Floats:
    low, high = np.zeros(len(k)), k / n
    a, b = 1.0, 0.1  # the best of those tried
    for _ in range(30):
        p = (low + high) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            mixture = betaln(a + k, b + n - k) + np.log(betaincc(a + k, b + n - k, p))
            wealth = mixture - betaln(a, b) - np.log(betaincc(a, b, p)) - xlogy(k, p) - xlog1py(n - k, -p)
        rejected = wealth >= -np.log(ALPHA)
        low, high = np.where(rejected, p, low), np.where(rejected, high, p)
    return certified_radius(low, 1.0)


@pytest.mark.skipif(not LOGS.is_dir(), reason="the published logs are not at hand")
@pytest.mark.slow
def test_fewer_copies_for_less_than_one_percent_of_acr_on_published_logs() -> None:
    random = np.random.default_rng(0)
    logs = sorted(LOGS.glob("*.tsv"))
    assert len(logs) == 4
    for path in logs:
        p, correct = replayed(path)
        full = (radius(random.binomial(N, p).astype(float), N) * correct).mean()
        saved, lost = {}, {}
        for name, estimate in ESTIMATORS.items():
            used, found = estimate(p, random)
            saved[name] = (N + N0) / (used.mean() + N0)
            lost[name] = 1 - (found * correct).mean() / full
        assert saved["two-stage"] >= 1.4
        assert lost["two-stage"] <= 0.01
        print(path.name, {name: f"{saved[name]:.2f}x, {lost[name]:.2%}" for name in ESTIMATORS})
        assert saved["two-stage"] > saved["anytime"] > max(saved["spending"], saved["betting"])
        assert lost["two-stage"] < lost["anytime"] < lost["betting"]
        assert lost["two-stage"] < lost["spending"] < lost["betting"]


def test_sizes_are_halvings_and_the_choice_is_among_them() -> None:
    assert sample_sizes(100_000) == [100_000, 50_000, 25_000, 12_500, 6250, 3125]
    assert sample_sizes(1) == [1] * 6
    for n in (1, 10, 1000, 100_000):
        for count in (1, 50, 51, 99, 100):
            assert sufficient_samples(count, 100, n, 0.001) in sample_sizes(n)
    assert sufficient_samples(100, 100, 100_000, 0.001) == 100_000  # the radius goes on growing
    assert sufficient_samples(20, 100, 100_000, 0.001) == 3125  # it will abstain
