"""What NVIDIA's driver says of itself and of a device, through NVML. torch is imported by who has a device only."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

MASK = "CUDA_VISIBLE_DEVICES"
Answer = TypeVar("Answer")


def identity_of(device: torch.device) -> str:
    """The device's UUID; empty where it is not NVIDIA's."""
    if device.type != "cuda":
        return ""
    import torch

    return str(torch.cuda.get_device_properties(device).uuid)


def ask_driver(identity: str, question: Callable[[Any, Any], Answer]) -> Answer | None:
    """The answer about the device of that UUID; None where there is none.

    Args:
        question: is given the module pynvml and the device's handle.
    """
    if not identity:
        return None
    try:
        import pynvml
    except ImportError:  # without the package nvidia-ml-py everything else works
        return None
    try:
        pynvml.nvmlInit()
        return question(pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{identity.removeprefix('GPU-')}"))
    except pynvml.NVMLError:  # no driver, or one that does not tell
        return None


def driver_bytes(device: torch.device) -> int | None:
    """The device's memory that the driver counts of this process now, context and libraries included; None where it
    does not know the process by the number that it has here, as in many containers."""

    def used(nvml: Any, handle: Any) -> int | None:
        processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        return next((each.usedGpuMemory for each in processes if each.pid == os.getpid()), None)

    return ask_driver(identity_of(device), used)


def driver_version() -> str:
    """Of the NVIDIA driver, as NVML or the kernel tells it; empty where there is none."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except Exception:  # no package, no library, no driver: NVML's errors have no common class with an import's
        return _kernels_driver()


def _kernels_driver() -> str:
    try:
        first = Path("/proc/driver/nvidia/version").read_text(encoding="ascii", errors="replace").splitlines()[0]
    except (OSError, IndexError):
        return ""
    return next((word for word in first.split() if word[0].isdigit() and "." in word), "")
