"""Shards of a trial's certificates: which test images are wanted, which are there, and whether to trust them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from results.folder import TrialFolder, write_whole
from results.schema import CERTIFICATES, SchemaError, read_table, with_identity


def evenly_spaced(available: int, wanted: int | None) -> list[int]:
    """Which of `available` images are used: all, or `wanted` evenly spaced ones (500 of 10 000: every twentieth, as
    Cohen et al. 2019 certify).

    Raises:
        ValueError: more are wanted than there are.
    """
    if wanted is None:
        return list(range(available))
    if wanted > available:
        raise ValueError(f"{wanted} images were asked for, the data has {available}")
    return [position * available // wanted for position in range(wanted)]


def write_shard(folder: TrialFolder, table: pa.Table, *, trial_id: str, checkpoint_sha256: str) -> Path:
    """Write the rows of one shard, with their trial and checkpoint in the file's metadata."""
    schema = with_identity(CERTIFICATES, trial_id=trial_id, checkpoint_sha256=checkpoint_sha256)
    indices = table["index"].to_pylist()
    path = folder.shard(indices[0], indices[-1])
    # Dictionaries and statistics are of no use in sixteen rows, and a merge reads thousands of such files.
    plain = {"use_dictionary": False, "write_statistics": False}
    write_whole(path, lambda temporary: pq.write_table(table.cast(schema), temporary, **plain))
    return path


def read_shard(path: Path, *, trial_id: str, checkpoint_sha256: str) -> pa.Table:
    """The rows of one shard.

    Raises:
        ValueError: unreadable, of another schema version, trial or checkpoint; names the file.
    """
    table = read_table(path, CERTIFICATES)
    for key, expected in (("trial_id", trial_id), ("checkpoint_sha256", checkpoint_sha256)):
        found = {(table.schema.metadata or {}).get(key.encode(), b"none").decode(), *table[key].unique().to_pylist()}
        if found != {expected}:
            other = ", ".join(sorted(found - {expected}))
            raise ValueError(f"{path}: is of another {key.split('_')[0]} ({other}, expected {expected})")
    return table


def finished_indices(folder: TrialFolder, *, trial_id: str, checkpoint_sha256: str) -> set[int]:
    """Test images that valid shards already hold.

    Shards that do not read back, are of another checkpoint, or repeat an image of another shard are set aside under
    another name, never deleted: their images are certified again.

    Raises:
        SchemaError: a shard of another version of this program.
    """
    finished: set[int] = set()
    for path in folder.shard_files():
        try:
            table = read_shard(path, trial_id=trial_id, checkpoint_sha256=checkpoint_sha256)
            indices = set(table["index"].to_pylist())
        except SchemaError:
            raise
        except ValueError:
            indices = set()
        if not indices or indices & finished:
            path.replace(path.with_suffix(".set-aside"))
            continue
        finished |= indices
    return finished
