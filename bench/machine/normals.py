"""Standard normal numbers that depend on their place alone: the same bits on every device, however they are asked for.

What a stream (seed, role, indices) has for a sample and a pixel is made of a block of Philox 4×64-10 (Salmon et al.
2011, "Parallel random numbers: as easy as 1, 2, 3"), whose key is the stream's and whose counter is the place, by the
transform of Box and Muller in float32. Its logarithm, sine and cosine are polynomials and a division: additions,
multiplications, divisions and square roots are rounded alike everywhere (IEEE 754), while libraries' functions differ
in their last bits.

These numbers are not normal, but near it. A certificate takes z for ε ~ N(0, I), of which can be said:

1. There is no small distance in total variation. From a continuous distribution it is 1. From normal numbers rounded to
   float32 it is near 1 too: a pair lies in one of 2²⁴ directions, and a classifier that looks for these tells z from
   rounded normal numbers (a test has one), so that nothing less than all of p_lower could be debited for it. What holds
   for every classifier holds in the sound mode alone (`results.bounds.lattice`).
2. z is near exact normal numbers. Let U be uniform in the cell (j, j + 1) / 2⁴⁰ of a word, and a direction uniform
   within 2π / 2²⁴ around the word's. Over all words √(−2 ln U) and this direction make an exact pair ε, from which z
   differs by the width of the cells, by the rounding of u to 24 bits, and by the polynomials, in ℓ2
       at most by 2.2 · 10⁻⁵ where 2¹⁶ ≤ j < 2⁴⁰ − 2²⁰ (R from .0014 to 5.8),
       at most by 1.2 · 10⁻³ elsewhere if j ≥ 64, which is of probability 2⁻²⁰ + 2⁻²⁴,
       by any amount where j < 64, of probability 2⁻³⁴;
   root mean square 1.8 · 10⁻⁷. So d numbers are within ρ = √(d/2 · (2.2 · 10⁻⁵)² + 2 · (1.2 · 10⁻³)²) of ε in ℓ2, but
   for a probability of d/2 · 2⁻³⁴ and that of three pairs of the second kind. For 32 × 32 pixels of three channels that
   is .0019, but for 10⁻⁷; usually it is 7 · 10⁻⁶. The roundings of σ z and of the sum add 4 · 10⁻⁶ in pixel units.
3. Hence P(f(x + σ z) = c) ≤ P(f is c somewhere within ρ σ of x + σ ε) + 10⁻⁷, and a certificate of the ordinary mode
   is about these enlarged regions. For a half-space that costs ρ σ of radius. One number alone has a distribution
   function that is nowhere further than 2 · 10⁻⁶ from Φ. Of a network nothing of the kind can be computed.
4. Tails are cut: R ends at 7.54, which stands for all U < 2⁻⁴⁰ (`cut_tails`). `Smoothed` refuses to certify where that
   has more than a hundredth of the least 1 − p_lower: from n = 5 · 10⁷ on for 32 × 32 pixels of three channels, 10⁶ for
   224 × 224. Below, to debit it would take less than .003 σ from any radius.

On CPUs NumPy computes it, whose Philox needs no compiler; on a GPU `bench.machine.normals_kernel`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from numpy.random import Philox
from numpy.typing import NDArray
from torch import Tensor

from bench.machine.randomness import Role, stream_key
from bench.machine.reasons import reason_of

WORDS = 4
"""Words of 64 bits of a block of Philox; each gives two numbers."""
CHUNK = 1 << 16
"""Words that a CPU transforms at once: many enough for NumPy, few enough for a cache."""

# 2 · −ln(m/2) = s · P(s²) with s = (2 − m) / (2 + m) in (0, 1/3]; sin(πt/4) = t · P(t²) and cos(πt/4) = P(t²) with t
# in (−1, 1). From the constant on; nearly minimax, each the float32 next to what was found. Relative errors with all
# roundings are below 2.5e-7.
LOGARITHM = (4.0, 1.3333264589309692, 0.8004919290542603, 0.5593031644821167, 0.5631555914878845)
SINE = (0.7853981852531433, -0.08074543625116348, 0.0024900068528950214, -3.595429006963968e-05)
COSINE = (1.0, -0.3084242641925812, 0.01584991067647934, -0.0003188774862792343)
TWO_LN_2 = 1.3862943649291992

Floats = NDArray[np.float32]
logger = logging.getLogger("bench")


class NormalStream:
    """z(sample, pixel), independent standard normal numbers of one stream, for samples and pixels 0, 1, 2, …"""

    def __init__(self, seed: int, role: Role, *indices: int) -> None:
        self._key = stream_key(seed, role, *indices)

    def draw(self, first: int, shape: Sequence[int], device: torch.device) -> Tensor:
        """z, float32, of samples first, first + 1, …; the pixels of a sample in the order of memory.

        Args:
            shape: (count, …).
        """
        drawn = torch.empty(tuple(shape), device=device)
        self._fill(drawn.view(len(drawn), -1), first, None, 1.0)
        return drawn

    def around(self, centre: Tensor, sigma: float, first: int, count: int) -> Tensor:
        """centre + σ z, (count, *centre.shape), float32, of samples first, first + 1, …

        Args:
            centre: float32, contiguous.
        """
        noisy = torch.empty((count, *centre.shape), device=centre.device)
        self._fill(noisy.view(count, -1), first, centre.view(-1), sigma)
        return noisy

    def _fill(self, out: Tensor, first: int, centre: Tensor | None, sigma: float) -> None:
        kernel = _kernel() if out.device.type == "cuda" else None
        if kernel is not None:
            kernel(out, self._key, first, centre, sigma)
            return
        drawn = out if out.device.type == "cpu" else torch.empty(out.shape)
        fill_by_cpu(drawn, self._key, first, None if centre is None else centre.cpu(), sigma)
        if drawn is not out:
            out.copy_(drawn)


def prepare(device: torch.device) -> None:
    """Compile what draws on the device, which otherwise happens when first something is drawn."""
    if device.type == "cuda":
        _kernel()


def words_of_sample(numbers: int) -> int:
    """Words that a sample of so many numbers takes: whole blocks. Word j has the numbers j and j + words."""
    return WORDS * -(-numbers // (2 * WORDS))


def cut_tails(numbers: int) -> float:
    """Probability that of so many exact normal numbers a pair is further out than a word can say, or at its end: what
    is missing from the noise of a sample."""
    return words_of_sample(numbers) * 2.0**-40


def fill_by_cpu(out: Tensor, key: NDArray[np.uint64], first: int, centre: Tensor | None, sigma: float) -> None:
    """out[i, p] = centre[p] + σ z(first + i, p), each operation rounded to float32; without a centre σ is 1.

    Args:
        out: (count, numbers), float32, contiguous, on the CPU.
        centre: (numbers,), likewise.
    """
    words = words_of_sample(out.shape[1])
    # numpy adds 1 to the counter before it makes a block: block b has the counter b.
    philox = Philox(key=key, counter=(first * (words // WORDS) - 1) % 2**256)
    for rows in out.split(max(1, CHUNK // words)):
        part = rows.numpy()
        radius, cosine, sine = (x.reshape(-1, words) for x in box_muller(philox.random_raw(len(part) * words)))
        ones, others = part[:, :words], part[:, words:]
        np.multiply(radius[:, : ones.shape[1]], cosine[:, : ones.shape[1]], out=ones)
        np.multiply(radius[:, : others.shape[1]], sine[:, : others.shape[1]], out=others)
        if centre is not None:
            part *= np.float32(sigma)
            part += centre.numpy()


def box_muller(words: NDArray[np.uint64]) -> tuple[Floats, Floats, Floats]:
    """A radius, a cosine and a sine of each word of 64 random bits, which are used up. Radius × cosine and radius ×
    sine are two independent standard normal numbers.

    The upper 40 bits are the radius √(−2 ln u), u = (j + 1/2) / 2⁴⁰: up to 7.54, and 0 instead of anything below
    2.4e-4, where u is rounded to 1. The lower 24 are one of 2²⁴ evenly spaced directions: 22 an angle between −π/4 and
    π/4, one whether cosine and sine change places, one the sign of the cosine before.
    """
    low = words.astype(np.uint32).view(np.int32)
    words >>= np.uint64(23)
    words |= np.uint64(1)
    m = words.view(np.int64).astype(np.float32)  # 2⁴¹ u, soon u = m/2 · 2^−halvings with m in [1, 2)
    bits = m.view(np.int32)
    halvings = (167 - (bits >> 23)).astype(np.float32)
    bits &= 0x7FFFFF
    bits |= 0x3F800000
    s = np.float32(2) - m
    m += np.float32(2)
    s /= m
    radius = _polynomial(s * s, LOGARITHM)
    radius *= s
    halvings *= np.float32(TWO_LN_2)
    radius += halvings
    np.sqrt(radius, out=radius)
    t = (low & 0x3FFFFF).astype(np.float32)
    t *= np.float32(2.0**-21)
    t -= np.float32(1 - 2.0**-22)
    square = t * t
    cosine, sine = _polynomial(square, COSINE), _polynomial(square, SINE)
    sine *= t
    one, other = cosine.view(np.int32), sine.view(np.int32)
    one ^= (low << 8) & np.int32(-(1 << 31))
    low <<= 9
    low >>= 31
    low &= one ^ other
    one ^= low
    other ^= low
    return radius, cosine, sine


def _polynomial(x: Floats, coefficients: Sequence[float]) -> Floats:
    """Horner's scheme, each operation rounded: coefficients from the constant on."""
    *others, last = (np.float32(coefficient) for coefficient in coefficients)
    value = x * last
    for coefficient in others[:0:-1]:
        value += coefficient
        value *= x
    value += others[0]
    return value


@cache
def _kernel() -> Callable[..., None] | None:
    """What fills a tensor of an accelerator where it is; None, after one message that says why, where that does not
    give the very bits of a CPU: noise is then drawn on the CPU."""
    key, centre = stream_key(0, Role.ESTIMATE, 0), torch.linspace(0, 1, 3071)
    expected = torch.empty((16, 3071))
    fill_by_cpu(expected, key, 1000, centre, 0.25)
    try:
        from bench.machine.normals_kernel import fill  # needs Triton

        found = torch.empty(expected.shape, device="cuda")
        fill(found, key, 1000, centre.to(found.device), 0.25)
    except Exception as error:  # whatever a compiler raises, the CPU is as good
        logger.warning("drawing noise on the CPU, since the accelerator's kernel failed: %s", reason_of(error))
        return None
    if not torch.equal(found.cpu(), expected):
        logger.warning("drawing noise on the CPU, since the accelerator's kernel gives other numbers")
        return None
    return fill
