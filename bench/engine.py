"""A classifier made fast for one block of noisy copies after another: folded, channels-last, in bf16, compiled."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def inference_copy(model: nn.Module, device: torch.device) -> nn.Module:
    """A copy in evaluation mode on the device, channels-last, with batch norm folded into the convolution before it
    wherever the two stand side by side in an nn.Sequential; the model itself is left as it is."""
    frozen = copy.deepcopy(model).to(device).eval().requires_grad_(False)
    for module in list(frozen.modules()):
        if isinstance(module, nn.Sequential):
            _fold(module)
    return frozen.to(memory_format=torch.channels_last)


def _fold(layers: nn.Sequential) -> None:
    for position in range(len(layers) - 1):
        first, second = layers[position], layers[position + 1]
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d) and second.track_running_stats:
            layers[position] = fuse_conv_bn_eval(first, second)
            layers[position + 1] = nn.Identity()


def compiled(classify: Callable[[Tensor], Tensor], example: Tensor) -> Callable[[Tensor], Tensor] | None:
    """`classify` compiled by inductor with its weights frozen, for inputs of exactly the example's shape.

    Returns:
        None, after one warning that says why, where compiling does not work; for example without a C++ compiler.
    """
    torch.compiler.reset()  # a worker compiles one trial after another, and the compiler keeps only a few
    fast: Callable[[Tensor], Tensor] = torch.compile(classify, dynamic=False, options={"freezing": True})
    try:
        fast(example)
    except Exception as error:  # whatever the compiler raises, the eager classifier is as good
        warnings.warn(f"certifying without compilation: {str(error).strip().splitlines()[0]}", stacklevel=2)
        return None
    return fast
