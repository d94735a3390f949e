"""Energy that an accelerator used, by its driver's own counter."""

from __future__ import annotations

import torch

from bench.machine.driver import ask_driver, identity_of


class EnergyMeter:
    """Joules of one accelerator since it was made. The counter is the whole device's, whoever uses it."""

    def __init__(self, device: torch.device) -> None:
        self.identity = identity_of(device)
        self._first = read_joules(self.identity)

    def joules(self) -> float | None:
        """None where the driver reports nothing, or there is no accelerator."""
        now = read_joules(self.identity)
        return None if now is None or self._first is None else now - self._first


def read_joules(identity: str) -> float | None:
    """The counter of the NVIDIA device of that UUID, since its driver was loaded; None where there is none."""
    return ask_driver(identity, lambda nvml, handle: float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000)
