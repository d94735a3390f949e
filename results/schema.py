"""The columns of the three Parquet files of a run, and of a shard. The version is in the files' metadata."""

from __future__ import annotations

import pyarrow as pa

SCHEMA_VERSION = 2
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
        pa.field("p_lower", pa.float64(), nullable=False),
        pa.field("selected", pa.int64(), nullable=False),  # the class that the n0 copies chose
        pa.field("count_top", pa.int64(), nullable=False),  # counts[selected]
        # copies drawn: the trial's n; fewer where the estimator is sequential or abstention was certain earlier (take
        # such a row for an abstention at any other alpha too); 0: misclassified
        pa.field("n", pa.int64(), nullable=False),
        pa.field("n0", pa.int64(), nullable=False),
        pa.field("alpha", pa.float64(), nullable=False),
        pa.field("estimator", pa.string(), nullable=False),  # fixed, sequential
        pa.field("classifier", pa.string(), nullable=False),  # network, mean of 3 logits, 2-consensus of 3
        pa.field("counts", pa.list_(pa.int64()), nullable=False),  # one per class; they sum to n
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("precision", pa.string(), nullable=False),  # fp32, bf16
        pa.field("engine", pa.string(), nullable=False),  # inductor (compiled), eager
        pa.field("device", pa.string(), nullable=False),
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
        pa.field("sigma", pa.float64(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
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
        pa.field("memory_bytes", pa.int64()),  # peak while training, summed over workers and members
        pa.field("member_memory_bytes", pa.int64()),  # peak of the largest member alone
        pa.field("memory_kind", pa.string()),  # accelerator, resident
        pa.field("certify_seconds", pa.float64(), nullable=False),  # summed over workers
        pa.field("certify_copies_per_second", pa.float64(), nullable=False),  # per worker
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


class SchemaError(ValueError):
    """A file with other columns than this version of the program writes."""


def with_identity(schema: pa.Schema, **identity: str) -> pa.Schema:
    """The schema with more metadata, such as the trial and checkpoint that a shard belongs to."""
    return schema.with_metadata({**_METADATA, **identity})


def check_schema(found: pa.Schema, expected: pa.Schema, file: object) -> None:
    """Raise SchemaError, naming the file, unless `found` has exactly the expected columns and version."""
    version = (found.metadata or {}).get(b"smoothing_bench_schema", b"none").decode()
    if version != str(SCHEMA_VERSION):
        raise SchemaError(f"{file}: has schema version {version}, this program reads {SCHEMA_VERSION}")
    if not found.equals(expected):
        odd = set(found.names) ^ set(expected.names)
        raise SchemaError(
            f"{file}: its columns are not those of version {SCHEMA_VERSION}: {', '.join(sorted(odd)) or 'types'}"
        )
