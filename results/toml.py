"""A grid as a TOML file: the standard library reads them alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")
HEADINGS = 3
"""Of tables within tables, as [rows.NAME.options]; deeper ones, such as the values by σ, stand on one line."""


def to_toml(table: Mapping[str, Any]) -> str:
    """JSON values as TOML, which has no null: what is null or an empty table is left out, as in a grid file.

    Args:
        table: keys with strings, numbers, booleans, lists of these, or tables.
    """
    return "\n".join(_lines(table, ())).lstrip("\n") + "\n"


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    deep = len(path) >= HEADINGS
    own = {key: value for key, value in table.items() if _is_there(value)}
    values = {key: value for key, value in own.items() if deep or not isinstance(value, Mapping)}
    if path and values:
        yield ""
        yield f"[{'.'.join(map(_key, path))}]"
    for key, value in values.items():
        yield f"{_key(key)} = {_value(value)}"
    for key, value in own.items():
        if key not in values:
            yield from _lines(value, (*path, key))


def _is_there(value: Any) -> bool:
    return value is not None and value != {}


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _text(name)


def _value(value: Any) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_value(own)}" for key, own in value.items() if _is_there(own)) + " }"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value)


def _text(text: str) -> str:
    """As JSON has it, which is a string of TOML but for one character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
