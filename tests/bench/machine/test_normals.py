"""Noise: Philox as published, a normal distribution, and the same bits however and wherever it is drawn."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import Philox
from numpy.typing import NDArray
from scipy.stats import chi2, kstest, norm
from torch._subclasses import FakeTensorMode

from bench.machine import normals
from bench.machine.normals import NormalStream, box_muller, cut_tails, fill_by_cpu, words_of_sample
from bench.machine.randomness import Role, stream_key

CPU = torch.device("cpu")
WORD = 2**64 - 1


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox 4×64-10 as Salmon et al. 2011 write it, in Python's integers."""
    a, b, c, d = counter
    k, m = key
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * a, 0xCA5A826395121157 * c
        a, b, c, d = (second >> 64) ^ b ^ k, second & WORD, (first >> 64) ^ d ^ m, first & WORD
        k, m = (k + 0x9E3779B97F4A7C15) & WORD, (m + 0xBB67AE8584CAA73B) & WORD
    return [a, b, c, d]


def written_out(key: list[int], sample: int, numbers: int) -> NDArray[np.float64]:
    """z(sample, ·) with Python's integers and the math library's functions."""
    words = words_of_sample(numbers)
    radii, angles = [], []
    for block in range(sample * words // 4, (sample + 1) * words // 4):
        for word in philox([block, 0, 0, 0], key):
            radii.append(math.sqrt(-2 * math.log(((word >> 24) + 0.5) / 2**40)))
            angle = (2 * (word & 0x3FFFFF) + 1 - 2**22) / 2**22 * math.pi / 4
            if word >> 23 & 1:
                angle = math.pi - angle
            angles.append(math.pi / 2 - angle if word >> 22 & 1 else angle)
    both = np.concatenate([radii * np.cos(angles), radii * np.sin(angles)])
    return both[:numbers]


@pytest.mark.parametrize(
    ("counter", "key", "known"),
    [  # the vectors of Random123, kat_vectors: philox4x64 10
        ("0" * 64, "0" * 32, "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b"),
        ("f" * 64, "f" * 32, "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0"),
        (
            "243f6a8885a308d313198a2e03707344a4093822299f31d0082efa98ec4e6c89",
            "452821e638d01377be5466cf34e90c6c",
            "a528f45403e61d95 38c72dbd566e9788 a5a1610e72fd18b5 57bd43b5e52b7fe6",
        ),
    ],
)
def test_philox_gives_the_published_vectors(counter: str, key: str, known: str) -> None:
    counters = [int(counter[i : i + 16], 16) for i in range(0, 64, 16)]
    keys = [int(key[i : i + 16], 16) for i in (0, 16)]
    assert [f"{word:016x}" for word in philox(counters, keys)] == known.split()
    before = (sum(word << 64 * place for place, word in enumerate(counters)) - 1) % 2**256
    raw = Philox(key=np.array(keys, dtype=np.uint64), counter=before).random_raw(4)
    assert [f"{word:016x}" for word in raw.tolist()] == known.split()


@pytest.mark.parametrize(("sample", "numbers"), [(0, 3072), (7, 447), (2**40, 5)])
def test_numbers_are_those_of_box_and_muller(sample: int, numbers: int) -> None:
    found = NormalStream(3, Role.ESTIMATE, 5).draw(sample, (1, numbers), CPU)[0].double().numpy()
    expected = written_out(stream_key(3, Role.ESTIMATE, 5).tolist(), sample, numbers)
    # Where the radius is small, u is near 1 and has the 24 bits of a float32.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2.0**-25 / 0.01)
    np.testing.assert_array_equal(np.abs(expected) > 8, False)


def test_the_transform_is_accurate_from_the_smallest_uniform_to_the_largest() -> None:
    uniforms = [0, 1, 2, 2**16, 2**30, *(k << 34 for k in range(1, 64)), 2**40 - 2**17]
    angles = [0, 1, 2**21 - 1, 2**21, 2**21 + 1, 2**22 - 1]
    cases = [(j, angle | quadrant << 22) for j, angle, quadrant in product(uniforms, angles, range(4))]
    words = np.array([j << 24 | low for j, low in cases], dtype=np.uint64)
    radius, cosine, sine = (x.astype(np.float64) for x in box_muller(words))
    expected = np.array([math.sqrt(-2 * math.log(float(np.float32(2 * j + 1)) / 2**41)) for j, _ in cases])
    np.testing.assert_allclose(radius, expected, rtol=3e-7)
    np.testing.assert_allclose(cosine**2 + sine**2, 1, rtol=6e-7)
    turn = np.array([(2 * (low & 0x3FFFFF) + 1 - 2**22) / 2**22 for _, low in cases]) * np.pi / 4
    near = np.where(np.abs(cosine) > np.abs(sine), sine, cosine)
    np.testing.assert_allclose(np.abs(near), np.abs(np.sin(turn)), rtol=3e-7)
    assert radius.max() == pytest.approx(7.5388, abs=1e-3)  # 24 bits would end at 5.77


def test_no_uniform_makes_a_radius_nan_or_infinite() -> None:
    """All 2²³ mantissas below 1, and what is rounded up to 1."""
    upper_half = np.arange(2**23, dtype=np.uint64) << np.uint64(40) | np.uint64(1 << 63)
    radius, _, _ = box_muller(np.concatenate([upper_half, np.array([WORD, 0], dtype=np.uint64)]))
    assert np.isfinite(radius).all()
    assert radius[-2] == 0
    assert (np.diff(radius[: 2**23]) <= 1e-6).all()


def test_all_directions_are_taken_evenly() -> None:
    _, cosine, sine = box_muller(np.arange(2**24, dtype=np.uint64))
    directions = np.histogram(np.arctan2(sine, cosine), 4096, range=(-math.pi, math.pi))[0]
    assert abs(directions - 4096).max() <= 4
    for component in (cosine, sine):
        assert abs(float(component.astype(np.float64).sum())) < 0.5
        assert float((component.astype(np.float64) ** 2).mean()) == pytest.approx(0.5, abs=1e-7)


def test_the_distribution_is_normal(seed: int) -> None:
    drawn = NormalStream(seed, Role.ESTIMATE, 0).draw(0, (500, 3072), CPU).double().numpy().ravel()
    count = len(drawn)
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3), (6, 15), (8, 105)):
        deviation = math.sqrt((math.prod(range(1, 2 * power, 2)) - moment**2) / count)
        assert abs((drawn**power).mean() - moment) < 5 * deviation
    assert kstest(drawn, "norm").pvalue > 1e-6
    edges = np.concatenate([[-np.inf], norm.ppf(np.arange(1, 1000) / 1000), [np.inf]])
    statistic = ((np.histogram(drawn, edges)[0] - count / 1000) ** 2 / (count / 1000)).sum()
    assert 1e-6 < chi2.sf(statistic, 999) < 1 - 1e-6
    for limit in (3, 4, 4.5):
        expected = 2 * norm.sf(limit) * count
        assert abs((np.abs(drawn) > limit).sum() - expected) < 5 * math.sqrt(expected) + 1


def test_tails_beyond_24_bits_are_as_long_as_they_should_be(seed: int) -> None:
    """Of words whose uniform is below 2⁻²⁴, which the transform makes of them: the tail beyond 5.77 σ of the radius."""
    tail = np.random.default_rng(seed).integers(0, 2**40, 2**18, dtype=np.uint64)  # upper 24 bits 0
    radius, cosine, _ = box_muller(tail)
    exponential = radius.astype(np.float64) ** 2 / 2 - 24 * math.log(2)  # as memoryless as it should be
    assert exponential.min() > -1e-5
    for level in (0.5, 1, 2, 4):
        expected = math.exp(-level) * len(tail)
        assert abs((exponential > level).sum() - expected) < 5 * math.sqrt(expected)
    beyond = radius.astype(np.float64) * np.abs(cosine) > 5.8
    exact = 2 * norm.sf(5.8) * 2**24 * len(tail)
    assert abs(beyond.sum() - exact) < 5 * math.sqrt(exact)


def test_streams_samples_and_pixels_are_independent(seed: int) -> None:
    count = 1000
    base = NormalStream(seed, Role.ESTIMATE, 0).draw(0, (count, 3072), CPU)
    others = [
        NormalStream(seed, Role.ESTIMATE, 1).draw(0, (count, 3072), CPU),  # image
        NormalStream(seed, Role.SELECT, 0).draw(0, (count, 3072), CPU),
        NormalStream(seed + 1, Role.ESTIMATE, 0).draw(0, (count, 3072), CPU),
        base.roll(1, dims=0),  # sample
        *(base.roll(by, dims=1) for by in (1, 2, 3, 4, 8, 32, 96, 1024, 1536)),  # pixel; 1536: of the same word
    ]
    for other in others:
        for one, two in ((base, other), (base**2 - 1, other**2 - 1)):
            product_of = (one * two).double()
            deviation = float(product_of.std()) / math.sqrt(product_of.numel())
            assert abs(float(product_of.mean())) < 5.5 * deviation
    sums = base.double().sum(dim=0) / math.sqrt(count), base.double().sum(dim=1) / math.sqrt(3072)
    for total in sums:
        assert kstest(total.numpy(), "norm").pvalue > 1e-5


@pytest.mark.parametrize("numbers", [1, 7, 8, 9, 447, 3072])
def test_a_sample_is_the_same_in_any_batch(numbers: int) -> None:
    stream = NormalStream(1, Role.ESTIMATE, 2)
    whole = stream.draw(0, (200, numbers), CPU)
    assert len(whole.unique()) > 0.99 * whole.numel()
    for first, count in ((0, 1), (199, 1), (63, 64), (1, 199), (100, 3)):
        assert torch.equal(stream.draw(first, (count, numbers), CPU), whole[first : first + count])
    centre = torch.linspace(0, 1, numbers)
    expected = whole[5:70] * torch.tensor(0.25) + centre
    assert torch.equal(stream.around(centre, 0.25, 5, 65), expected)


def test_no_two_streams_are_the_same() -> None:
    keys = [(seed, role, *rest) for seed in (0, 1, 2**32) for role in Role for rest in ((), (0,), (1,), (0, 0), (0, 1))]
    drawn = {bytes(NormalStream(seed, Role(role), *rest).draw(0, (1, 8), CPU).numpy()) for seed, role, *rest in keys}
    assert len(drawn) == len(keys)


INTERPRETED = """
import torch
from bench.machine.normals import fill_by_cpu
from bench.machine.normals_kernel import fill
from bench.machine.randomness import Role, stream_key

for case, (count, numbers, first) in enumerate([(3, 3072, 0), (5, 447, 2**40), (2, 1, 7), (9, 8, 63)]):
    for centre in (None, torch.linspace(0, 1, numbers)):
        key = stream_key(case, Role.ESTIMATE, 5)
        expected, found = torch.empty(count, numbers), torch.full((count, numbers), torch.nan)
        fill_by_cpu(expected, key, first, centre, 0.3)
        fill(found, key, first, centre, 0.3)
        assert torch.equal(found, expected), (count, numbers, first)
print("the same")
"""


def test_the_kernel_gives_the_same_bits_in_tritons_interpreter() -> None:
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    result = subprocess.run([sys.executable, "-c", INTERPRETED], env=environment, capture_output=True, text=True)
    assert result.stdout == "the same\n", result.stderr


@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernel_is_compiled_without_contracted_or_approximate_arithmetic(capability: int) -> None:
    """Lowered for a GPU that need not be there: every operation on floats is one that IEEE 754 rounds."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from bench.machine.normals_kernel import BLOCKS, OPTIONS, fill_kernel

    types = {"out": "*fp32", "centre": "*fp32", "sigma": "fp32", "numbers": "i32", "blocks": "i32"}
    types |= dict.fromkeys(("key0", "key1", "first", "total"), "u64")
    types |= dict.fromkeys(("has_centre", "size"), "constexpr")
    source = ASTSource(fill_kernel, types, {"has_centre": True, "size": BLOCKS})
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=OPTIONS)
    used = set(re.findall(r"\s([a-z]+\.[a-z0-9.]*f32[a-z0-9.]*)\s", compiled.asm["ptx"]))
    rounded = {f"{name}.rn.f32" for name in ("add", "sub", "mul", "div", "sqrt")}
    assert rounded <= used
    assert used - rounded <= {"cvt.rn.f32.s32", "cvt.rn.f32.u32", "cvt.rn.f32.u64"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_draws_the_bits_of_a_cpu(caplog: pytest.LogCaptureFixture) -> None:
    gpu, stream = torch.device("cuda"), NormalStream(1, Role.ESTIMATE, 2)
    found = stream.draw(3, (2048, 3072), gpu).cpu()
    assert torch.equal(found, stream.draw(3, (2048, 3072), CPU))
    assert not caplog.records  # which would say that the CPU drew it


def test_a_cpu_writes_whole_samples_only() -> None:
    out = torch.full((4, 11), torch.nan)
    fill_by_cpu(out[1:3], stream_key(0, Role.ESTIMATE), 0, None, 1.0)
    assert out.isnan().sum(dim=1).tolist() == [11, 0, 0, 11]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_where_the_kernel_fails_the_cpu_draws_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert normals._kernel.__wrapped__() is None
    [record] = caplog.records
    assert record.getMessage().startswith("drawing noise on the CPU, since the accelerator's kernel failed: ")


def distance_in_cell(words: NDArray[np.uint64], corner: tuple[float, float]) -> NDArray[np.float64]:
    """ℓ2 distance of each word's pair from the exact one at a place of its cell: 0 to 1 in U, −1/2 to 1/2 in direction.

    ln U is computed from 1 − U where that is small, so that it is exact to the last digits of a double.
    """
    j, low = (words >> np.uint64(24)).astype(np.float64), (words & np.uint64(0xFFFFFF)).astype(np.int64)
    u, rest = (j + corner[0]) / 2**40, (2.0**40 - j - corner[0]) / 2**40
    radius = np.sqrt(-2 * np.where(u < 0.5, np.log(np.maximum(u, 1e-300)), np.log1p(-np.minimum(rest, 0.5))))
    angle = (((low & 0x3FFFFF) + 0.5 + corner[1]) / 2**21 - 1) * np.pi / 4
    angle = np.where(low >> 23 & 1, np.pi - angle, angle)
    angle = np.where(low >> 22 & 1, np.pi / 2 - angle, angle)
    found, cosine, sine = box_muller(words.copy())
    one, other = (found * cosine).astype(np.float64), (found * sine).astype(np.float64)
    return np.asarray(np.hypot(one - radius * np.cos(angle), other - radius * np.sin(angle)))


CORNERS = [(u, angle) for u in (0.0, 1.0) for angle in (-0.5, 0.5)]


@pytest.mark.parametrize(
    ("first", "beyond", "near_one", "most"),
    [
        (2**16, 2**39, False, 2.2e-5),
        (2**20 + 1, 2**39, True, 2.2e-5),
        (64, 2**16, False, 1.2e-3),
        (1, 2**20 + 1, True, 1.2e-3),
    ],
)
def test_a_pair_is_so_near_to_an_exact_one(first: int, beyond: int, near_one: bool, most: float, seed: int) -> None:
    """In every part of the cells, evenly over the orders of magnitude of j, or of 2⁴⁰ − j."""
    random = np.random.default_rng(seed)
    places = np.exp(random.uniform(np.log(first), np.log(beyond), 100_000)).astype(np.uint64)
    places[:3] = first, first + 1, beyond - 1
    j = np.uint64(2**40) - places if near_one else places
    words = j << np.uint64(24) | random.integers(0, 2**24, len(j), dtype=np.uint64)
    found = max(float(distance_in_cell(words, corner).max()) for corner in CORNERS)
    assert most / 20 < found < most


def test_pairs_are_usually_nearer_by_far(seed: int) -> None:
    random = np.random.default_rng(seed)
    words = random.integers(0, 2**64, 200_000, dtype=np.uint64)
    squares = np.mean([distance_in_cell(words, (random.random(), random.random() - 0.5)) ** 2 for _ in range(5)])
    assert np.sqrt(squares) == pytest.approx(1.8e-7, rel=0.2)


def test_tails_end_where_the_last_word_is() -> None:
    radius, _, _ = box_muller(np.arange(2**10, dtype=np.uint64))
    assert radius.max() == pytest.approx(7.54, abs=5e-3)
    assert cut_tails(3072) == 1536 * 2.0**-40  # one word for two numbers, one in 2⁴⁰ of which is the last
    assert norm.sf(math.sqrt(80 * math.log(2))) < 2.0**-40


def test_a_kernel_that_gives_other_numbers_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, device="cpu": empty(*size))

    def other(out: torch.Tensor, *rest: Any) -> None:
        fill_by_cpu(out, *rest)
        out[3, 5] = torch.nextafter(out[3, 5], torch.tensor(9.0))

    for fill, used in ((fill_by_cpu, fill_by_cpu), (other, None)):
        monkeypatch.setitem(sys.modules, "bench.machine.normals_kernel", SimpleNamespace(fill=fill))
        assert normals._kernel.__wrapped__() is used
    assert [line for line in caplog.messages if "gives other numbers" in line] == caplog.messages
    assert len(caplog.messages) == 1


def test_an_accelerator_draws_by_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    filled = []
    monkeypatch.setattr(normals, "_kernel", lambda: lambda out, _, first, *rest: filled.append((out, first, *rest)))
    stream = NormalStream(3, Role.ESTIMATE, 7)
    with FakeTensorMode():  # in which there is an accelerator
        centre = torch.zeros((3, 4, 4), device="cuda")
        drawn = stream.draw(5, (2, 3, 4, 4), centre.device)
        noisy = stream.around(centre, 0.5, 6, 2)
    (one, *plain), (other, first, middle, sigma) = filled
    assert one._base is drawn
    assert plain == [5, None, 1.0]
    assert other._base is noisy
    assert middle._base is centre
    assert (first, sigma) == (6, 0.5)
