"""The Parquet files of a run, and of a shard: their schemas, and the one way in which they are written and read.

The version is in the files' metadata.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from results.errors import StoreError
from results.store.folder import NO_FILE, AnyPath, refuse_devices, write_whole
from results.store.rows import CertificateRow, EpochRow, SearchRow, SpectrumRow, ThumbnailRow, TrialRow, fields_of

SCHEMA_VERSION = 7
LARGE = 1_000_000
"""Bytes from which on several threads read a file."""
_METADATA = {"smoothing_bench_schema": str(SCHEMA_VERSION)}

CERTIFICATES = pa.schema(fields_of(CertificateRow), metadata=_METADATA)
TRIALS = pa.schema(fields_of(TrialRow), metadata=_METADATA)
EPOCHS = pa.schema(fields_of(EpochRow), metadata=_METADATA)
SPECTRA = pa.schema(fields_of(SpectrumRow), metadata=_METADATA)
SEARCH = pa.schema(fields_of(SearchRow), metadata=_METADATA)
THUMBNAILS = pa.schema(fields_of(ThumbnailRow), metadata=_METADATA)


class SchemaError(StoreError):
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
        StoreError: unreadable, damaged, or of other columns; names the file.
        FileNotFoundError: not there.
        OSError: the store, or the file system, gives no answer, which says nothing about the file.
    """
    refuse_devices(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except NO_FILE as error:
        raise StoreError(f"{path}: not readable as Parquet: {error.strerror}") from None
    try:
        # Half the time of pq.read_table on a file of sixteen rows, of which a run has thousands.
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        table = file.read(use_threads=len(content) > LARGE)
        damaged = _contradicts_itself(file.metadata.metadata or {}, table.schema.names)
    except (OSError, pa.ArrowException, UnicodeDecodeError, binascii.Error) as error:
        raise StoreError(f"{path}: not readable as Parquet: {(str(error).splitlines() or ['?'])[0]}") from None
    if damaged:
        raise StoreError(f"{path}: not readable as Parquet: its header is damaged")
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
    refuse_version(file, int(version))
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


def refuse_version(file: object, version: object) -> None:
    """Raise VersionError unless the version is this program's; older files have none in their JSON records."""
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise VersionError(
            f"{file}: was written by a newer version of this program (schema {version}, this one reads "
            f"{SCHEMA_VERSION}): upgrade it"
        )
    if version != SCHEMA_VERSION:
        which = f"has schema version {version}" if version is not None else "is of an older version of this program"
        raise VersionError(
            f"{file}: {which}, this program reads {SCHEMA_VERSION}: certify again into another folder, or read it with "
            "the version that wrote it"
        )


def _null(field: pa.Field) -> str:
    return "" if field.nullable else " without nulls"
