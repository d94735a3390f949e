"""What this process takes of its machine, for those who watch. It must answer whatever else the process does."""

from __future__ import annotations

import sys
import time
from typing import Any

import psutil

from bench.machine.advance import advance


class _Meter:
    """Processor time since it was last asked for."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._last = (time.monotonic(), time.process_time())

    def __call__(self) -> dict[str, Any]:
        before, self._last = self._last, (time.monotonic(), time.process_time())
        elapsed = max(1e-3, self._last[0] - before[0])
        return {
            "cores": round((self._last[1] - before[1]) / elapsed, 2),
            "memory_bytes": self._process.memory_info().rss,
            "gpu": _gpu(),
            "steps": advance.steps,
            "apart": advance.apart,
        }


_meter = _Meter()


def usage() -> dict[str, Any]:
    """`cores` computing since the last call, `memory_bytes` resident, `gpu`, the share of time in which the accelerator
    computed for anybody (None where that cannot be told), and `steps` and `apart` of `bench.machine.advance`."""
    return _meter()


def _gpu() -> float | None:
    # Not imported here: the work does that, in its own time.
    cuda: Any = getattr(sys.modules.get("torch"), "cuda", None)
    if not hasattr(cuda, "is_initialized") or not cuda.is_initialized():
        return None
    from bench.machine.driver import ask_driver, identity_of

    # By its identity, for NVML counts devices in another order, and those that are masked as well.
    device = identity_of(sys.modules["torch"].device("cuda"))
    return ask_driver(device, lambda nvml, handle: float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100)
