"""Benchmark of certified robustness by randomized smoothing.

from bench import run_grid
run = run_grid("smoke", out="runs/smoke", set=["certify.n=200"], quiet=True)

from bench import Smoothed
certificates = Smoothed(model, sigma=0.25, num_classes=10).certify(images)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.certify.smoothing import Certificate, Smoothed
    from bench.runner.grid import run_grid
    from bench.settings.grid import load_grid
    from bench.settings.registries import register_dataset, register_network
    from methods import Method, register_method
    from results import read_run

__version__ = "0.1.0"
__all__ = [
    "Certificate",
    "Method",
    "Smoothed",
    "load_grid",
    "read_run",
    "register_dataset",
    "register_method",
    "register_network",
    "run_grid",
]

_HOMES = {
    "Certificate": "bench.certify.smoothing",
    "Smoothed": "bench.certify.smoothing",
    "run_grid": "bench.runner.grid",
    "load_grid": "bench.settings.grid",
    "register_dataset": "bench.settings.registries",
    "register_network": "bench.settings.registries",
    "Method": "methods",
    "register_method": "methods",
    "read_run": "results",
}


def __getattr__(name: str) -> object:
    """torch and ray take seconds to import, which those who need neither do not have to pay."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
