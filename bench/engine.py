"""A classifier made fast for batch after batch of noisy copies: batch norm folded, channels-last, bf16, compiled."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from bench.hardware import compute_reproducibly
from bench.noise import block_size

COMPILE_FROM = 10_000
"""Copies of an image from which its classifier is compiled. A rule about n alone: were it about the number of images,
or about a measured time, the same image could get other counts in another shard."""

BATCH = {("cpu", "fp32"): 64, ("cpu", "bf16"): 256, ("cuda", "fp32"): 2048, ("cuda", "bf16"): 2048}
"""Noisy copies of 3 × 32 × 32 of a forward pass, by kind of device and precision."""

logger = logging.getLogger("bench")


class Engine:
    """A model in evaluation mode on a device, in one precision; compiled where that pays. The given model is left as
    it is."""

    def __init__(self, model: nn.Module, device: torch.device, precision: str) -> None:
        """precision: "fp32" or "bf16" (autocast: matrix products and convolutions in bf16, logits in float32)."""
        compute_reproducibly()
        self.device = device
        self.precision = precision
        self._model = copy.deepcopy(model).to(device).eval().requires_grad_(False)
        self._said_eager = False
        self._eager: dict[torch.Size, Callable[[Tensor], Tensor]] = {}
        self._compiled: tuple[torch.Size, Callable[[Tensor], Tensor] | None] | None = None

    def batch(self, shape: torch.Size) -> int:
        """Noisy copies of a forward pass; every pass is a whole batch, so that all have one shape. Larger images come
        in smaller batches, down to one block of noise."""
        usual = BATCH.get((self.device.type, self.precision), BATCH["cpu", self.precision])
        block = block_size(self.device)
        return max(block, min(usual, usual * 3072 // shape.numel()) // block * block)

    def classifier(self, shape: torch.Size, copies: int) -> tuple[Callable[[Tensor], Tensor], str]:
        """The function from batches (`batch(shape)`, *shape) to float32 logits, and "inductor" or "eager".

        Args:
            shape: of one image.
            copies: of each image; decides whether to compile.
        """
        if shape not in self._eager:
            self._eager[shape] = self._prepare(shape)
        eager = self._eager[shape]
        if copies < COMPILE_FROM:
            if not self._said_eager:
                logger.info("certifying without compilation: n = %d is below %d", copies, COMPILE_FROM)
            self._said_eager = True
            return eager, "eager"
        if self._compiled is None or self._compiled[0] != shape:
            torch.compiler.reset()  # a worker compiles one trial after another, and the compiler keeps only a few
            self._compiled = (shape, compile_frozen(eager, self._example(shape)))
        fast = self._compiled[1]
        return (eager, "eager") if fast is None else (fast, "inductor")

    def _prepare(self, shape: torch.Size) -> nn.Module:
        with torch.inference_mode():
            network = fold_batch_norm(self._model, self._example(shape)[:8])
        if len(shape) == 3:
            network = network.to(memory_format=torch.channels_last)
        return _InPrecision(network, self.device.type, self.precision)

    def _example(self, shape: torch.Size) -> Tensor:
        """Noise, not an image: which image comes first must not matter."""
        noise = torch.rand((self.batch(shape), *shape), generator=torch.Generator().manual_seed(0)).to(self.device)
        return noise.contiguous(memory_format=torch.channels_last) if noise.ndim == 4 else noise


class _InPrecision(nn.Module):
    def __init__(self, network: nn.Module, device: str, precision: str) -> None:
        super().__init__()
        self.network = network
        self.device = device
        self.low = precision == "bf16"

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(self.device, torch.bfloat16, enabled=self.low):
            logits = self.network(images)
        if not isinstance(logits, Tensor):
            raise ValueError(f"the model gave a {type(logits).__name__}, expected a tensor of logits")
        return logits.float()


def fold_batch_norm(model: nn.Module, example: Tensor) -> nn.Module:
    """The model with every batch norm that follows a convolution folded into it, where torch.fx can follow the model.

    The model itself comes back where it has nothing to fold, or where folding would change its outputs on the example
    by more than rounding: tracing fixes whatever a forward pass decides in Python.
    """
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        return model
    folded = _fold(model)
    try:
        expected, found = model(example), folded(example)
        same = torch.allclose(found, expected, rtol=0, atol=1e-3 * float(expected.abs().max()))
    except Exception:  # a model of any kind may fail in any way; unfolded, it will say so itself
        same = False
    return folded if same else model


def _fold(model: nn.Module) -> nn.Module:
    try:
        return fuse(model)
    except Exception:  # not traceable as a whole: its parts may be
        parts = copy.copy(model)
        parts._modules = {name: part and _fold(part) for name, part in model._modules.items()}
        return parts


def compile_frozen(classify: Callable[[Tensor], Tensor], example: Tensor) -> Callable[[Tensor], Tensor] | None:
    """`classify` compiled by inductor with its weights frozen, for inputs of exactly the example's shape; on CUDA as a
    CUDA graph. Inductor keeps what it compiled on disk, so the second process is faster.

    Returns:
        None, after one message that says why, where compiling does not work; for example without a C++ compiler.
    """
    from torch._inductor import config as inductor  # takes a second to import

    if example.device.type == "cpu":
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it misses CUDA
    options: dict[str, Any] = {"freezing": True, "triton.cudagraphs": example.device.type == "cuda"}
    if hasattr(inductor, "deterministic"):  # not in the oldest torch that will do
        options["deterministic"] = True  # no choice between kernels by how fast they happen to be
    fast: Callable[[Tensor], Tensor] = torch.compile(classify, dynamic=False, options=options)
    started = time.perf_counter()
    try:
        with torch.inference_mode():
            fast(example)
    except Exception as error:  # whatever the compiler raises, the eager classifier is as good
        message = str(error).strip().splitlines() or [type(error).__name__]
        logger.warning("certifying without compilation, which failed: %s", message[0])
        return None
    logger.info("compiled the classifier in %.0f s", time.perf_counter() - started)
    return fast
