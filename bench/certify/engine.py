"""A classifier made fast for batch after batch of noise samples: batch norm folded, channels-last, bf16, and compiled;
on an accelerator run by kernels of our own, or by cuDNN's fused ones."""

from __future__ import annotations

import copy
import logging
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from traceback import clear_frames
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from bench.certify.fused import captured, with_fused_convolutions
from bench.certify.residual import in_kernels
from bench.machine.advance import advance
from bench.machine.hardware import compute_reproducibly, device_name, release_memory
from bench.machine.live_bytes import live_bytes
from bench.machine.reasons import is_out_of_memory, reason_of
from bench.models.classifier import Consensus
from bench.models.external import ModelError, alike, copied, frozen, guarded, logits_of, moved

COMPILE_FROM = 10_000
"""Samples of an image from which its classifier is compiled. A rule about n alone: were it about the number of images,
or about a measured time, the same image could get other counts in another shard."""

BATCH = {("cpu", "fp32"): 64, ("cpu", "bf16"): 256, ("cuda", "fp32"): 2048, ("cuda", "bf16"): 2048}
"""Noise samples of 3 × 32 × 32 of a forward pass, by kind of device and precision."""
LEAST = {"cpu": 64, "cuda": 256}
"""Noise samples drawn at once, however large the images are, by kind of device."""
LEAST_PASS = 8
"""Of them in a forward pass on a CPU: at 224 × 224 pixels 8 at once are faster than 64, whose tensors leave its caches
(docs/models.md)."""
ROUNDINGS = {"fp32": 1e-3, "bf16": 0.1}
"""How far a fast classifier's logits may be from the eager one's, in parts of the largest: roundings of bf16, which has
8 bits, add up over the layers."""
CHOSEN_OTHERWISE = 0.1
"""Share of the images on which roundings may decide whether a consensus asks its other members: their logits are then
others, both ways."""
REPEATED = 3
"""How often a pass is repeated to see that chance has no part in it."""
CPU_BYTES = 2 * 2**30
"""What a forward pass may make on a CPU, whose memory does not say when it is full: the machine ends the process. One
number for all machines, since roundings depend on how many images are in a pass."""

logger = logging.getLogger("bench")
Classify = Callable[[Tensor], Tensor]
"""From images (batch, …) to logits (batch, num_classes), float32."""


class Engine:
    """A model in evaluation mode on a device, in one precision; made fast where that pays. The given model is left as
    it is, unless it cannot be copied."""

    def __init__(self, model: nn.Module, device: torch.device, precision: str) -> None:
        """
        Args:
            precision: "fp32" or "bf16" (autocast: matrix products and convolutions in bf16, logits in float32).

        Raises:
            ModelError: the model cannot be put on the device.
        """
        compute_reproducibly()
        self.device = device
        self.precision = precision
        with guarded("cannot be opened"):
            self._model = moved(frozen(copied(model)), device=device)
        self._passes: int | None = None
        self._settled: str | None = None
        self._shares_compiler = False
        self._said_eager = False
        self._eager: dict[torch.Size, _Passes] = {}
        self._fast: tuple[torch.Size, _Passes, str] | None = None

    def batch(self, shape: torch.Size) -> int:
        """Noise samples that are classified together; every batch is a whole one, so that all have one shape. Larger
        images come in smaller batches, in steps and down to a least one."""
        kind = self.device.type if self.device.type in LEAST else "cpu"
        usual, least = BATCH[kind, self.precision], LEAST[kind]
        return max(least, min(usual, usual * 3072 // shape.numel()) // least * least)

    def passes(self, shape: torch.Size) -> int:
        """Images of one forward pass: as many as the model takes and memory, on a CPU also its caches, hold, at most
        `batch(shape)`. Roundings depend on it.

        Raises:
            ModelError: as `classifier`.
        """
        return self._opened(shape).size

    def limit(self, passes: int) -> None:
        """Take at most `passes` images in a forward pass from now on."""
        self._passes = passes
        if any(opened.size != passes for opened in self._eager.values()):
            self._eager, self._fast = {}, None

    def settle(self, engine: str) -> None:
        """From now on run whatever is to be fast by that ("triton", "cudnn", "inductor"), or nothing ("eager")."""
        self._settled = engine

    def share_compiler(self) -> None:
        """From now on leave what is compiled of others, for they are used by turns."""
        self._shares_compiler = True

    def classifier(self, shape: torch.Size, samples: int) -> tuple[Classify, str]:
        """The function from batches (`batch(shape)`, *shape) to float32 logits, and what runs it: "triton", "cudnn",
        "inductor" or "eager".

        Args:
            shape: of one image.
            samples: of each image; decides whether to compile.

        Raises:
            ModelError: the model does not take such images, even one by one; it gives something else than logits; or
                its answer to an image is not a function of the image; or what was settled cannot be done here.
        """
        eager = self._opened(shape)
        if samples < COMPILE_FROM:
            if not self._said_eager:
                logger.info("certifying without compilation: n = %d is below %d", samples, COMPILE_FROM)
            self._said_eager = True
            return eager, "eager"
        if self._settled == "eager":
            return eager, "eager"
        if self._fast is None or self._fast[0] != shape:
            self._fast = (shape, *self._made_fast(eager, shape))
        _, fast, engine = self._fast
        if engine != (self._settled or engine):
            raise ModelError(
                f"the model cannot be run by {self._settled} here (see the log), and other certificates of the trial "
                "are those of one that was, whose roundings differ"
            )
        return fast, engine

    def _made_fast(self, eager: _Passes, shape: torch.Size) -> tuple[_Passes, str]:
        """In the first way that works."""
        if not self._shares_compiler:
            torch.compiler.reset()  # a worker compiles one trial after another, and the compiler keeps only a few
        example = eager.laid_out(self._noise(eager.size, shape))
        ways: dict[str, Callable[[Classify, Tensor], Classify | None]] = {
            "inductor": partial(compile_frozen, precision=self.precision)
        }
        if self.device.type == "cuda":
            ways = {"triton": self._in_kernels, "cudnn": self._fused} | ways
        for engine, way in ways.items():
            if self._settled in (None, engine):
                fast = way(eager.classify, example)
                if fast is not None:
                    return replace(eager, classify=fast), engine
        return eager, "eager"

    def _in_kernels(self, classify: Classify, example: Tensor) -> Classify | None:
        """A ResNet of ours in bf16, by `bench.certify.residual`; None where that does not work."""
        if self.precision != "bf16":
            return None
        return self._captured("our kernels", lambda: in_kernels(self._model, example.shape[1:]), classify, example)

    def _fused(self, classify: Classify, example: Tensor) -> Classify | None:
        """Its convolutions fused with what follows them by cuDNN; None where that does not work."""
        assert isinstance(classify, _InPrecision)
        folded, dtype = classify.network, torch.bfloat16 if self.precision == "bf16" else torch.float32
        return self._captured("fused convolutions", lambda: with_fused_convolutions(folded, dtype), classify, example)

    def _captured(
        self, what: str, make: Callable[[], nn.Module], classify: Classify, example: Tensor
    ) -> Classify | None:
        """What is made, as one CUDA graph; None, after a message that says why, where it cannot be made."""
        try:
            with advance.without_steps("compiling"), torch.inference_mode(), torch.cuda.device_of(example):
                network = make()
                fast: Classify = _InPrecision(network, self.device.type, self.precision)
                if not isinstance(network, Consensus):  # which decides in Python how many samples its last members see
                    fast = captured(fast, example)
                _check_agreement(fast, classify, example, self.precision)
                _refuse_chance(fast, example)
        except Exception as error:  # whatever tracing, compilers or cuDNN raise, there are other ways
            logger.info("certifying without %s: %s", what, reason_of(error))
            _refuse_lost(example.device)
            release_memory()
            return None
        return fast

    def check(self, shape: torch.Size) -> None:
        """See that what was made fast still answers as it did: a graph computes with what is in memory now.

        Raises:
            ModelError: its answers are others.
        """
        if self._fast is None or self._fast[0] != shape or self._fast[2] == "eager":
            return
        eager, (_, fast, engine) = self._opened(shape), self._fast
        with torch.inference_mode():
            images = eager.laid_out(self._noise(eager.size, shape))
            try:
                _refuse_difference(fast.classify, eager.classify, images, self.precision)
            except ValueError as error:
                raise ModelError(f"the model run by {engine} no longer answers as it did: {error}") from error

    def differentiable(self, shape: torch.Size, batch: int | None = None) -> Classify:
        """As `classifier`, for batches of any length, in fp32, and with gradients for the images.

        Args:
            batch: the usual number of images, in passes of which the model is asked if it takes so few.

        Raises:
            ModelError: as `classifier`.
        """
        size, channels_last = self.passes(shape), self._opened(shape).channels_last
        whole = _Passes(_InPrecision(self._model, self.device.type, "fp32"), size, channels_last)
        few = replace(whole, size=min(size, batch or size))
        try:
            with torch.no_grad():
                few(self._noise(few.size, shape))
        except ModelError:  # it takes passes of one size only
            return whole
        return few

    def _opened(self, shape: torch.Size) -> _Passes:
        if shape not in self._eager:
            with torch.inference_mode():
                self._eager[shape] = self._prepare(shape)
        return self._eager[shape]

    def _prepare(self, shape: torch.Size) -> _Passes:
        plain = self._fitting(_InPrecision(self._model, self.device.type, "fp32"), shape)
        self._check_function(plain, shape)
        network = fold_batch_norm(self._model, plain.laid_out(self._noise(min(plain.size, 8), shape)))
        if plain.channels_last:
            with torch.inference_mode(False):  # parts of it are the model's own, through which attacks send gradients
                network = moved(network, memory_format=torch.channels_last)
        return replace(plain, classify=_InPrecision(network, self.device.type, self.precision))

    def _fitting(self, classify: Classify, shape: torch.Size) -> _Passes:
        """The model in the first passes that work, on noise."""
        first, *_ = sizes = self._sizes(classify, shape)
        layouts = (True, False) if len(shape) == 3 else (False,)  # some models take no channels-last images
        for size in sizes:
            for channels_last in layouts:
                found = _Passes(classify, size, channels_last)
                try:
                    found(self._noise(size, shape))
                except Exception as error:  # a model of any kind may fail in any way
                    failure = error
                else:
                    if size != first:
                        others = "more" if size < first else "fewer"
                        logger.info("certifying in passes of %d: the model fails on %s images at once", size, others)
                    return found
                for part in filter(None, (failure, failure.__cause__)):
                    clear_frames(part.__traceback__)  # which hold what the pass had computed
                if full := is_out_of_memory(failure.__cause__ or failure):
                    release_memory()
            if size == 1:
                alone = failure
                if full:
                    break
        raise ModelError(_cannot_take(shape, alone)) from alone

    def _sizes(self, classify: Classify, shape: torch.Size) -> list[int]:
        """Of passes, as they are tried: as large as can be afforded, then smaller, down to one image; where no size was
        given, then larger ones, for a model that takes no fewer images."""
        most = self.batch(shape)
        first = min(self._passes or max(self._affordable(classify, shape), _own_batch(self._model)), most)
        smaller = [1 << power for power in reversed(range((first - 1).bit_length()))]
        larger = [1 << power for power in range(first.bit_length(), most.bit_length())]
        return [first, *smaller, *(larger if self._passes is None else [])]

    def _affordable(self, classify: Classify, shape: torch.Size) -> int:
        """Images of a pass for which caches and memory suffice, as far as it can be told: an accelerator says itself
        when its memory does not."""
        most = self.batch(shape)
        if self.device.type != "cpu":
            return most
        cached = max(LEAST_PASS, BATCH["cpu", self.precision] * 3072 // shape.numel())
        if cached < most:
            most = 1 << (cached.bit_length() - 1)
        try:
            one, two = (live_bytes(classify, self._noise(count, shape)) for count in (1, 2))
        except Exception:  # a model of any kind may fail in any way, and will say so itself
            return most
        each = max(two - one, 1)
        fits = max(1, (CPU_BYTES - (one - each)) // each)
        if fits >= most:
            return most
        size = 1 << (fits.bit_length() - 1)
        logger.info(
            "certifying in passes of %d: an image takes %.0f MiB of memory, a pass at most %.0f GiB",
            size,
            each / 2**20,
            CPU_BYTES / 2**30,
        )
        return size

    def _check_function(self, plain: _Passes, shape: torch.Size) -> None:
        """Certificates are about a function of the image: the same images must have the same answers up to rounding
        again, and in another order among others.

        Raises:
            ModelError: they have not.
        """
        try:
            few = replace(plain, size=min(plain.size, 16))
            first = few(self._noise(few.size, shape))
        except ModelError:  # it takes passes of one size only
            few = plain
            first = few(self._noise(few.size, shape))
        images = self._noise(few.size, shape)
        if not alike(few(images), first, ROUNDINGS["fp32"]).all():
            raise ModelError("the model answers the same images differently each time: is dropout left on?")
        others = images.flip(0).clone()
        others[::2] = torch.ones_like(others[::2])
        if not alike(few(others)[1::2], first.flip(0)[1::2], ROUNDINGS["fp32"]).all():
            raise ModelError(
                "the model's answer to an image depends on the other images of the batch: does it normalise by the "
                "batch, without running statistics?"
            )

    def _noise(self, count: int, shape: torch.Size) -> Tensor:
        """Noise, not images: which image comes first must not matter."""
        return torch.rand((count, *shape), generator=torch.Generator().manual_seed(0)).to(self.device)


@dataclass(frozen=True)
class _Passes:
    """A classifier of batches of any length, in forward passes of one size; the last is filled up."""

    classify: Classify
    size: int
    channels_last: bool

    def __call__(self, images: Tensor) -> Tensor:
        # On the images' own device, which need not be the current one: kernels and graphs are launched on that.
        with guarded("failed"), torch.cuda.device_of(images):
            if len(images) == self.size:
                advance.steps += 1
                return self.classify(self.laid_out(images))
            parts = []
            for part in images.split(self.size):
                advance.steps += 1
                filled = torch.cat([part, part[-1:].expand(self.size - len(part), *part.shape[1:])])
                # A compiled model writes its next answers over these.
                parts.append(self.classify(self.laid_out(filled))[: len(part)].clone())
            return torch.cat(parts)

    def laid_out(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)


class _InPrecision(nn.Module):
    def __init__(self, network: nn.Module, device: str, precision: str) -> None:
        super().__init__()
        self.network = network
        self.device = device
        self.low = precision == "bf16"

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(self.device, torch.bfloat16, enabled=self.low):
            answers = self.network(images)
        logits = logits_of(answers).float()
        if logits.ndim != 2 or len(logits) != len(images):
            raise ModelError(f"the model gave {tuple(logits.shape)} for {len(images)} images, expected logits")
        return logits


def _own_batch(model: nn.Module) -> int:
    """Images that it computes with however few it is given; 1 for most models."""
    return max((getattr(module, "fixed_batch", None) or 1 for module in model.modules()), default=1)


def _cannot_take(shape: torch.Size, failure: Exception) -> str:
    if isinstance(failure, ModelError) and failure.__cause__ is None:
        return str(failure)
    reason = reason_of(failure.__cause__ or failure)
    return (
        f"the model cannot take images {tuple(shape)}, not even one by one: {reason}; if it takes batches of one size "
        "only, give --batch"
    )


def fold_batch_norm(model: nn.Module, example: Tensor) -> nn.Module:
    """The model with every batch norm that follows a convolution folded into it, where torch.fx can follow the model.

    The model itself comes back where it has nothing to fold, or where folding would change its outputs on the example
    by more than rounding: tracing fixes whatever a forward pass decides in Python.
    """
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        return model
    folded = _fold(model)
    try:
        expected, found = logits_of(model(example)), logits_of(folded(example))
        same = bool(alike(found, expected, ROUNDINGS["fp32"]).all())
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


def compile_frozen(classify: Classify, example: Tensor, precision: str) -> Classify | None:
    """`classify` compiled by inductor with its weights frozen, for inputs of exactly the example's shape; on CUDA as a
    CUDA graph. Inductor keeps what it compiled on disk, so the second process is faster.

    Returns:
        None, after one message that says why, where compiling does not work; for example without a C++ compiler.
    """
    from torch._inductor import config as inductor  # takes a second to import
    from torch.compiler import config as compiler

    if not compiler.cache_key_tag:
        # What is kept on disk is code for some instructions, which inductor's own key does not say, and other machines
        # may find it there. For the whole process: a call under another tag would compile again.
        compiler.cache_key_tag = f"{device_name(torch.device('cpu'))}, {torch.backends.cpu.get_cpu_capability()}"
    if example.device.type == "cpu":
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it misses CUDA
    options: dict[str, Any] = {"freezing": True, "triton.cudagraphs": example.device.type == "cuda"}
    if hasattr(inductor, "deterministic"):  # not in the oldest torch that will do
        options["deterministic"] = True  # no choice between kernels by how fast they happen to be
    fast: Callable[[Tensor], Tensor] = torch.compile(classify, dynamic=False, options=options)
    started = time.perf_counter()
    try:
        with advance.without_steps("compiling"), torch.inference_mode(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "TensorFloat32")  # inductor's advice to round more: fp32 is fp32
            # With an example made where batches are made: a tensor of another kind would be compiled for again.
            _check_agreement(fast, classify, example.clone(), precision)
    except Exception as error:  # whatever the compiler raises, the eager classifier is as good
        logger.warning("certifying without compilation, which failed: %s", reason_of(error))
        _refuse_lost(example.device)
        return None
    logger.info("compiled the classifier in %.0f s", time.perf_counter() - started)
    return fast


def _check_agreement(fast: Classify, slow: Classify, example: Tensor, precision: str) -> None:
    """Three calls, for a CUDA graph is recorded in the second and replayed in the third.

    Raises:
        ValueError: the logits differ by more than roundings do.
    """
    for images in (example, 1 - example, torch.empty_like(example).copy_(example.flip(0))):
        _refuse_difference(fast, slow, images, precision)


def _refuse_lost(device: torch.device) -> None:
    """Raise what an accelerator that has failed says to whatever is asked next: no other way works on it either, and
    none may be settled for whoever certifies on another."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _refuse_chance(fast: Classify, images: Tensor) -> None:
    """Raise ValueError where the same images get other logits again: cuDNN's fused convolutions do not heed that
    deterministic algorithms are wanted."""
    first = fast(images).clone()
    if not all(torch.equal(fast(images), first) for _ in range(REPEATED)):
        raise ValueError("it gives other logits each time")


def _refuse_difference(fast: Classify, slow: Classify, images: Tensor, precision: str) -> None:
    """Raise ValueError where logits differ by more than roundings do."""
    with torch.cuda.device_of(images):
        found, expected = fast(images), slow(images)
    near = alike(found, expected, ROUNDINGS[precision])
    chooses = isinstance(slow, nn.Module) and any(isinstance(part, Consensus) for part in slow.modules())
    if float((~near).float().mean()) > (CHOSEN_OTHERWISE if chooses else 0):
        finite = found.isfinite() & expected.isfinite()
        furthest = float((found - expected).abs()[finite].max()) if finite.any() else math.inf
        raise ValueError(
            f"logits of {int((~near).sum())} of {len(near)} images differ from eager ones, by {furthest:.3g}"
        )
