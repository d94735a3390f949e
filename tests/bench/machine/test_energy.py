"""The energy counter, with a driver of our own: nothing here has an accelerator."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from bench.machine.energy import EnergyMeter, read_joules


class NVMLError(Exception):
    pass


def driver(millijoules: list[int]) -> SimpleNamespace:
    def handle(uuid: str) -> str:
        if uuid != "GPU-a":
            raise NVMLError
        return uuid

    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=handle,
        nvmlDeviceGetTotalEnergyConsumption=lambda _: millijoules.pop(0),
    )


def test_the_meter_counts_from_where_it_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", driver([5_000, 7_500, 9_000]))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="a"))
    meter = EnergyMeter(torch.device("cuda"))
    assert [meter.joules(), meter.joules()] == [2.5, 4.0]


def test_without_a_counter_there_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    assert EnergyMeter(torch.device("cpu")).joules() is None
    monkeypatch.setitem(sys.modules, "pynvml", driver([1]))
    assert read_joules("another device") is None
    monkeypatch.setitem(sys.modules, "pynvml", None)  # importing it fails
    assert read_joules("a") is None


def test_a_machine_without_a_driver_reports_nothing() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a driver")
    assert read_joules("a") is None
