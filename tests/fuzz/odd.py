"""Odd values, and mutations of bytes, texts and JSON-like trees; everything is drawn from the generator given."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random
from typing import Any

TEXTS = (
    "", " ", "x", "generalised_ld", "ensemble", "macer", "../../etc", "/etc/passwd", "..", "a/b", "a\\b", "~", "con",
    "\x1b[31mred\x1b[0m", "\u202eevil", "a\nb", "a\rb", "a\tb", "nul\0byte", "\ufeffbom", "e\u0301", "😀", "\x7f\x9b2J",
    "[red]markup[/red]", "[/]", "<script>alert(1)</script>", "=cmd|'/c calc'!A0", "$(id)", "%s%n", "{0.__class__}",
    "nan", "inf", "1e400", "0x10", "-1", "٣", "x" * 5000, "resnet0", "resnet9998", "resnet20", "tiny", "cifar10",
    "synthetic", "s3://", "file:///nowhere", "os:getcwd", "fixed", "two-stage", "anytime", "imported",
)  # fmt: skip
NUMBERS = (
    0, 1, -1, 2, 3, 7, 10, 100, 255, 65_536, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**30,
    10**400, 0.0, -0.0, 0.25, 0.5, 1.0, 1.5, -1.5, 5e-324, 1e-320, 1e-9, 0.999999999, 1e16, 1.7e308, float("inf"),
    float("-inf"), float("nan"),
)  # fmt: skip


def odd_value(random: Random, depth: int = 2) -> Any:
    """A text, a number, a truth value, null, or a list or table of such."""
    kind = random.randrange(10)
    if kind < 4:
        return random.choice(NUMBERS)
    if kind < 7:
        return random.choice(TEXTS)
    if kind == 7 or depth == 0:
        return random.choice((True, False, None))
    if kind == 8:
        return [odd_value(random, depth - 1) for _ in range(random.randrange(4))]
    return {random.choice(TEXTS): odd_value(random, depth - 1) for _ in range(random.randrange(3))}


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a tree."""
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield tree, key
            yield from places(value)


def near(random: Random, value: Any) -> Any:
    """A value of the same type, which gets past the checks of types."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return type(value)(value) if random.random() < 0.2 else random.choice((value + 1, value * 2, -value, value / 3))
    if isinstance(value, str):
        return random.choice((value + "x", value[:-1], value.upper(), random.choice(TEXTS)))
    if isinstance(value, list):
        return random.choice((value + value, value[:1], [*value, *value[:1]], []))
    return value


def mutate_tree(random: Random, tree: Any) -> None:
    """Change, remove, add or swap something in a tree, in place."""
    found = list(places(tree))
    if not found:
        return
    container, key = random.choice(found)
    kind = random.randrange(8)
    if kind < 3:
        container[key] = near(random, container[key])
    elif kind < 5:
        container[key] = odd_value(random)
    elif kind == 5:
        del container[key]
    elif kind == 6 and isinstance(container, dict):
        container[random.choice((*TEXTS, f"{key}s", str(key)[:-1]))] = odd_value(random)
    else:
        other, there = random.choice(found)
        container[key] = json.loads(json.dumps(other[there], default=str))


def mutate_bytes(random: Random, content: bytes) -> bytes:
    """Flip, cut, repeat, insert or overwrite a few bytes."""
    data = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 5, 20))):
        at = random.randrange(len(data) + 1)
        kind = random.randrange(7)
        if kind < 2 and at < len(data):
            data[at] ^= 1 << random.randrange(8)
        elif kind == 2:
            data[at : at + 4] = random.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"PAR1"))
        elif kind == 3:
            del data[at : at + random.choice((1, 8, 100))]
        elif kind == 4:
            data[at:at] = data[at : at + random.choice((1, 8, 100))]
        elif kind == 5:
            data[at:at] = random.choice(TEXTS).encode()
        elif random.random() < 0.3:
            del data[at:]
    return bytes(data)
