"""Names of networks, apart from the networks: settings are checked without torch."""

from __future__ import annotations

import re


def residual_blocks(name: str) -> int:
    """Residual blocks per stage of a model name: n of resnet{6n+2}, 0 for "tiny"; ValueError for any other name."""
    if name == "tiny":
        return 0
    match = re.fullmatch(r"resnet([1-9]\d{0,3})", name)
    if not match:
        raise ValueError(f"model = {name!r}: must be tiny or resnet followed by a depth 6n+2, such as resnet110")
    depth = int(match[1])
    if depth < 8 or depth % 6 != 2:
        lower = max(8, depth - (depth - 2) % 6)
        raise ValueError(
            f"model = {name!r}: the depth must be 6n+2; the nearest are resnet{lower} and resnet{lower + 6}"
        )
    return (depth - 2) // 6
