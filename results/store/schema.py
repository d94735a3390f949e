"""The columns of the Parquet files of a run, and of a shard. The version is in the files' metadata."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from results.store.folder import AnyPath, refuse_devices, write_whole
from results.store.remote import StorageError

SCHEMA_VERSION = 5
LARGE = 1_000_000
"""Bytes from which on several threads read a file."""
_METADATA = {"smoothing_bench_schema": str(SCHEMA_VERSION)}

CERTIFICATES = pa.schema(
    [
        pa.field("trial_id", pa.string(), nullable=False),
        pa.field("method", pa.string(), nullable=False),  # row of the tables: a method, or a variant the grid names
        pa.field("sigma", pa.float64(), nullable=False),  # [0, 1] pixel units
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("index", pa.int64(), nullable=False),  # position in the split
        pa.field("label", pa.int64(), nullable=False),
        pa.field("predicted", pa.int64(), nullable=False),  # −1: no class is certified
        # certified; abstained; misclassified: the selected class is not the label, and nothing was estimated
        pa.field("status", pa.string(), nullable=False),
        pa.field("correct", pa.bool_(), nullable=False),  # predicted == label
        pa.field("radius", pa.float64(), nullable=False),  # ℓ2, [0, 1] pixel units; 0 unless certified
        # by p_A and p_B (thesis Eq. 2.6), each at half of alpha; null: imported, or not estimated to its end
        pa.field("radius_two_sided", pa.float64()),
        pa.field("p_lower", pa.float64(), nullable=False),
        pa.field("selected", pa.int64()),  # the class that the n0 copies chose; null: imported
        pa.field("count_top", pa.int64()),  # counts[selected]; null: imported
        # copies drawn: the trial's n; fewer where sampling is two-stage or abstention was certain earlier (take
        # such a row for an abstention at any other alpha too); 0: misclassified
        pa.field("n", pa.int64(), nullable=False),
        pa.field("n0", pa.int64(), nullable=False),
        pa.field("alpha", pa.float64(), nullable=False),
        # fixed; two-stage; imported: of another program's log, with the n and alpha that were stated for it
        pa.field("estimator", pa.string(), nullable=False),
        pa.field("classifier", pa.string(), nullable=False),  # network, mean of 3 logits, 2-consensus of 3
        pa.field("selection_counts", pa.list_(pa.int64())),  # of the n0 copies, one per class; null: imported
        pa.field("counts", pa.list_(pa.int64())),  # of the n copies, one per class; null: imported
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("joules", pa.float64()),  # of the whole accelerator, by its driver's counter; null: not reported
        pa.field(
            "precision", pa.string(), nullable=False
        ),  # fp32, bf16; unknown: imported, as engine, device and torch_version
        pa.field("engine", pa.string(), nullable=False),  # inductor (compiled), eager
        pa.field("batch", pa.int64()),  # copies of a forward pass; roundings differ with it; null: imported
        pa.field("device", pa.string(), nullable=False),
        pa.field("device_kind", pa.string()),  # cpu, cuda; their noise is drawn differently; null: imported
        pa.field("torch_version", pa.string(), nullable=False),
        pa.field("checkpoint_sha256", pa.string(), nullable=False),
    ],
    metadata=_METADATA,
)

# Columns that may be null are unknown where a model was trained elsewhere; a decomposition also where there is none.
TRIALS = pa.schema(
    [
        pa.field("trial_id", pa.string(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),  # the method's name in tables
        # the method beside which figures show it: that of which the grid makes a variant, or as its class says
        pa.field("variant_of", pa.string()),
        pa.field("colour_group", pa.string()),  # rows of one have one colour in figures; null: a colour of its own
        pa.field("sigma", pa.float64(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("classes", pa.list_(pa.string())),  # the name of each label; null: the data has none
        pa.field("model", pa.string(), nullable=False),
        pa.field("copies", pa.int64()),  # m
        pa.field("epochs", pa.int64()),
        pa.field("n", pa.int64(), nullable=False),
        pa.field("n0", pa.int64(), nullable=False),
        pa.field("alpha", pa.float64(), nullable=False),
        pa.field("images", pa.int64(), nullable=False),  # certified test images
        pa.field("decomposition_ratio", pa.float64()),
        pa.field("decomposition_kept", pa.int64()),  # directions, of channel × height × width
        pa.field("members", pa.list_(pa.string()), nullable=False),  # trial ids of an ensemble's members
        pa.field("train_seconds", pa.float64()),  # wall clock, summed over members
        pa.field("train_copies_per_second", pa.float64()),  # noisy copies
        pa.field("train_joules", pa.float64()),  # of the accelerators, their drivers' counters, summed over members
        pa.field("memory_bytes", pa.int64()),  # peak while training, summed over workers and members
        pa.field("member_memory_bytes", pa.int64()),  # peak of the largest member alone
        pa.field("memory_kind", pa.string()),  # accelerator, resident
        pa.field("certify_seconds", pa.float64(), nullable=False),  # summed over workers
        pa.field("certify_copies_per_second", pa.float64(), nullable=False),  # per worker
        pa.field("certify_joules", pa.float64()),
        pa.field("workers", pa.int64()),  # of the training
        pa.field("device", pa.string()),  # of the training
        pa.field("train_precision", pa.string()),
        pa.field("torch_version", pa.string(), nullable=False),
        pa.field("checkpoint_sha256", pa.string(), nullable=False),
        pa.field("settings", pa.string(), nullable=False),  # trial.json
    ],
    metadata=_METADATA,
)

EPOCHS = pa.schema(
    [
        pa.field("trial_id", pa.string(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
        pa.field("sigma", pa.float64(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("epoch", pa.int64(), nullable=False),  # from 0
        pa.field("learning_rate", pa.float64(), nullable=False),
        pa.field("loss", pa.float64(), nullable=False),  # mean over the epoch's images
        pa.field("noisy_test_accuracy", pa.float64(), nullable=False),  # of f, one noisy copy per test image
        pa.field("seconds", pa.float64(), nullable=False),  # wall clock of the epoch
    ],
    metadata=_METADATA,
)

SPECTRA = pa.schema(
    [
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("images", pa.int64(), nullable=False),  # training images
        pa.field("component", pa.int64(), nullable=False),  # from 0
        pa.field("variance", pa.float64(), nullable=False),  # falling; pixel values in [0, 1]
    ],
    metadata=_METADATA,
)

THUMBNAILS = pa.schema(
    [
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("index", pa.int64(), nullable=False),  # position in the test split
        pa.field("png", pa.binary(), nullable=False),  # at most 64 pixels wide and high
    ],
    metadata=_METADATA,
)


class SchemaError(ValueError):
    """A file with other columns than this version of the program writes."""


class VersionError(SchemaError):
    """A file of another version of this program."""


def with_identity(schema: pa.Schema, **identity: str) -> pa.Schema:
    """The schema with more metadata, such as the trial and checkpoint that a shard belongs to."""
    return schema.with_metadata({**_METADATA, **identity})


def write_table(path: AnyPath, table: pa.Table, **options: Any) -> None:
    """Write a Parquet file whose pages have checksums.

    Args:
        options: of `pyarrow.parquet.write_table`.
    """
    write_whole(path, lambda temporary: pq.write_table(table, temporary, write_page_checksum=True, **options))


def read_table(path: AnyPath, schema: pa.Schema) -> pa.Table:
    """A whole Parquet file with those columns.

    Raises:
        ValueError: unreadable, damaged, or of other columns; names the file.
        FileNotFoundError: not there.
        StorageError: the store gives no answer, which says nothing about the file.
    """
    refuse_devices(path)
    try:
        content = path.read_bytes()
        # Half the time of pq.read_table on a file of sixteen rows, of which a run has thousands.
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        table = file.read(use_threads=len(content) > LARGE)
        damaged = _contradicts_itself(file.metadata.metadata or {}, table.schema.names)
    except (FileNotFoundError, StorageError):
        raise
    except (OSError, pa.ArrowException, UnicodeDecodeError, binascii.Error) as error:
        raise ValueError(f"{path}: not readable as Parquet: {(str(error).splitlines() or ['?'])[0]}") from None
    if damaged:
        raise ValueError(f"{path}: not readable as Parquet: its header is damaged")
    check_schema(table.schema, schema, path)
    return table


def _contradicts_itself(metadata: dict[bytes, bytes], names: list[str]) -> bool:
    """Whether the metadata and names of a file are not those of the schema that Arrow stores beside them; pages have
    checksums, these have not."""
    stored = metadata.get(b"ARROW:schema")
    if stored is None:
        return False
    schema = pa.ipc.read_schema(pa.BufferReader(base64.b64decode(stored)))
    rest = {key: value for key, value in metadata.items() if key != b"ARROW:schema"}
    return schema.names != names or (schema.metadata or {}) != rest


def check_schema(found: pa.Schema, expected: pa.Schema, file: object) -> None:
    """Raise SchemaError, naming the file, unless `found` has exactly the expected columns and version."""
    version = (found.metadata or {}).get(b"smoothing_bench_schema", b"").decode(errors="replace")
    if not re.fullmatch(r"[0-9]{1,9}", version):
        raise SchemaError(f"{file}: has no schema version, so it is not a file of this program")
    if int(version) > SCHEMA_VERSION:
        raise VersionError(
            f"{file}: was written by a newer version of this program (schema {version}, this one reads "
            f"{SCHEMA_VERSION}): upgrade it"
        )
    if int(version) < SCHEMA_VERSION:
        raise VersionError(
            f"{file}: has schema version {version}, this program reads {SCHEMA_VERSION}: certify again into another "
            "folder, or read it with the version that wrote it"
        )
    if found.equals(expected):
        return
    missing, odd = set(expected.names) - set(found.names), set(found.names) - set(expected.names)
    if missing or odd:
        lacks = f"lacks the column{'s' * (len(missing) > 1)} {', '.join(sorted(missing))}"
        knows = f"has the unknown column{'s' * (len(odd) > 1)} {', '.join(sorted(odd))}"
        raise SchemaError(f"{file}: {' and '.join([lacks] * bool(missing) + [knows] * bool(odd))}")
    if found.names != expected.names:
        raise SchemaError(f"{file}: its columns are in another order than those of version {SCHEMA_VERSION}")
    for field in expected:
        other = found.field(field.name)
        if not other.equals(field):
            raise SchemaError(f"{file}: column {field.name} is {other.type}, expected {field.type}{_null(field)}")


def _null(field: pa.Field) -> str:
    return "" if field.nullable else " without nulls"
