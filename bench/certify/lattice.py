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


class LatticeSamples:
    """Draws Q(x) + Q(ε), ε ~ N(0, σ²I), Q rounding to the lattice: sums of integers, then one multiplication by h.

    What the network is given is a function of these integers alone. Noise depends on (seed, role, index), the number
    of the sample and the pixel, and is drawn on the CPU, so that it is the same on every device.
    """

    def __init__(self, sigma: float, device: torch.device) -> None:
        self.sigma = sigma
        self.device = device
        self._thresholds = torch.from_numpy(thresholds(sigma))
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
            steps = torch.searchsorted(self._thresholds, signed(np.ascontiguousarray(drawn)), right=True) - self._most
            noisy = ((place.flatten() + steps).float() * H).view(batch, *place.shape)
            layout = torch.channels_last if image.ndim == 3 else torch.contiguous_format
            yield noisy.to(self.device).contiguous(memory_format=layout)

    def itself(self, image: Tensor) -> Tensor:
        """Q(x), float32: the image without noise, as the classifier would see it."""
        return (on_lattice(image.cpu()).float() * H).to(self.device)


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
