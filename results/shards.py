"""Shards of a trial's certificates: which test images are wanted, which are there, and whether to trust them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from results.folder import TrialFolder, write_whole
from results.schema import CERTIFICATES, check_schema, with_identity


def test_indices(available: int, wanted: int | None) -> list[int]:
    """Which of `available` test images a trial certifies: all, or `wanted` evenly spaced ones (500 of 10 000: every
    twentieth, as Cohen et al. 2019).

    Raises:
        ValueError: more are wanted than there are.
    """
    if wanted is None:
        return list(range(available))
    if wanted > available:
        raise ValueError(f"certify.images = {wanted}: the test set has {available}")
    return list(range(0, available, available // wanted))[:wanted]


def write_shard(folder: TrialFolder, table: pa.Table, *, trial_id: str, checkpoint_sha256: str) -> Path:
    """Write the rows of one shard, with their trial and checkpoint in the file's metadata."""
    schema = with_identity(CERTIFICATES, trial_id=trial_id, checkpoint_sha256=checkpoint_sha256)
    indices = table["index"].to_pylist()
    path = folder.shard(indices[0], indices[-1])
    write_whole(path, lambda temporary: pq.write_table(table.cast(schema), temporary))
    return path


def read_shard(path: Path, *, trial_id: str, checkpoint_sha256: str) -> pa.Table:
    """The rows of one shard.

    Raises:
        ValueError: unreadable, of another schema version, trial or checkpoint; names the file.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path}: not readable as Parquet: {error}") from None
    check_schema(table.schema, CERTIFICATES, path)
    for key, expected in (("trial_id", trial_id), ("checkpoint_sha256", checkpoint_sha256)):
        found = {(table.schema.metadata or {}).get(key.encode(), b"none").decode(), *table[key].unique().to_pylist()}
        if found != {expected}:
            other = ", ".join(sorted(found - {expected}))
            raise ValueError(f"{path}: is of another {key.split('_')[0]} ({other}, expected {expected})")
    return table


def finished_indices(folder: TrialFolder, *, trial_id: str, checkpoint_sha256: str) -> set[int]:
    """Test images that valid shards already hold. Shards that fail to read back are deleted: they are done again."""
    finished: set[int] = set()
    for path in folder.shard_files():
        try:
            table = read_shard(path, trial_id=trial_id, checkpoint_sha256=checkpoint_sha256)
        except ValueError:
            path.unlink(missing_ok=True)
            continue
        finished.update(table["index"].to_pylist())
    return finished
