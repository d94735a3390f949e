"""What this process takes of its machine, for those who watch. It must answer whatever else the process does."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

_last = (time.monotonic(), time.process_time())


def usage() -> dict[str, Any]:
    """`cores` computing since the last call, `memory_bytes` resident, and `gpu`, the share of time in which the
    accelerator computed for anybody; None where that cannot be told."""
    global _last
    before, _last = _last, (time.monotonic(), time.process_time())
    elapsed = max(1e-3, _last[0] - before[0])
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return {"cores": round((_last[1] - before[1]) / elapsed, 2), "memory_bytes": pages * 4096, "gpu": _gpu()}


def _gpu() -> float | None:
    # Not imported here: the work does that, in its own time.
    cuda: Any = getattr(sys.modules.get("torch"), "cuda", None)
    if not hasattr(cuda, "is_initialized") or not cuda.is_initialized():
        return None
    try:
        return float(cuda.utilization()) / 100
    except Exception:  # no nvidia-ml-py, or a driver that does not tell: NVML's errors have no common class
        return None
