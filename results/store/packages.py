"""The packages whose versions a run writes down, and of which `bench doctor` tells whether they are the right ones."""

from __future__ import annotations

PROGRAM = "smoothing-bench"
"""The package that this program is."""
PACKAGES = ("torch", "torchvision", "accelerate", "ray", "numpy", "scipy", "statsmodels", "pandas", "pyarrow")
