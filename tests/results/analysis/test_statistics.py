from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from results import Interval, accuracy_interval, acr_interval
from results.analysis.statistics import bootstrap_mean, per_image, simultaneous_band, studentised, wilson
from tests.conftest import repeated


def rows(radii: np.ndarray, correct: np.ndarray, seed: int = 0) -> pd.DataFrame:
    index = range(len(radii))
    return pd.DataFrame({"trial_id": f"t{seed}", "index": index, "radius": radii, "correct": correct})


def certified(random: np.random.Generator, count: int, share: float) -> np.ndarray:
    """Radii as certification gives them: zero for a part, at most the limit of n = 100 000 at σ = .25."""
    radii = np.clip(random.gamma(2.0, 0.3, count), 0, 0.9529)
    return np.where(random.random(count) < share, radii, 0.0)


def test_wilson_by_hand() -> None:
    # Wilson (1927) for 40 of 50: (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n)
    z, p, n = 1.959964, 0.8, 50
    middle, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = [(middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)]
    found = accuracy_interval(rows(np.full(50, 0.3), np.arange(50) < 40), 0.25)
    assert [found.lower, found.upper] == pytest.approx(expected, rel=1e-5)
    assert accuracy_interval(rows(np.full(50, 0.3), np.arange(50) < 40), 0.31).lower == 0


@repeated(250, 1000)
@pytest.mark.parametrize(("share", "count"), [(0.75, 100), pytest.param(0.3, 200, marks=pytest.mark.slow)])
def test_intervals_cover_93_to_97_percent(share: float, count: int, repeats: int) -> None:
    truth = certified(np.random.default_rng(99), 2_000_000, share)
    random = np.random.default_rng(int(100 * share) + count)
    mean, share_at = truth.mean(), (truth >= 0.25).mean()
    acr = accuracy = 0
    for _ in range(repeats):
        radii = certified(random, count, share)
        certificates = rows(radii, radii > 0)
        acr += mean in acr_interval(certificates, random)
        accuracy += share_at in accuracy_interval(certificates, 0.25)
    # A true coverage of 95 % stays within three standard errors: of 1000 repeats, 2 %.
    allowed = 0.02 * np.sqrt(1000 / repeats)
    assert abs(acr / repeats - 0.95) <= allowed
    assert abs(accuracy / repeats - 0.95) <= allowed


def test_both_ways_to_resample_agree() -> None:
    values = np.random.default_rng(0).integers(0, 90, 1000) / 100
    few = bootstrap_mean(values, np.random.default_rng(1))
    many = bootstrap_mean(values + np.arange(1000) * 1e-12, np.random.default_rng(1))  # all distinct
    assert [few.lower, few.upper] == pytest.approx([many.lower, many.upper], abs=2e-3)


def test_the_interval_follows_from_the_generator_alone() -> None:
    values = certified(np.random.default_rng(0), 300, 0.7)
    first, second = (bootstrap_mean(values, np.random.default_rng(5)) for _ in range(2))
    assert first == second
    assert first != bootstrap_mean(values, np.random.default_rng(6))


def test_equal_values_have_no_interval_and_rare_ones_a_finite_one() -> None:
    nothing = bootstrap_mean(np.zeros(20), np.random.default_rng(0))
    assert np.isnan(nothing.lower)
    assert np.isnan(nothing.upper)
    assert not nothing
    # A resample has none of one value in twenty with probability .95²⁰, of five with .75²⁰.
    assert not bootstrap_mean(np.array([0.0] * 19 + [0.5]), np.random.default_rng(0))
    several = bootstrap_mean(np.array([0.0] * 15 + [0.5] * 5), np.random.default_rng(0))
    assert several
    assert 0 <= several.lower < 0.125 < several.upper <= 0.5
    assert np.isinf(studentised(np.array([0.0] * 19 + [0.5]), np.random.default_rng(0))).any()


def test_seeds_are_averaged_for_each_image_before_images_are_resampled() -> None:
    random = np.random.default_rng(3)
    one, two = certified(random, 400, 0.7), certified(random, 400, 0.7)
    both = pd.concat([rows(one, one > 0), rows(two, two > 0, seed=1)], ignore_index=True)
    values = per_image(both, both["radius"] * both["correct"])
    assert values == pytest.approx((one + two) / 2)
    together, alone = acr_interval(both, random), acr_interval(rows(one, one > 0), random)
    # Independent seeds halve the variance of an image's value; the images' number stays.
    ratio = (together.upper - together.lower) / (alone.upper - alone.lower)
    assert ratio == pytest.approx(np.sqrt(0.5), rel=0.15)


def test_an_interval_holds_its_ends() -> None:
    assert 1.0 in Interval(1.0, 2.0)
    assert 2.0 in Interval(1.0, 2.0)
    assert 2.1 not in Interval(1.0, 2.0)


def curves(random: np.random.Generator, images: int, seeds: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A mean curve of certified accuracy where it falls, just beyond there, and the true one. Radii are uniform on
    [0, 1] for three quarters of the images; half of the images have the same in all seeds."""
    own = np.where(random.random(images) < 0.5, random.random(images), random.random((seeds, images)))
    radii = np.where(own < 0.75, own / 0.75, -1.0)
    at = np.sort(radii[radii >= 0])
    return (radii[:, :, None] >= at).mean(axis=(0, 1)), (radii[:, :, None] > at).mean(axis=(0, 1)), 0.75 * (1 - at)


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_band_holds_the_whole_curve_and_intervals_at_single_radii_do_not(seeds: int, seed: int) -> None:
    random, repeats, images = np.random.default_rng(seed), 500, 60
    whole = single = 0
    for _ in range(repeats):
        here, beyond, truth = curves(random, images, seeds)
        (lower, _), (_, upper) = (simultaneous_band(curve, images, seeds) for curve in (here, beyond))
        whole += bool(((lower <= truth) & (truth <= upper)).all())
        (lower, _), (_, upper) = (wilson(curve * images, images) for curve in (here, beyond))
        single += bool(((lower <= truth) & (truth <= upper)).all())
    assert whole / repeats >= 0.95 - 4 * np.sqrt(0.05 * 0.95 / repeats)
    if seeds == 1:
        assert whole < repeats  # it is not wider than it must be
        assert single / repeats < 0.85


def test_the_band_by_hand() -> None:
    lower, upper = simultaneous_band(np.array([0.9999, 0.5, 0.001]), 10_000)
    assert upper - 0.013581 == pytest.approx([1 - 0.013581, 0.5, 0.001], abs=1e-6)  # √(ln 40 / 20 000)
    assert lower + 0.013581 == pytest.approx([0.9999, 0.5, 0.013581], abs=1e-6)
    assert np.ptp(simultaneous_band(np.array([0.5]), 500, 3)) == pytest.approx(2 * np.sqrt(np.log(120) / 1000))
