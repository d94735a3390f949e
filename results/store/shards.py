"""Shards of a trial's certificates: which test images are wanted, which are there, and whether to trust them."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from results.errors import BenchError, StoreError
from results.store.folder import AnyPath, TrialFolder, read_each, remove_leftovers, set_aside
from results.store.rows import NOISE, CertificateRow, table_of
from results.store.schema import CERTIFICATES, VersionError, read_table, with_identity, write_table


def evenly_spaced(available: int, wanted: int | None) -> list[int]:
    """Which of `available` images are used: all, or `wanted` evenly spaced ones (500 of 10 000: every twentieth, as
    Cohen et al. 2019 certify).

    Raises:
        BenchError: more are wanted than there are.
    """
    if wanted is None:
        return list(range(available))
    if wanted > available:
        raise BenchError(f"{wanted} images were asked for, the data has {available}")
    return [position * available // wanted for position in range(wanted)]


def write_shard(folder: TrialFolder, rows: Sequence[CertificateRow]) -> AnyPath:
    """Write the rows of one shard, all of one trial and checkpoint, which the file's metadata names too."""
    identity = {"trial_id": rows[0].trial_id, "checkpoint_sha256": rows[0].checkpoint_sha256}
    path = folder.shard(rows[0].index, rows[-1].index)
    # Dictionaries and statistics are of no use in sixteen rows, and a merge reads thousands of such files.
    table = table_of(rows, with_identity(CERTIFICATES, **identity))
    write_table(path, table, use_dictionary=False, write_statistics=False)
    return path


def read_shard(path: AnyPath, *, trial_id: str, checkpoint_sha256: str) -> pa.Table:
    """The rows of one shard.

    Raises:
        StoreError: unreadable, damaged, of another schema version, trial, checkpoint or noise; names the file.
    """
    table = read_table(path, CERTIFICATES)
    for key, expected in (("trial_id", trial_id), ("checkpoint_sha256", checkpoint_sha256)):
        found = {(table.schema.metadata or {}).get(key.encode(), b"none").decode(), *table[key].unique().to_pylist()}
        if found != {expected}:
            other = ", ".join(sorted(found - {expected}))
            raise StoreError(f"{path}: is of another {key.split('_')[0]} ({other}, expected {expected})")
    drawn = {None if estimator == "imported" else NOISE for estimator in table["estimator"].unique().to_pylist()}
    if unlike := (set(table["noise"].unique().to_pylist()) ^ drawn) - {NOISE}:
        raise StoreError(f"{path}: is of other noise than {NOISE} ({', '.join(map(str, unlike))})")
    return table


def repair_shards(folder: TrialFolder, *, trial_id: str, checkpoint_sha256: str) -> set[int]:
    """See that a trial's shards can be trusted: remove what a killed process left, and set aside under another name,
    never delete, those that do not read back as they were written, are of another checkpoint, or repeat an image of
    another shard. Their images are certified again.

    Returns:
        The test images that the others hold.

    Raises:
        VersionError: a shard of another version of this program.
    """

    def indices_of(path: AnyPath) -> set[int]:
        try:
            table = read_shard(path, trial_id=trial_id, checkpoint_sha256=checkpoint_sha256)
        except VersionError:
            raise
        except StoreError:
            return set()
        return set(table["index"].to_pylist())

    remove_leftovers(folder.shards)
    finished: set[int] = set()
    paths = folder.shard_files()
    for path, indices in zip(paths, read_each(indices_of, paths), strict=True):
        if not indices or indices & finished:
            set_aside(path)
            continue
        finished |= indices
    return finished
