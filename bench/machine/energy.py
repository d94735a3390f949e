"""Energy that an accelerator used, by its driver's own counter."""

from __future__ import annotations

import torch


class EnergyMeter:
    """Joules of one accelerator since it was made. The counter is the whole device's, whoever uses it."""

    def __init__(self, device: torch.device) -> None:
        self.identity = "" if device.type != "cuda" else str(torch.cuda.get_device_properties(device).uuid)
        self._first = read_joules(self.identity)

    def joules(self) -> float | None:
        """None where the driver reports nothing, or there is no accelerator."""
        now = read_joules(self.identity)
        return None if now is None or self._first is None else now - self._first


def read_joules(identity: str) -> float | None:
    """The counter of the NVIDIA device of that UUID, since its driver was loaded; None where there is none."""
    if not identity:
        return None
    try:
        import pynvml
    except ImportError:  # without the package nvidia-ml-py everything else works
        return None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{identity.removeprefix('GPU-')}")
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
    except pynvml.NVMLError:  # no driver, or one that does not count
        return None
