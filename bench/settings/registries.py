"""Names of networks and data sets, apart from what they stand for: settings are checked without torch.

@register_network("wide")
def wide(num_classes: int, width: int = 16, channels: int = 3) -> nn.Module: ...

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
from results.store.record import nearest
from results.store.settings import DEFAULT_WIDTH

CHANNELS = 3
"""Of the images that a network takes which says nothing else."""
RESNET = r"resnet\d*"

NETWORKS: Registry[Callable[..., Any]] = Registry(
    "network", "bench.networks", ours=dict.fromkeys(("tiny", "patches"), "bench.models.networks"), family=RESNET
)
"""Builders `(num_classes, width=16, channels=3) -> torch.nn.Module`, or classes of modules; and every resnet{6n+2}."""
DATASETS: Registry[Callable[[Any], Any]] = Registry(
    "data set",
    "bench.datasets",
    ours={
        "synthetic": "bench.data.synthetic",
        **dict.fromkeys(("cifar10", "cifar100", "svhn", "mnist", "fashion_mnist"), "bench.data.downloaded"),
    },
)
"""Loaders `(split) -> bench.data.ImageSet`; the split is "train" or "test"."""
register_network = NETWORKS.register
register_dataset = DATASETS.register


def check_network(name: str, width: int = DEFAULT_WIDTH, channels: int = CHANNELS) -> None:
    """Raise BenchError where there is no network of that name, or none of that width or for so many channels."""
    if name not in NETWORKS:
        residual_blocks(name)
    elif NETWORKS.code(name):
        chosen_arguments(name, NETWORKS.find(name), width, channels)


def chosen_arguments(name: str, builder: Callable[..., Any], width: int, channels: int) -> dict[str, int]:
    """What a network's builder is called with beside the number of classes: `channels` only where they are not three,
    so that a builder which means something else by the word goes on doing so.

    Raises:
        BenchError: it has no parameter for what is asked of it.
    """
    parameters = inspect.signature(builder).parameters.values()
    takes = {parameter.name for parameter in parameters}
    takes |= {"width", "channels"} if any(each.kind is each.VAR_KEYWORD for each in parameters) else set()
    if width != DEFAULT_WIDTH and "width" not in takes:
        raise BenchError(f"width = {width}: the network {name} has no width: leave it at {DEFAULT_WIDTH}")
    if channels != CHANNELS and "channels" not in takes:
        raise BenchError(
            f"model = {name!r}: takes images of {CHANNELS} channels, and those of the data have {channels}: give its "
            "builder a parameter `channels`"
        )
    chosen = {"width": width} if "width" in takes else {}
    return chosen if channels == CHANNELS else chosen | {"channels": channels}


def residual_blocks(name: str) -> int:
    """Residual blocks per stage, n of resnet{6n+2}; BenchError for any other name."""
    match = re.fullmatch(r"resnet([1-9]\d{0,3})", name)
    if not match:
        others = ", ".join(NETWORKS)
        raise BenchError(
            f"model = {name!r}: must be {others} or resnet followed by a depth 6n+2, such as "
            f"resnet110{nearest(name, NETWORKS)} (one of your own: give --plugin)"
        )
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
