"""Noise samples on a lattice, drawn by integers: the sound mode (`results.bounds.lattice` has the argument)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import count

import mpmath
import numpy as np
import torch
from numpy.random import Philox
from numpy.typing import NDArray
from torch import Tensor

from bench.machine.randomness import Role, stream_key
from results.bounds.lattice import STEPS, H, most_steps

BITS = 160
"""Behind the point of the integers with which thresholds are computed, before they are rounded down to 64."""
UPPER = 18
"""Bits of a word by which the thresholds near it are looked up, in a table of 2 MB."""
LOWER = 64 - UPPER
AT_ONCE = 2**19
"""Words that are looked up at a time, which bounds the memory for it."""


class LatticeSamples:
    """Draws Q(x) + Q(ε), ε ~ N(0, σ²I), Q rounding to the lattice: sums of integers, then one multiplication by h.

    What the network is given is a function of these integers alone. Noise depends on (seed, role, index), the number
    of the sample and the pixel, and is drawn on the CPU, so that it is the same on every device.
    """

    def __init__(self, sigma: float, device: torch.device) -> None:
        self.sigma = sigma
        self.device = device
        self._guide = guide(sigma)
        self._most = most_steps(sigma)

    def batches(self, image: Tensor, batch: int, seed: int, role: Role, index: int) -> Iterator[Tensor]:
        """Batches (batch, *image.shape) without end, float32; images (channel, height, width) come channels-last."""
        place = on_lattice(image.cpu())
        words = -(-place.numel() // 4) * 4  # of a sample; Philox gives four at a time
        key = stream_key(seed, role, index)
        for number in count():
            generator = Philox(key=key)
            generator.advance(number * batch * words // 4)
            drawn = generator.random_raw(batch * words).reshape(batch, words)[:, : place.numel()]
            steps = self._guide.count(signed(np.ascontiguousarray(drawn)))
            noisy = ((place.flatten() - self._most + steps).float() * H).view(batch, *place.shape)
            layout = torch.channels_last if image.ndim == 3 else torch.contiguous_format
            yield noisy.to(self.device).contiguous(memory_format=layout)

    def itself(self, image: Tensor) -> Tensor:
        """Q(x), float32: the image without noise, as the classifier would see it."""
        return (on_lattice(image.cpu()).float() * H).to(self.device)


class Guide:
    """How many thresholds are at or below a word, as `torch.searchsorted` says, in a fifth of its time.

    A table says how many are below all words with the same `UPPER` bits. Where at most one is among these, it is
    compared with the word, and that is all. In the tails, where few words are, there are more, and they are searched.
    (On a GPU that would wait until it is known how many words these are. Noise is drawn on the CPU.)
    """

    def __init__(self, thresholds: Tensor) -> None:
        """
        Args:
            thresholds: at least one, int64, ascending.
        """
        middle = 2 ** (UPPER - 1)
        among = torch.bincount((thresholds >> LOWER) + middle, minlength=2**UPPER)
        crowded = among > 1
        crowded[[0, -1]] = True  # one on each side, for those that follow
        self._thresholds = thresholds
        # Above all thresholds it is the last one that is compared, and found below as it is.
        self._below = (among.cumsum(0) - among).clamp_(max=len(thresholds) - 1)
        self._least = (int(crowded[:middle].nonzero()[-1]) + 1 - middle) << LOWER
        self._beyond = int(crowded[middle:].nonzero()[0]) << LOWER

    def count(self, words: Tensor) -> Tensor:
        """The number for each word: (rows, numbers), int32.

        Args:
            words: (rows, numbers), int64, where the thresholds are.
        """
        found = torch.empty_like(words, dtype=torch.int32)
        rows = max(1, AT_ONCE // max(1, words.shape[1]))
        for some, into in zip(words.split(rows), found.split(rows), strict=True):
            # By rows, which gather shares among cores; of a single dimension it uses one core, as index_select does.
            below = self._below.expand(len(some), -1).gather(1, (some >> LOWER).add_(2 ** (UPPER - 1)))
            torch.add(below, self._thresholds.expand(len(some), -1).gather(1, below) <= some, out=into)
            tails = (some < self._least).logical_or_(some >= self._beyond).nonzero(as_tuple=True)
            into[tails] = torch.searchsorted(self._thresholds, some[tails], right=True, out_int32=True)
        return found


@lru_cache(maxsize=8)
def guide(sigma: float) -> Guide:
    """To the thresholds of this σ."""
    return Guide(torch.from_numpy(thresholds(sigma)))


def on_lattice(image: Tensor) -> Tensor:
    """Q(x) / h, int64: 64 times the 8-bit pixel where the image has one. A function of each pixel alone."""
    return (image.double() * (255 * STEPS)).round().long()


def signed(words: NDArray[np.uint64]) -> Tensor:
    """Unsigned words in the order of signed ones, which torch can compare."""
    return torch.from_numpy((words ^ np.uint64(1 << 63)).view(np.int64))


@lru_cache(maxsize=8)
def thresholds(sigma: float) -> NDArray[np.int64]:
    """For −K … K−1 steps, ⌊2⁶⁴ P(Q(ε)/h ≤ steps)⌋, less 2⁶³: a word w gives the number of thresholds ≤ w, minus K.

    P(Q(ε)/h ≤ k) = Φ(x) at x = (k + 1/2) h / σ, each from the last by the Taylor series of Φ and of its density φ,
    for φ⁽ⁿ⁺¹⁾ = −x φ⁽ⁿ⁾ − n φ⁽ⁿ⁻¹⁾, in integers: a step errs by less than 2⁻¹⁵⁰. (mpmath computes each Φ(x) anew in ten
    times as long.) So the lower half; the upper is its mirror.
    """
    most, unit = most_steps(sigma), 2**BITS
    with mpmath.workprec(BITS + 20):
        step = mpmath.mpf(1) / (255 * STEPS) / mpmath.mpf(sigma)
        first = (mpmath.mpf(1) / 2 - most) * step
        x, dx, below, density = (int(value * unit) for value in (first, step, mpmath.ncdf(first), mpmath.npdf(first)))
    lower = []
    for _ in range(most):
        lower.append(below >> (BITS - 64))
        derivative, before, density = density, 0, 0
        power, order = unit, 0  # dxⁿ / n!
        while power:
            density += derivative * power >> BITS
            power = (power * dx >> BITS) // (order + 1)
            below += derivative * power >> BITS
            derivative, before = -(x * derivative >> BITS) - order * before, derivative
            order += 1
        x += dx
    upper = [2**64 - 1 - word for word in reversed(lower)]
    return np.array([word - 2**63 for word in [*lower, *upper]], dtype=np.int64)
