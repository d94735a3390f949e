"""Contestants on one machine in one run: rounds in which each runs once, medians, and the roof that none can pass."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.machine.hardware import device_name

logger = logging.getLogger("bench")

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

Timed = tuple[Callable[[], object], float]
"""A piece of work, and how many images it passes."""
SHORTEST = 0.05
"""Seconds of a timing; shorter work is repeated."""


def medians(contestants: dict[str, Timed], rounds: int, device: torch.device) -> dict[str, float]:
    """Images per second of each; the first round warms up and counts for nothing."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    repeats = dict.fromkeys(contestants, 1)
    started = time.monotonic()
    for number in range(rounds + 1):
        if number == 1:
            warm = time.monotonic() - started
            logger.info("warmed up in %.0f s; rounds that follow, each about as long: %d", warm, rounds)
        for name, (work, _) in contestants.items():
            spent = _seconds(work, repeats[name], device)
            if not number:  # the first round warms up: compiled code is loaded, algorithms are chosen
                continue
            while spent < SHORTEST:
                repeats[name] = math.ceil(repeats[name] * min(100.0, 1.2 * SHORTEST / spent))
                spent = _seconds(work, repeats[name], device)
            seconds[name].append(spent / repeats[name])
    return {name: samples / median(seconds[name]) for name, (_, samples) in contestants.items()}


def conditions(device: torch.device, rounds: int) -> dict[str, Any]:
    """What the rates of a contest hold for."""
    threads = torch.get_num_threads()
    return {"device": device_name(device), "threads": threads, "torch": torch.__version__, "rounds": rounds}


def _seconds(work: Callable[[], object], repeats: int, device: torch.device) -> float:
    wait: Callable[[], object] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    wait()
    return time.perf_counter() - started


def forward_flops(model: nn.Module, image: Tensor) -> float:
    """Floating-point operations of one forward pass of one image, a multiplication and an addition being two."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(image[None])
    return float(counter.get_total_flops())


def matrix_products(flops: float, kind: torch.dtype, device: torch.device) -> Timed:
    """Large matrix products, counted as the images that take as many operations: the roof, measured and not quoted."""
    size, repeats = (8192, 8) if device.type == "cuda" else (2048, 8)
    matrix = torch.randn(size, size, device=device, dtype=kind)

    def work() -> None:
        for _ in range(repeats):
            matrix @ matrix  # the time is what counts

    return work, repeats * 2 * size**3 / flops


def layers_of(model: nn.Module, image: Tensor) -> list[tuple[nn.Conv2d, torch.Size]]:
    """Every convolution as often as a pass takes it, with the shape of what it is given, without the batch."""
    layers: list[tuple[nn.Conv2d, torch.Size]] = []
    hooks = [
        module.register_forward_hook(lambda layer, inputs, _: layers.append((layer, inputs[0].shape[1:])))
        for module in model.modules()
        if isinstance(module, nn.Conv2d)
    ]
    with torch.inference_mode():
        model(image[None].to(next(model.parameters()).device))
    for hook in hooks:
        hook.remove()
    return layers
