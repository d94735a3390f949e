"""Accelerators that fail, or on which work hangs: it is tried again in a fresh process, and after the second time the
accelerator is left out."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from ray.exceptions import RayError, RayTaskError

from cluster.retry import reason

if TYPE_CHECKING:
    from cluster.worker import WorkerHandle

ERRORS_OF_A_DEVICE = 2
OF_A_DEVICE = re.compile(
    r"AcceleratorError|DeviceError|(CUDA|HIP)( driver)? error|unhandled cuda error|CUDNN_STATUS|CUBLAS_STATUS",
    re.IGNORECASE,
)
"""What torch says where an accelerator or its driver fails, in the names of its classes and in its messages; and this
program where it cannot be used (`bench.machine.devices.DeviceError`)."""
OUT_OF_MEMORY = re.compile(r"out of memory|OutOfMemoryError|ALLOC_FAILED", re.IGNORECASE)


class DeviceLeftOutError(RuntimeError):
    """An accelerator that a worker group has fails again and again; the message is one sentence."""


class DeviceErrors:
    """The errors of the accelerators that a group's workers had, in all its jobs."""

    def __init__(self) -> None:
        self._errors: Counter[str] = Counter()

    def note(self, worker: WorkerHandle, error: RayError) -> None:
        """Count an error if it is one of the worker's accelerator, or tells that the worker was stopped as stalled.

        Raises:
            DeviceLeftOutError: it is the second one there, of a worker of the group's own.
        """
        device = device_of(worker)
        if not device or not (worker.stalled or (isinstance(error, RayTaskError) and is_of_a_device(error))):
            return
        self._errors[device] += 1
        if self._errors[device] >= ERRORS_OF_A_DEVICE and not worker.elastic:
            raise DeviceLeftOutError(
                f"{device} is left out for the rest of this command: it failed {ERRORS_OF_A_DEVICE} times, at last "
                f"with {reason(error)}"
            )

    def left_out(self, worker: WorkerHandle) -> bool:
        """Whether the worker has an accelerator that failed too often."""
        return self._errors[device_of(worker)] >= ERRORS_OF_A_DEVICE


def is_of_a_device(error: RayTaskError) -> bool:
    """Whether what the work raised says that its accelerator or the driver failed; memory that does not suffice is
    another matter. torch itself is not to be imported here."""
    said = " ".join([*(kind.__name__ for kind in type(error.cause).__mro__), str(error.cause)])
    return OF_A_DEVICE.search(said) is not None and OUT_OF_MEMORY.search(said) is None


def device_of(worker: WorkerHandle) -> str:
    """The worker's accelerator as users are told of it; empty where it has none, or is not known yet."""
    known = worker.identity or {}
    return f"GPU {', '.join(known['gpus'])} of {known['host']}" if known.get("gpus") else ""
