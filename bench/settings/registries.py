"""Names of networks and data sets, apart from what they stand for: settings are checked without torch.

@register_network("wide")
def wide(num_classes: int, width: int = 16) -> nn.Module: ...

@register_dataset("stripes")
def stripes(split: str) -> ImageSet: ...
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable
from typing import Any

from methods import METHODS, Registry
from results.errors import BenchError

DEFAULT_WIDTH = 16
RESNET = r"resnet\d*"

NETWORKS: Registry[Callable[..., Any]] = Registry(
    "network", "bench.networks", ours={"tiny": "bench.models.networks"}, family=RESNET
)
"""Builders `(num_classes, width=16) -> torch.nn.Module`, or classes of modules; and every resnet{6n+2}."""
DATASETS: Registry[Callable[[Any], Any]] = Registry(
    "data set",
    "bench.datasets",
    ours={"synthetic": "bench.data.synthetic", "cifar10": "bench.data.cifar10"},
)
"""Loaders `(split) -> bench.data.ImageSet`; the split is "train" or "test"."""
register_network = NETWORKS.register
register_dataset = DATASETS.register


def check_network(name: str, width: int = DEFAULT_WIDTH) -> None:
    """Raise BenchError where there is no network of that name, or it has no other width than the default."""
    if name not in NETWORKS:
        residual_blocks(name)
    elif NETWORKS.code(name) and width != DEFAULT_WIDTH and not takes_width(NETWORKS.find(name)):
        raise BenchError(f"width = {width}: the network {name} has no width: leave it at {DEFAULT_WIDTH}")


def takes_width(builder: Callable[..., Any]) -> bool:
    """Whether a builder of networks has a parameter `width`."""
    parameters = inspect.signature(builder).parameters.values()
    return any(parameter.name == "width" or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def residual_blocks(name: str) -> int:
    """Residual blocks per stage, n of resnet{6n+2}; BenchError for any other name."""
    match = re.fullmatch(r"resnet([1-9]\d{0,3})", name)
    if not match:
        others = ", ".join(NETWORKS)
        raise BenchError(f"model = {name!r}: must be {others} or resnet followed by a depth 6n+2, such as resnet110")
    depth = int(match[1])
    if depth < 8 or depth % 6 != 2:
        lower = max(8, depth - (depth - 2) % 6)
        raise BenchError(
            f"model = {name!r}: the depth must be 6n+2; the nearest are resnet{lower} and resnet{lower + 6}"
        )
    return (depth - 2) // 6


def are_known(method: str, model: str) -> bool:
    """Whether there are a method and a network of these names."""
    return method in METHODS and (model in NETWORKS or bool(re.fullmatch(RESNET, model)))


def code_of(method: str, model: str) -> str:
    """Digest of the source files that define a method and a network; empty where both are of this program.

    Raises:
        RegistryError: there is no such method, or none that trains its members, or it has no source file.
    """
    if member := METHODS.find(method).member_method:
        METHODS.find(member)
    codes = sorted({METHODS.code(method), NETWORKS.code(model) if model in NETWORKS else ""} - {""})
    if len(codes) < 2:
        return "".join(codes)
    return hashlib.sha256("".join(codes).encode()).hexdigest()[:12]
