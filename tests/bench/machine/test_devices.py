"""A process that was given an accelerator computes there or says why not: devices and drivers are of our own making."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from bench.audit import forecast
from bench.certify.smoothing import Smoothed
from bench.machine import devices, driver, processes
from bench.machine.devices import DeviceError, fault_of, own_device, refuse_unusable
from bench.train.loop import make_accelerator
from results.store.folder import TrialFolder
from tests.conftest import small_trial


def pretend(monkeypatch: pytest.MonkeyPatch, *, count: int, driver: str = "580.65.06") -> None:
    """torch finds so many CUDA devices, whose work the CPU does."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(devices, "driver_version", lambda: driver)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    to = Tensor.to
    monkeypatch.setattr(Tensor, "to", lambda tensor, place: to(tensor, "cpu"))


def test_a_worker_with_one_device_that_computes_may_start(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, count=1)
    refuse_unusable(1)
    refuse_unusable(0.25)


def test_a_worker_without_accelerators_asks_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("it was asked"))
    refuse_unusable(0)


def test_the_sentence_names_host_mask_and_drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, count=0, driver="535.104.05")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(DeviceError) as error:
        refuse_unusable(1)
    sentence = str(error.value)
    for part in (socket.gethostname(), "CUDA_VISIBLE_DEVICES=3", "535.104.05", torch.__version__, "580 or later"):
        assert part in sentence
    assert "\n" not in sentence


def test_a_worker_that_sees_its_neighbours_devices_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, count=8)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(DeviceError, match=r"\(CUDA_VISIBLE_DEVICES is not set\).* finds 8 CUDA devices"):
        refuse_unusable(1)


def test_a_device_that_fails_or_miscomputes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, count=1)

    def fails(_: Tensor) -> Tensor:
        raise torch.AcceleratorError("CUDA error: no kernel image is available\nmore lines")

    monkeypatch.setattr(devices, "_product", fails)
    with pytest.raises(DeviceError, match=r"fails: AcceleratorError: CUDA error: no kernel image is available;"):
        refuse_unusable(1)
    monkeypatch.setattr(devices, "_product", lambda numbers: numbers @ numbers + 1)
    with pytest.raises(DeviceError, match="comes out wrong"):
        refuse_unusable(1)


def test_the_processor_computes_rightly() -> None:
    assert fault_of(torch.device("cpu")) == ""


@pytest.mark.parametrize("mask", ["0", "3,4", "GPU-8932f937", "MIG-1"])
def test_a_mask_without_a_device_is_refused_everywhere(mask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mask)
    for start in (
        own_device,
        lambda: make_accelerator(small_trial(), TrialFolder(Path("nowhere"))),
        lambda: Smoothed(torch.nn.Flatten(), 0.25, 12),
        processes.join_group,
        lambda: forecast.forecast([small_trial()]),
    ):
        with pytest.raises(DeviceError, match=f"VISIBLE_DEVICES={mask}.*; CUDA_VISIBLE_DEVICES= .empty. computes"):
            start()
    assert Smoothed(torch.nn.Flatten(), 0.25, 12, device="cpu").device.type == "cpu"


@pytest.mark.parametrize("mask", [None, "", "-1", "NoDevFiles"])
def test_without_an_accelerator_the_processor_computes(mask: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if mask is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mask)
    assert own_device() == torch.device("cpu")


@pytest.mark.parametrize(("mask", "driver", "lines"), [(None, "580.65", 1), ("", "580.65", 0), (None, "", 0)])
def test_a_machine_with_a_driver_does_not_take_the_processor_without_a_word(
    mask: str | None, driver: str, lines: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pretend(monkeypatch, count=0, driver=driver)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if mask is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mask)
    devices._say_unused.cache_clear()
    for _ in range(2):
        assert own_device() == torch.device("cpu")
    said = [line for line in caplog.messages if "computing on the CPU: torch finds no CUDA device" in line]
    assert len(said) == lines
    assert all("the NVIDIA driver is 580.65" in line for line in said)


def test_the_driver_is_that_of_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    known = SimpleNamespace(nvmlInit=lambda: None, nvmlSystemGetDriverVersion=lambda: "570.1.2")
    monkeypatch.setitem(sys.modules, "pynvml", known)
    assert driver.driver_version() == "570.1.2"
    monkeypatch.setitem(sys.modules, "pynvml", None)  # importing it fails
    monkeypatch.setattr(driver, "_kernels_driver", lambda: "")
    assert driver.driver_version() == ""
    assert "no NVIDIA driver answers" in devices.drivers()


@pytest.mark.parametrize(
    ("cuda", "driver", "old"),
    [("13.2", "580.65.06", False), ("13.2", "570.9", True), ("12.6", "525.60.13", False), ("12.6", "470.1", True)],
)
def test_a_driver_may_be_too_old(cuda: str, driver: str, old: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    assert devices.is_driver_too_old(driver) is old
