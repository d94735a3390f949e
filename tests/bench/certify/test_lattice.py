"""The sound mode: what breaks certificates in floating point does not break these."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
from scipy.special import ndtr
from torch import Tensor, nn

from bench.audit.independent import audit
from bench.audit.verify import verify_run
from bench.certify import lattice
from bench.certify.lattice import LOWER, UPPER, Guide, LatticeSamples, guide, on_lattice, signed, thresholds
from bench.certify.smoothing import Smoothed, check_tails
from bench.machine.randomness import Role
from bench.runner.single import run_single
from results.bounds.lattice import STEPS, H, debited, distance, lattice_debit, most_steps
from results.bounds.radius import certified_radius, lower_confidence_bound, two_sided_radius
from results.errors import BenchError
from results.report.update import update_report
from results.store.folder import RunFolder
from results.store.run import read_run
from results.store.settings import Arithmetic, CertifySettings
from tests.conftest import small_trial

CPU = torch.device("cpu")
PIXELS = 3 * 32 * 32


class Mantissa(nn.Module):
    """A classifier that reads mantissa bits: class 0 where every pixel in (−1/2, −1/4] is an even multiple of 2⁻²⁵.

    In float32, noise below −1/2 is a multiple of 2⁻²⁴; so what it makes of a pixel is even where the pixel was.
    """

    def forward(self, images: Tensor) -> Tensor:
        odd = (images > -0.5) & (images <= -0.25) & ((images * 2**25).remainder(2) != 0)
        any_odd = odd.flatten(1).any(1)
        return torch.stack([~any_odd, any_odd], 1).float()


def refuted(arithmetic: Arithmetic, n: int) -> tuple[float, list[int]]:
    """The certified radius of an image, and the answers there and 1.65e-6 away."""
    image = torch.full((3, 32, 32), 0.375)
    near = image + 2**-25
    assert 1.6e-6 < float((near.double() - image.double()).norm()) < 1.7e-6
    smoothed = Smoothed(Mantissa(), 0.25, 2, precision="fp32", arithmetic=arithmetic, device=CPU)
    [certificate] = smoothed.certify(image[None], CertifySettings(n=n))
    return certificate.radius, smoothed.predict(torch.stack([image, near]), n=200)


def test_in_the_ordinary_mode_a_classifier_of_mantissa_bits_is_certified_and_refuted() -> None:
    """It fails, as README's guarantee says: certified .748, refuted at 1.65e-6."""
    radius, answers = refuted("float", n=5000)
    assert radius == pytest.approx(0.748, abs=1e-3)
    assert answers == [0, 1]


def test_in_the_sound_mode_it_is_not() -> None:
    radius, answers = refuted("sound", n=3500)
    assert radius > 0.7
    assert answers[0] == answers[1]


class Directions(nn.Module):
    """Class 0 where pairs of numbers lie on the 2²⁴ directions that a word of the ordinary noise has, seen on black."""

    def forward(self, images: Tensor) -> Tensor:
        numbers = images.permute(0, 2, 3, 1).flatten(1).double()  # in the order in which noise is drawn
        one, other = numbers.chunk(2, dim=1)
        cells = torch.atan2(other, one) * (2**24 / (2 * math.pi))
        score = -torch.cos(2 * math.pi * cells).mean(1) - 0.15  # their middles are at halves
        return torch.stack([score, -score], 1)


def test_no_distance_in_total_variation_holds_in_the_ordinary_mode() -> None:
    """A classifier that tells the noise that is drawn from normal numbers rounded to float32."""
    black, settings = torch.zeros(1, 3, 32, 32), CertifySettings(n=500, n0=50)
    normal = 0.25 * torch.randn(500, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert (Directions()(normal.float()).argmax(1) == 1).all()
    expected: list[tuple[Arithmetic, int]] = [("float", 0), ("sound", 1)]
    for arithmetic, answer in expected:
        smoothed = Smoothed(Directions(), 0.25, 2, precision="fp32", arithmetic=arithmetic, device=CPU)
        [certificate] = smoothed.certify(black, settings)
        assert (certificate.status, certificate.predicted, certificate.count_top) == ("certified", answer, 500)


def test_a_bound_so_near_1_that_the_cut_tails_count_is_refused() -> None:
    smoothed = Smoothed(nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 2)), 0.25, 2, precision="fp32", device=CPU)
    with pytest.raises(BenchError, match=r"n = 50000000 with alpha = 0\.001: certifies probabilities so near 1"):
        smoothed.certify(torch.zeros(1, 3, 32, 32), CertifySettings(n=50_000_000))
    for n in (100_000, 49_000_000):
        check_tails(PIXELS, CertifySettings(n=n))
    check_tails(3 * 224 * 224, CertifySettings(n=1_000_000))
    with pytest.raises(BenchError, match="150528 numbers"):
        check_tails(3 * 224 * 224, CertifySettings(n=1_100_000))


def test_what_the_classifier_sees_is_a_function_of_the_lattice_point() -> None:
    """Whatever is nearer than half a step gives the same bits; every value is a whole number of steps."""
    draw = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 8, 8), generator=draw).float() / 255
    moved = image + (torch.rand(image.shape, generator=draw) - 0.5) * 0.9 * H
    samples = LatticeSamples(0.25, CPU)
    first, second = (next(samples.batches(x, 32, 1, Role.ESTIMATE, 2)) for x in (image, moved))
    assert torch.equal(first, second)
    steps = first.double() / H
    assert (steps - steps.round()).abs().max() < 1e-2
    assert (on_lattice(image) % STEPS == 0).all()  # 8-bit pixels are on it
    assert float((on_lattice(moved) * H - moved.double()).norm()) <= lattice_debit(moved.numel()) + 1e-6


def test_noise_is_a_function_of_sample_and_pixel() -> None:
    image = torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(1))
    samples = LatticeSamples(0.25, CPU)

    def first(count: int, batch: int, seed: int = 0, role: Role = Role.ESTIMATE, index: int = 0) -> Tensor:
        batches = samples.batches(image, batch, seed, role, index)
        return torch.cat([next(batches) for _ in range(count // batch)])

    reference = first(24, 24)
    for batch in (1, 4, 12):
        assert torch.equal(first(24, batch), reference)
    for other in (first(24, 24, 1), first(24, 24, 0, Role.SELECT), first(24, 24, 0, Role.ESTIMATE, 1)):
        assert not torch.equal(other, reference)
    assert len({tuple(sample.flatten().tolist()) for sample in reference}) == 24


@pytest.mark.parametrize("every", [101, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("sigma", [0.12, 0.25, 1.0])
def test_thresholds_are_those_of_the_rounded_gaussian(sigma: float, every: int) -> None:
    words = thresholds(sigma).astype(object) + 2**63
    most = most_steps(sigma)
    with mpmath.workprec(110):  # to the last bit
        scale = mpmath.mpf(1) / (255 * STEPS) / mpmath.mpf(sigma)
        for k in range(-1, -most - 1, -every):
            assert words[k + most] == mpmath.floor(mpmath.ncdf((k + mpmath.mpf(1) / 2) * scale) * 2**64)
    assert len(words) == 2 * most
    assert all(a <= b for a, b in pairwise(words))
    probabilities = np.array([word / 2**64 for word in words])
    expected = ndtr((np.arange(-most, most) + 0.5) * H / sigma)
    assert np.allclose(probabilities, expected, rtol=1e-12, atol=1e-19)
    assert all(low + high == 2**64 - 1 for low, high in zip(words, reversed(words), strict=True))  # symmetric


def words_to_find(thresholds: Tensor) -> Tensor:
    """Random ones, each threshold and those beside it, the first and the last of each bucket, and the ends."""
    limits = torch.iinfo(torch.int64)
    at = thresholds.clamp(limits.min + 1, limits.max - 1)
    starts = torch.arange(-(2 ** (UPPER - 1)), 2 ** (UPPER - 1)) << LOWER
    drawn = signed(np.random.Philox(key=7).random_raw(300_000))
    ends = torch.tensor([limits.min, limits.min + 1, -1, 0, 1, limits.max - 1, limits.max])
    return torch.cat([at - 1, at, at + 1, starts, starts + (2**LOWER - 1), drawn, ends])


@pytest.mark.parametrize("sigma", [1e-6, 1e-3, 0.12, 0.25, 0.5, 1.0])  # the first has two thresholds
def test_the_guide_finds_what_a_search_finds(sigma: float) -> None:
    ascending = torch.from_numpy(thresholds(sigma))
    words = words_to_find(ascending)
    expected = torch.searchsorted(ascending, words, right=True, out_int32=True)
    assert torch.equal(guide(sigma).count(words[None])[0], expected)


def test_the_guide_finds_it_among_any_thresholds() -> None:
    """One, equal ones, and several in every bucket."""
    drawn = signed(np.random.Philox(key=9).random_raw(2 ** (UPPER + 2))).sort().values
    for ascending in (torch.tensor([3]), torch.tensor([-5, -5, 0, 3]), drawn):
        words = words_to_find(ascending)
        expected = torch.searchsorted(ascending, words, right=True, out_int32=True)
        assert torch.equal(Guide(ascending).count(words[None])[0], expected)


def test_the_guide_counts_in_rows_whatever_is_looked_up_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    words = signed(np.random.Philox(key=8).random_raw(7000)).view(70, 100)
    expected = torch.searchsorted(torch.from_numpy(thresholds(0.25)), words, right=True, out_int32=True)
    for at_once in (1, 250, 10**6):
        monkeypatch.setattr(lattice, "AT_ONCE", at_once)
        assert torch.equal(guide(0.25).count(words), expected)
        assert torch.equal(guide(0.25).count(words[:, 1:]), expected[:, 1:])


def test_noise_is_gaussian_to_what_a_sample_shows() -> None:
    sigma = 0.25
    batches = LatticeSamples(sigma, CPU).batches(torch.zeros(3, 32, 32), 64, 3, Role.ESTIMATE, 0)
    drawn = torch.cat([next(batches).flatten() for _ in range(20)]).double().numpy() / sigma
    size = len(drawn)
    assert abs(drawn.mean()) < 5 / math.sqrt(size)
    assert abs(drawn.std() - 1) < 5 / math.sqrt(2 * size)
    gap = np.abs(np.sort(ndtr(drawn)) - np.arange(1, size + 1) / size).max()
    assert gap < 2 / math.sqrt(size)  # Kolmogorov–Smirnov at one in a thousand
    assert np.abs(drawn).max() > 4.5


def test_the_distance_of_the_noise_is_negligible_and_paid_for() -> None:
    assert 0 < distance(PIXELS, 0.25) < 1e-10
    assert distance(PIXELS, 1.0) < 1e-9
    assert lattice_debit(PIXELS) == pytest.approx(0.0017, abs=5e-5)
    p_lower = np.array([0.4, 0.5, 0.5000001, 0.9, 0.99993])
    bound, radius = debited(p_lower, 0.25, PIXELS)
    assert np.allclose(bound, p_lower - distance(PIXELS, 0.25), rtol=1e-12)
    expected = np.maximum(certified_radius(bound, 0.25) - lattice_debit(PIXELS), 0)
    assert np.allclose(radius, expected, rtol=1e-12)
    assert radius[2] == 0  # nothing is left of so small a radius
    plain = debited(p_lower, 0.25, np.nan)
    assert np.array_equal(plain[0], p_lower)
    assert np.array_equal(plain[1], certified_radius(p_lower, 0.25))


def test_a_half_space_is_certified_up_to_its_plane_and_not_beyond() -> None:
    """A linear classifier, whose true radius is the distance of its plane."""

    class HalfSpace(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            score = images.flatten(1).sum(1) - 0.5 * PIXELS
            return torch.stack([score, -score], 1)

    images = torch.stack([torch.full((3, 32, 32), 0.5 + away / math.sqrt(PIXELS)) for away in (0.1, 0.3, 0.6)])
    smoothed = Smoothed(HalfSpace(), 0.25, 2, precision="fp32", arithmetic="sound", device=CPU)
    found = smoothed.certify(images, CertifySettings(n=1500))
    for certificate, away in zip(found, (0.1, 0.3, 0.6), strict=True):
        assert certificate.radius < away
        bound = lower_confidence_bound(certificate.count_top, certificate.n, certificate.alpha)
        assert certificate.radius == pytest.approx(float(debited(bound, 0.25, PIXELS)[1]))
    assert found[2].radius > 0.4


@pytest.mark.usefixtures("_no_figures")
def test_a_run_in_the_sound_mode_from_training_to_audit(tmp_path: Path) -> None:
    train = {"epochs": 4, "decay_epochs": [3], "learning_rate": 0.1, "batch": 32, "images": 400, "precision": "fp32"}
    certify = {"n": 300, "n0": 20, "images": 20, "precision": "fp32", "arithmetic": "sound"}
    trials = [
        small_trial("gaussian", name="sound", train=train, certify=certify),
        small_trial("gaussian", name="sound_ld", train=train, certify=certify, decomposition_ratio=0.2),
        small_trial("gaussian", name="ordinary", train=train, certify={**certify, "arithmetic": "float"}),
    ]
    run = RunFolder(tmp_path / "run")
    for trial in trials:
        assert run_single(trial, run, 8)
    report = update_report(run)
    rows = read_run(run.path).certificates
    sound = rows[rows["method"] != "ordinary"]
    assert (sound["lattice_pixels"] == PIXELS).all()
    assert rows[rows["method"] == "ordinary"]["lattice_pixels"].isna().all()
    assert (sound["radius"] > 0).any()
    certified = rows[rows["status"] == "certified"]
    counts = np.array(certified["counts"].tolist())
    undebited = two_sided_radius(counts, certified["selected"].to_numpy(np.int64), certified["alpha"], 0.25)
    debit = np.where(certified["lattice_pixels"].notna(), lattice_debit(PIXELS), 0.0)
    assert certified["radius_two_sided"].to_numpy() == pytest.approx(undebited - debit, abs=1e-9)
    assert "with sound arithmetic in part" in " ".join(report.tables[0].setting)
    assert audit(tmp_path / "run")["rows"] == 60
    assert {verdict.outcome for verdict in verify_run(run, 20, seed=0).verdicts} == {"identical"}
