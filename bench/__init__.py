"""Benchmark of certified robustness by randomized smoothing: what a notebook, a script or a plugin imports.

A grid of trials, trained, certified and reported; the run comes back as `read_run` reads it:

    from bench import run_grid
    run = run_grid("smoke", out="runs/smoke", set=["certify.n=200"], quiet=True)
    print(run.trials, run.certificates)         # DataFrames

Any model, from images (batch, channel, height, width) in [0, 1] to logits (batch, num_classes):

    from bench import CertifySettings, Smoothed
    smoothed = Smoothed(model, sigma=0.25, num_classes=10)
    certificates = smoothed.certify(images, CertifySettings(n=100_000, alpha=0.001))

or one off the shelf, `Smoothed(load_model("timm:vit_base_patch16_224", sigma=0.25))`.

A method, a network or a data set of one's own, in a file for `--plugin` or `run_grid(plugins=[...])`:
`Method`, `register_method`, `register_network`, `register_dataset`. `load_grid` shows which trials a grid has.

What a finished run says is in `results`. Below `bench` lie `settings` (grids, options, plugins), `machine`, `models`,
`data`, `certify`, `train`, `runner` (from a grid to a report), `audit` (verify, attack, perf) and `cli`. `import bench`
imports neither torch nor ray: a name brings what it needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.certify.composed import DualSmoothed, MultiScaleSmoothed
    from bench.certify.smoothing import Certificate, Smoothed
    from bench.models.sources import load_model
    from bench.runner.grid import run_grid
    from bench.settings.grid import load_grid
    from bench.settings.registries import register_dataset, register_network
    from methods import Method, register_method
    from results import read_run
    from results.store.settings import CertifySettings

__version__ = "0.1.0"
__all__ = [
    "Certificate",
    "CertifySettings",
    "DualSmoothed",
    "Method",
    "MultiScaleSmoothed",
    "Smoothed",
    "load_grid",
    "load_model",
    "read_run",
    "register_dataset",
    "register_method",
    "register_network",
    "run_grid",
]

_HOMES = {
    "Certificate": "bench.certify.smoothing",
    "Smoothed": "bench.certify.smoothing",
    "DualSmoothed": "bench.certify.composed",
    "MultiScaleSmoothed": "bench.certify.composed",
    "run_grid": "bench.runner.grid",
    "load_grid": "bench.settings.grid",
    "load_model": "bench.models.sources",
    "register_dataset": "bench.settings.registries",
    "register_network": "bench.settings.registries",
    "Method": "methods",
    "register_method": "methods",
    "read_run": "results",
    "CertifySettings": "results.store.settings",
}


def __getattr__(name: str) -> object:
    """torch and ray take seconds to import, which those who need neither do not have to pay."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Also what is not imported yet, for completion and pydoc."""
    return sorted({*globals(), *__all__})
