"""The packages whose versions a run writes down, and of which `bench doctor` tells whether they are the right ones."""

from __future__ import annotations

PACKAGES = ("torch", "torchvision", "accelerate", "ray", "numpy", "scipy", "statsmodels", "pandas", "pyarrow")
