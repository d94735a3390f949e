"""A grid as the TOML that `load_grid` takes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from bench.settings.grid import Grid


def grid_as_toml(grid: Grid) -> str:
    """Every setting, those with their defaults too."""
    values = {key: value for key, value in grid.model_dump(exclude_none=True).items() if value != {}}
    tables = {key: value for key, value in values.items() if isinstance(value, dict)}
    rows = tables.pop("rows", {})
    lines = list(_lines({key: value for key, value in values.items() if key not in {*tables, "rows"}}))
    for name, table in tables.items():
        lines += ["", f"[{name}]", *_lines(table)]
    for name, row in rows.items():
        lines += ["", f"[rows.{_key(name)}]", *_lines({key: value for key, value in row.items() if value != {}})]
    return "\n".join(lines) + "\n"


def _lines(table: Mapping[str, Any]) -> Iterator[str]:
    return (f"{_key(key)} = {_value(value)}" for key, value in table.items())


def _key(text: str) -> str:
    return text if re.fullmatch(r"[A-Za-z0-9_-]+", text) else _value(text)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(_lines(value))} }}" if value else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    # strings, numbers, true and false are those of JSON, but for one character that JSON lets stand as it is
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
