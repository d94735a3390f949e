"""What the machine computes with."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import platform
from itertools import takewhile
from pathlib import Path
from typing import Literal

import torch

from results.store.settings import Precision

PROCESSORS = Path("/proc/cpuinfo")


def resolve_precision(precision: Precision, device: torch.device) -> Literal["fp32", "bf16"]:
    """ "bf16" or "fp32": `precision`, or for "auto" what the device computes fast in."""
    if precision != "auto":
        return precision
    return "bf16" if has_fast_bf16(device) else "fp32"


def compute_reproducibly() -> None:
    """Have cuDNN choose algorithms that give the same bits each time, and keep fp32 from becoming TF32 on the way."""
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device has bf16 matrix units."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # Emulated bf16 is slower than fp32, and torch says which CPUs have it only through these two names.
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def device_name(device: torch.device) -> str:
    """The accelerator's or processor's own name; of a processor that has none, as ARM's, what tells it from others."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    said: dict[str, str] = {}
    with contextlib.suppress(OSError), PROCESSORS.open(encoding="utf-8") as lines:
        for line in takewhile(str.strip, lines):  # of the first of them
            key, _, value = line.partition(":")
            said[key.strip()] = value.strip()
    if "model name" in said:
        return said["model name"]
    numbers = [f"{key[4:]} {said[key]}" for key in ("CPU implementer", "CPU part") if key in said]
    return ", ".join([f"{platform.machine()} CPU", *numbers]) if numbers else "CPU"


def release_memory() -> None:
    """Give back what this process keeps of memory and does not use: on an accelerator to the others that share it."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def restart_peak_memory(device: torch.device) -> None:
    """Forget the peak so far, so that the next trial of this process is measured by itself."""
    release_memory()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):  # a kernel that does not let us: the peak then covers earlier trials too
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory of this process since `restart_peak_memory`: allocated on the accelerator, or resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024


def reserved_bytes(device: torch.device) -> int | None:
    """Peak of what torch took of the accelerator since `restart_peak_memory`, its cache included; None on CPUs."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None


def memory_kind(device: torch.device) -> Literal["accelerator", "resident"]:
    """Whose memory `peak_memory_bytes` is."""
    return "accelerator" if device.type == "cuda" else "resident"
