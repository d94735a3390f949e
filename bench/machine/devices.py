"""Whether this process can compute on the accelerator that it was given: it must never take the CPU without a word."""

from __future__ import annotations

import logging
import os
import socket
from functools import cache

import torch
from torch import Tensor

from bench.machine.driver import MASK, driver_version
from bench.machine.reasons import reason_of
from results.errors import BenchError

NEEDED_DRIVERS = {11: "450", 12: "525", 13: "580"}
"""The oldest NVIDIA driver that runs programs of a major version of CUDA (NVIDIA, "Minor Version Compatibility")."""
SIDE = 64

logger = logging.getLogger("bench")


class DeviceError(BenchError):
    """An accelerator that was given cannot be used; the message is one sentence for the user."""


def own_device() -> torch.device:
    """Where this process computes: on its accelerator, or on the CPU if it was given none.

    Raises:
        DeviceError: CUDA_VISIBLE_DEVICES gives it one, which torch cannot use.
    """
    if torch.cuda.is_available():
        return torch.device("cuda")
    if is_given():
        raise DeviceError(unusable("torch finds no CUDA device", f"{MASK}= (empty) computes on the CPU"))
    if MASK not in os.environ and driver_version():
        _say_unused()
    return torch.device("cpu")


@cache
def _say_unused() -> None:
    """Once: nobody was given an accelerator, and there may be one."""
    logger.warning("computing on the CPU: torch finds no CUDA device, but %s (if that is meant: %s=)", drivers(), MASK)


def is_given() -> bool:
    """Whether the mask of this process names an accelerator."""
    first = os.environ.get(MASK, "").split(",")[0].strip()
    return first not in ("", "-1", "NoDevFiles")


def refuse_unusable(gpus: float) -> None:
    """See that a worker can compute on what it was given.

    Args:
        gpus: of the worker; 0 is right everywhere.

    Raises:
        DeviceError: torch finds no accelerator or several, or computes wrongly on it, or not at all.
    """
    if not gpus:
        return
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found == 0:
        raise DeviceError(unusable("torch finds no CUDA device", "--gpus-per-worker 0 computes on the CPU"))
    if found > 1:
        raise DeviceError(unusable(f"torch finds {found} CUDA devices, and a worker has one"))
    fault = fault_of(torch.device("cuda", 0))
    if fault:
        raise DeviceError(unusable(fault))


def fault_of(device: torch.device) -> str:
    """What is wrong with a device on which a small matrix product is computed; empty where it comes out right."""
    numbers = torch.arange(SIDE * SIDE).remainder(7).float().view(SIDE, SIDE)  # whose product is exact in any order
    try:
        found = _product(numbers.to(device)).cpu()
    except Exception as error:  # torch.AcceleratorError, an allocation, a library that is missing: all are told
        return f"a small matrix product on {device} fails: {reason_of(error)}"
    return "" if torch.equal(found, numbers @ numbers) else f"a small matrix product on {device} comes out wrong"


def _product(numbers: Tensor) -> Tensor:
    return numbers @ numbers


def unusable(why: str, remedy: str = "") -> str:
    """The sentence for a process that cannot use the accelerator it was given: host, mask, reason, drivers."""
    mask = os.environ.get(MASK)
    given = f"{MASK} is not set" if mask is None else f"{MASK}={mask}"
    sentence = f"{socket.gethostname()}: an accelerator was given to this process ({given}) and cannot be used: {why}; "
    return sentence + drivers() + (f"; {remedy}" if remedy else "")


def drivers() -> str:
    """The driver of this machine, and what the installed torch needs."""
    found = driver_version()
    here = f"the NVIDIA driver is {found}" if found else "no NVIDIA driver answers"
    if not torch.version.cuda:
        return f"{here}, and torch {torch.__version__} was built without CUDA"
    return f"{here}, and torch {torch.__version__} for CUDA {torch.version.cuda} needs {needed_driver()} or later"


def needed_driver() -> str:
    """The oldest driver that does for the installed torch; empty where it has no CUDA."""
    major = int((torch.version.cuda or "0").split(".")[0])
    return NEEDED_DRIVERS.get(major, NEEDED_DRIVERS[max(NEEDED_DRIVERS)]) if major else ""


def is_driver_too_old(found: str) -> bool:
    """Whether a driver of that version is older than what the installed torch needs."""
    return _numbers(found) < _numbers(needed_driver())


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")[:2] if part.isdigit()]
