"""The CIFAR ResNet in evaluation mode as four kernels in Triton: the stem, and a kernel for each of the three stages.

A program of a stage owns images, and takes them through all of the stage's convolutions: what one writes the next one
finds in the caches of the same multiprocessor, and the device's memory sees a stage's input and output alone. Features
are (image, height, width, channel) with a border of zeros one pixel wide, so that no tap of a 3×3 convolution needs to
look whether it is inside.

On an H100 the 9 taps as one pipelined loop were faster than unrolled (638 000 images a second through the first stage
of a ResNet-110, against 613 000) and than three neighbouring taps as one product (504 000); with bounds checked
instead of the border 605 000.
"""

import torch
import triton
import triton.language as tl

PIXELS = {16: 256, 32: 256, 64: 128, 128: 64}
"""Of a matrix product, by channels: what a multiprocessor's registers and shared memory hold."""
STEM_PIXELS = 256
WARPS = 4
OPTIONS = {"enable_fp_fusion": False}
"""Of Triton's compiler; its default differs from version to version."""
PIPELINED = 3
"""Taps on their way into shared memory at once."""
PROGRAMS_PER_PROCESSOR = 4


def images_of_a_program(channels: int, side: int) -> int:
    """So many that a whole number of matrix products takes them; 0 where there is no such number.

    Args:
        channels: of a stage.
        side: of its square features, in pixels.
    """
    pixels = PIXELS.get(channels, 0)
    if pixels and side * side % pixels == 0:
        return 1
    return pixels // (side * side) if pixels % (side * side) == 0 else 0


def stem(
    images: torch.Tensor,
    mean: torch.Tensor,
    std: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    features: torch.Tensor,
) -> None:
    """relu(convolution of (images − mean) / std), with zeros around it.

    Args:
        images: (batch, channels, side, side), float32, with any strides.
        mean, std: (channels,).
        weight: (K, width), rows in the order (tap, channel) and then zeros; bias: (width,), float32.
        features: (batch, side + 2, side + 2, width), written but for its border.
    """
    batch, channels, side, _ = images.shape
    pixels = batch * side * side
    _stem_kernel[(triton.cdiv(pixels, STEM_PIXELS),)](
        images,
        mean,
        std,
        weight,
        bias,
        features,
        pixels,
        *images.stride(),
        side=side,
        channels=channels,
        width=features.shape[3],
        rows=len(weight),
        block=STEM_PIXELS,
        num_warps=WARPS,
        **OPTIONS,
    )


def stage(
    before: torch.Tensor | None,
    features: torch.Tensor,
    inside: torch.Tensor,
    first: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
) -> None:
    """All blocks of a stage, one after the other: features <- relu(second(relu(first(features))) + features).

    Args:
        before: where the stage begins with a block of stride 2, the features of the stage before it, (batch,
            2 side + 2, 2 side + 2, width / 2); otherwise `features` are the stage's input.
        features: (batch, side + 2, side + 2, width), written but for its border; the batch is a multiple of
            `images_of_a_program`.
        inside: of the same shape, with a border of zeros: for what is inside a block.
        first: the weight of the block of stride 2: (10, width / 2, width), its shortcut behind the nine taps.
        weight: (convolutions, 9, width, width), [tap, in, out]; with a block of stride 2 its second one comes first.
        bias: (convolutions, width), float32; with a block of stride 2 its first one comes before, and the shortcut's is
            added to the second's.
    """
    batch, whole, _, width = features.shape
    side = whole - 2
    images = images_of_a_program(width, side)
    processors = torch.cuda.get_device_properties(features.device).multi_processor_count if features.is_cuda else 1
    tiles = batch // images
    _stage_kernel[(min(tiles, PROGRAMS_PER_PROCESSOR * processors),)](
        features if before is None else before,
        features,
        inside,
        first,
        weight,
        bias,
        tiles,
        len(weight),
        has_before=int(before is not None),
        side=side,
        width=width,
        images=images,
        block=PIXELS[width],
        pipelined=PIPELINED,
        num_warps=WARPS,
        num_stages=PIPELINED,
        **OPTIONS,
    )


@triton.jit
def _stem_kernel(
    images,
    mean,
    std,
    weight,
    bias,
    features,
    pixels,
    stride_image,
    stride_channel,
    stride_row,
    stride_column,
    side: tl.constexpr,
    channels: tl.constexpr,
    width: tl.constexpr,
    rows: tl.constexpr,
    block: tl.constexpr,
):
    pixel = tl.program_id(0) * block + tl.arange(0, block)
    image, y, x = pixel // (side * side), pixel // side % side, pixel % side
    row, channel = tl.arange(0, rows), tl.arange(0, width)
    tap, colour = row // channels, row % channels
    from_y, from_x = y[:, None] + (tap // 3 - 1)[None, :], x[:, None] + (tap % 3 - 1)[None, :]
    inside = (pixel < pixels)[:, None] & (tap < 9)[None, :]
    inside &= (from_y >= 0) & (from_y < side) & (from_x >= 0) & (from_x < side)
    place = image[:, None] * stride_image + from_y * stride_row + from_x * stride_column
    value = tl.load(images + place + colour[None, :] * stride_channel, mask=inside, other=0.0)
    value = (value - tl.load(mean + colour)[None, :]) / tl.load(std + colour)[None, :]
    value = tl.where(inside, value, 0.0).to(features.dtype.element_ty)
    found = tl.dot(value, tl.load(weight + row[:, None] * width + channel[None, :]))
    found = tl.maximum(found + tl.load(bias + channel)[None, :], 0.0)
    where = (image * (side + 2) + y + 1) * (side + 2) + x + 1
    tl.store(
        features + where[:, None] * width + channel[None, :],
        found.to(features.dtype.element_ty),
        mask=(pixel < pixels)[:, None],
    )


@triton.jit
def _stage_kernel(
    before,
    features,
    inside,
    first,
    weight,
    bias,
    tiles,
    convolutions,
    has_before: tl.constexpr,
    side: tl.constexpr,
    width: tl.constexpr,
    images: tl.constexpr,
    block: tl.constexpr,
    pipelined: tl.constexpr,
):
    whole: tl.constexpr = side + 2
    earlier: tl.constexpr = width // 2
    channel, half = tl.arange(0, width), tl.arange(0, earlier)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        if has_before:
            for begin in range(0, images * side * side, block):
                image, y, x = _places(tile, begin, side, images, block)
                there = (image * (2 * side + 2) + 2 * y + 1) * (2 * side + 2) + 2 * x + 1
                source = before + there[:, None] * earlier + half[None, :]
                kernel = first + half[:, None] * width + channel[None, :]
                total = _taps(source, kernel, earlier, width, 2 * side + 2, block, pipelined)
                total = tl.maximum(total + tl.load(bias + channel)[None, :], 0.0)
                here = ((image * whole + y + 1) * whole + x + 1)[:, None] * width + channel[None, :]
                tl.store(inside + here, total.to(features.dtype.element_ty))
        for number in range(convolutions):
            second = (number + has_before) % 2  # of its block
            tl.debug_barrier()
            for begin in range(0, images * side * side, block):
                image, y, x = _places(tile, begin, side, images, block)
                here = ((image * whole + y + 1) * whole + x + 1)[:, None] * width + channel[None, :]
                source = (inside if second else features) + here
                kernel = weight + number * (9 * width * width) + channel[:, None] * width + channel[None, :]
                total = _taps(source, kernel, width, width, whole, block, pipelined)
                total += tl.load(bias + (number + has_before) * width + channel)[None, :]
                if has_before and number == 0:
                    there = (image * (2 * side + 2) + 2 * y + 1) * (2 * side + 2) + 2 * x + 1
                    shortcut = tl.load(first + 9 * earlier * width + half[:, None] * width + channel[None, :])
                    total = tl.dot(tl.load(before + there[:, None] * earlier + half[None, :]), shortcut, total)
                elif second:
                    total += tl.load(features + here).to(tl.float32)
                tl.store((features if second else inside) + here, tl.maximum(total, 0.0).to(features.dtype.element_ty))


@triton.jit
def _places(tile, begin, side: tl.constexpr, images: tl.constexpr, block: tl.constexpr):
    """Image, row and column of a product's pixels."""
    pixel = begin + tl.arange(0, block)
    return tile * images + pixel // (side * side), pixel // side % side, pixel % side


@triton.jit
def _taps(
    source,
    kernel,
    rows: tl.constexpr,
    width: tl.constexpr,
    line: tl.constexpr,
    block: tl.constexpr,
    pipelined: tl.constexpr,
):
    """The sum over the nine taps, (block, width), of the features around `source`, in lines of `line` pixels."""
    total = tl.zeros((block, width), tl.float32)
    for tap in tl.range(9, num_stages=pipelined):
        taken = tl.load(source + ((tap // 3 - 1) * line + tap % 3 - 1) * rows)
        total = tl.dot(taken, tl.load(kernel + tap * (rows * width)), total)
    return total
