"""What NVIDIA's driver says of a device, through NVML."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch

Answer = TypeVar("Answer")


def identity_of(device: torch.device) -> str:
    """The device's UUID; empty where it is not NVIDIA's."""
    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else ""


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
