"""Damage to one file of a run: to its bytes, or to what it says."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from tests.fuzz.odd import mutate_bytes, mutate_tree, near, odd_value

if TYPE_CHECKING:
    from tests.fuzz.workshop import Workshop


def damage_file(random: Random, shop: Workshop, path: Path) -> None:
    content = path.read_bytes()
    if random.random() < 0.05:
        shop.unlink(path)
        if random.random() < 0.5:
            path.mkdir()
        return
    if path.suffix == ".json" and random.random() < 0.85:
        content = _json(random, content)
    elif path.suffix == ".parquet" and random.random() < 0.75:
        _parquet(random, path)
        return
    else:
        content = mutate_bytes(random, content)
    path.write_bytes(content)


def _json(random: Random, content: bytes) -> bytes:
    if random.random() < 0.03:
        return b'{"trials": ' + random.choice((b"[", b'{"a":')) * random.choice((100, 100_000))
    try:
        tree = json.loads(content)
    except ValueError:  # damaged a moment ago
        return content[1:]
    for _ in range(random.choice((1, 1, 2, 4))):
        mutate_tree(random, tree)
    return json.dumps(tree).encode()


def _parquet(random: Random, path: Path) -> None:
    """Other values, nulls, columns, types, rows or metadata, in a file that reads well."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException):
        return
    kind = random.randrange(8)
    name = random.choice(table.column_names)
    place = table.column_names.index(name)
    if kind < 4 and table.num_rows:
        values = table[name].to_pylist()
        at = random.randrange(len(values))
        values[at] = random.choice((near(random, values[at]), near(random, values[at]), odd_value(random), None))
        if random.random() < 0.3:
            values = [values[at]] * len(values)
        try:
            column = pa.array(values, table.schema.field(name).type)
        except (pa.ArrowException, OverflowError, ValueError, TypeError):
            return
        table = table.set_column(place, table.schema.field(name), column)
    elif kind == 4:
        table = table.drop_columns([name])
    elif kind == 5:
        table = pa.concat_tables([table, table.slice(0, 1)]) if random.random() < 0.5 else table.slice(1)
    elif kind == 6:
        new = random.choice((pa.null(), pa.string(), pa.int32(), pa.float32(), pa.binary()))
        table = table.set_column(place, name, pa.nulls(table.num_rows, new))
    else:
        version = random.choice((b"0", b"99", b"", b"\xff", "٣".encode(), b"9" * 5000))
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"smoothing_bench_schema": version})
    try:
        pq.write_table(table, path)
    except (pa.ArrowException, ValueError):  # a null where the schema allows none
        pq.write_table(table.cast(pa.schema([field.with_nullable(True) for field in table.schema])), path)
