"""`bench.machine.normals` as a kernel in Triton: Philox, the transform of Box and Muller, centre and σ in one pass.

It does in registers what `fill_by_cpu` does, operation by operation. None may be contracted or approximated: hence
`OPTIONS`, `div_rn` and `sqrt_rn`.
"""

from contextlib import nullcontext

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray

from bench.machine import normals

BLOCKS = 128
"""Blocks of Philox of one program."""
OPTIONS = {"enable_fp_fusion": False}
"""Of Triton's compiler."""

_L0, _L1, _L2, _L3, _L4 = map(tl.constexpr, normals.LOGARITHM)
_S0, _S1, _S2, _S3 = map(tl.constexpr, normals.SINE)
_C0, _C1, _C2, _C3 = map(tl.constexpr, normals.COSINE)
_TWO_LN_2 = tl.constexpr(normals.TWO_LN_2)
_ANGLE = tl.constexpr(2.0**-21)
_LAST_ANGLE = tl.constexpr(1 - 2.0**-22)
_SIGN = tl.constexpr(-(1 << 31))
_MULTIPLIER0 = tl.constexpr(0xD2E7470EE14C6C93)
_MULTIPLIER1 = tl.constexpr(0xCA5A826395121157)
_WEYL0 = tl.constexpr(0x9E3779B97F4A7C15)
_WEYL1 = tl.constexpr(0xBB67AE8584CAA73B)


def fill(out: torch.Tensor, key: NDArray[np.uint64], first: int, centre: torch.Tensor | None, sigma: float) -> None:
    """out[i, p] = centre[p] + σ z(first + i, p); without a centre σ is 1.

    Args:
        out: (count, numbers), float32, contiguous, on an accelerator.
        centre: (numbers,), float32, contiguous, on the same.
    """
    count, numbers = out.shape
    blocks = normals.words_of_sample(numbers) // normals.WORDS
    grid = (triton.cdiv(count * blocks, BLOCKS),)
    with torch.cuda.device(out.device) if out.is_cuda else nullcontext():  # Triton's interpreter takes tensors of a CPU
        fill_kernel[grid](
            out,
            out if centre is None else centre,
            int(key[0]),
            int(key[1]),
            first * blocks,
            sigma,
            count * blocks,
            numbers,
            blocks,
            has_centre=centre is not None,
            size=BLOCKS,
            **OPTIONS,
        )


@triton.jit(do_not_specialize=["key0", "key1", "first", "total", "numbers", "blocks"])  # compiled once for all images
def fill_kernel(
    out,
    centre,
    key0: tl.uint64,
    key1: tl.uint64,
    first: tl.uint64,
    sigma: tl.float32,
    total: tl.uint64,
    numbers,
    blocks,
    has_centre: tl.constexpr,
    size: tl.constexpr,
):
    """Blocks `first` to `first + total` of a stream, `blocks` of a sample."""
    begin = tl.program_id(0).to(tl.uint64) * size
    counter = first.to(tl.uint64) + begin + tl.arange(0, size)
    words = _philox(counter, key0.to(tl.uint64), key1.to(tl.uint64))
    place = begin * 4 + tl.arange(0, 4 * size)
    half = tl.cast(blocks, tl.uint64) * 4
    sample, pixel = place // half, place % half
    one, other = _box_muller(words)
    _store(out, centre, sigma, one, sample, pixel, (place < total * 4) & (pixel < numbers), numbers, has_centre)
    pixel += half
    _store(out, centre, sigma, other, sample, pixel, (place < total * 4) & (pixel < numbers), numbers, has_centre)


@triton.jit
def _store(out, centre, sigma, drawn, sample, pixel, inside, numbers, has_centre: tl.constexpr):
    if has_centre:
        drawn = drawn * sigma + tl.load(centre + pixel, mask=inside, other=0.0)
    tl.store(out + sample * numbers + pixel, drawn, mask=inside)


@triton.jit
def _philox(counter, key0, key1):
    """The words of the blocks with these counters, (4 · size,)."""
    a, b, c, d = counter, counter * 0, counter * 0, counter * 0
    for _ in tl.static_range(10):
        high_a, low_a = tl.umulhi(a, _MULTIPLIER0), a * _MULTIPLIER0
        high_c, low_c = tl.umulhi(c, _MULTIPLIER1), c * _MULTIPLIER1
        a, b, c, d = high_c ^ b ^ key0, low_c, high_a ^ d ^ key1, low_a
        key0 += _WEYL0
        key1 += _WEYL1
    return tl.interleave(tl.interleave(a, c), tl.interleave(b, d))


@triton.jit
def _box_muller(words):
    """As `bench.machine.normals.box_muller`."""
    scaled = ((words >> 23) | 1).to(tl.float32).to(tl.int32, bitcast=True)
    halvings = (167 - (scaled >> 23)).to(tl.float32)
    m = ((scaled & 0x7FFFFF) | 0x3F800000).to(tl.float32, bitcast=True)
    s = tl.div_rn(2 - m, m + 2)
    square = s * s
    logarithm = (_cubic(square, _L1, _L2, _L3, _L4) * square + _L0) * s
    radius = tl.sqrt_rn(logarithm + halvings * _TWO_LN_2)
    low = (words & 0xFFFFFF).to(tl.int32)
    t = (low & 0x3FFFFF).to(tl.float32) * _ANGLE - _LAST_ANGLE
    square = t * t
    one = _cubic(square, _C0, _C1, _C2, _C3).to(tl.int32, bitcast=True) ^ ((low << 8) & _SIGN)
    other = (_cubic(square, _S0, _S1, _S2, _S3) * t).to(tl.int32, bitcast=True)
    changed = ((low << 9) >> 31) & (one ^ other)
    one, other = (one ^ changed).to(tl.float32, bitcast=True), (other ^ changed).to(tl.float32, bitcast=True)
    return one * radius, other * radius


@triton.jit
def _cubic(x, a, b, c, d):
    """a + b x + c x² + d x³ by Horner's scheme."""
    return ((x * d + c) * x + b) * x + a
