"""What the JSON files of a run must say, wherever they come from: each value that a reader uses, its type and range.

A record is checked where it is read, so that whatever was done to a file is told in one sentence.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from results.printable import shortened
from results.store.folder import AnyPath, TrialFolder, read_json, write_json
from results.store.remote import StorageError
from results.store.schema import TRIALS

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
Check = tuple[Callable[[Any], bool], str]
"""Whether a value is allowed, and what is, in words."""
STAGES = ("waiting", "training", "certifying", "running", "failed", "stopped")


def whole(least: int, below: int = 2**63) -> Check:
    return lambda value: type(value) is int and least <= value < below, f"a whole number from {least}, below {below}"


def real(least: float, most: float = math.inf) -> Check:
    def holds(value: Any) -> bool:
        return type(value) in (int, float) and least <= value <= most and abs(value) < 1e300

    return holds, f"a number of at least {least:g}" + (f", at most {most:g}" if most < math.inf else "")


def optional(check: Check) -> Check:
    return lambda value: value is None or check[0](value), f"{check[1]}, or null"


def each(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check[0], value)), f"a list, each {check[1]}"


text: Check = (lambda value: isinstance(value, str), "a string")
truth: Check = (lambda value: isinstance(value, bool), "true or false")
table: Check = (lambda value: isinstance(value, dict), "a JSON object")
trial_ids: Check = each(text)
memberships: Check = (
    lambda value: isinstance(value, dict) and all(map(trial_ids[0], value.values())),
    "a JSON object of lists of strings",
)

DESCRIPTION = {"trials": trial_ids}
DESCRIPTION_MAY = {"members": memberships, "group": table, "group.workers": real(1), "versions": table}
SETTINGS = {
    "name": (lambda value: isinstance(value, str) and bool(NAME.fullmatch(value)), "letters, digits, _ and -"),
    "sigma": (lambda value: real(0, 100)[0](value) and value > 0, "a number above 0, at most 100"),
    "seed": whole(0, 2**32),
    "certify": table,
    "certify.n": whole(1, 2**32),
    "certify.n0": whole(1, 2**32),
    "certify.alpha": (lambda value: real(0, 1)[0](value) and 0 < value < 1, "a number above 0 and below 1"),
    "certify.images": optional(whole(1, 2**32)),
    "certify.estimator": (lambda value: value in ["fixed", "two-stage", "imported"], "fixed, two-stage or imported"),
}
SETTINGS_MAY = {
    "certify.skip_misclassified": truth,
    "train": table,
    "train.epochs": whole(1, 2**32),
    "dataset": text,
    "model": text,
    "decomposition_ratio": optional(real(0)),
}
TRAINING = {
    "checkpoint_sha256": text,
    "test_images": whole(1, 10**7),
    "members": trial_ids,
    "title": text,
    "torch_version": text,
}
_WORDS = {
    "memory_kind": ("accelerator", "resident"),
    "status": ("certified", "abstained", "misclassified"),
    "estimator": ("fixed", "two-stage", "imported"),
}
"""All that some columns may say."""
_OF_TYPE = {pa.int64(): optional(whole(0)), pa.float64(): optional(real(0)), pa.string(): optional(text)}
TRAINING_MAY = {
    **{field.name: _OF_TYPE[field.type] for field in TRIALS if field.type in _OF_TYPE and field.name not in TRAINING},
    "num_classes": whole(2, 2**16),
    "source": text,
    "classes": optional(each(text)),
    "answers": each(each(real(-math.inf))),
    "memory_kind": (lambda value: value in (*_WORDS["memory_kind"], None), "accelerator, resident or null"),
}
_WORKER = {"host": text, "doing": text, "pid": optional(whole(0)), "cores": optional(real(0)), "gpu": optional(real(0))}
STATE_MAY = {
    "state": (lambda value: value in STAGES, ", ".join(STAGES)),
    "pid": whole(1, 2**31),
    "host": text,
    "error": text,
    "workers": each((lambda value: isinstance(value, dict) and _holds(value, _WORKER), "a worker")),
}


def read_description(path: AnyPath) -> dict[str, Any]:
    """run.json.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not one; names the file, the key, the value and what is allowed.
    """
    return check_record(path, read_json(path, *DESCRIPTION), DESCRIPTION, DESCRIPTION_MAY)


def read_settings_record(path: AnyPath) -> dict[str, Any]:
    """trial.json; raises as `read_description`."""
    record = check_record(path, read_json(path), SETTINGS, SETTINGS_MAY)
    if "epochs" not in record.get("train", {"epochs": 0}):
        raise ValueError(f"{path}: lacks train.epochs")
    if record["certify"]["estimator"] != "imported" and "skip_misclassified" not in record["certify"]:
        raise ValueError(f"{path}: lacks certify.skip_misclassified")
    return record


def read_training_record(path: AnyPath) -> dict[str, Any]:
    """training.json; raises as `read_description`."""
    return check_record(path, read_json(path), TRAINING, TRAINING_MAY)


def read_state_record(path: AnyPath) -> dict[str, Any]:
    """state.json; raises as `read_description`."""
    return check_record(path, read_json(path), {}, STATE_MAY)


DIGEST = "sha256"
"""Key of training.json."""


def write_training_record(folder: TrialFolder, record: dict[str, Any]) -> None:
    """Write training.json, with a digest of what it says."""
    write_json(folder.training, {**record, DIGEST: _digest_of(record)})


def whole_training_record(folder: TrialFolder) -> dict[str, Any]:
    """training.json without its digest; nothing where it does not read back as it was written."""
    try:
        record = read_json(folder.training)
    except StorageError:
        raise
    except (OSError, ValueError):
        return {}
    digest = record.pop(DIGEST, None)
    return record if digest in (None, _digest_of(record)) else {}


def _digest_of(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _holds(record: dict[str, Any], checks: dict[str, Check]) -> bool:
    return all(check[0](record[key]) for key, check in checks.items() if key in record)


def check_record(path: object, record: dict[str, Any], must: dict[str, Check], may: dict[str, Check]) -> dict[str, Any]:
    """The record itself.

    Args:
        must, may: by key, with a dot before a key of a nested object; only those of `must` have to be there.

    Raises:
        ValueError: a key is missing, or a value is not allowed.
    """
    for key, (holds, allowed) in {**must, **may}.items():
        value: Any = record
        for part in key.split("."):
            there = isinstance(value, dict) and part in value
            if not there:
                break
            value = value[part]
        if not there and key in must:
            raise ValueError(f"{path}: lacks {key}")
        if there and not holds(value):
            raise ValueError(f"{path}: {key} = {shortened(value)}: must be {allowed}")
    return record


_LEAST = {"predicted": -1.0}
_MOST = {"sigma": 100.0, "alpha": 1.0, "p_lower": 1.0, "noisy_test_accuracy": 1.0}


def check_values(table: pa.Table, path: object) -> None:
    """What always holds for a Parquet file of a run: its numbers are finite, not negative, and within their range.

    Raises:
        ValueError: names the file, the column and the first value that is not.
    """
    for field in table.schema:
        column = table[field.name].drop_null()
        if field.name == "method":
            for name in column.unique().to_pylist():
                if not NAME.fullmatch(name):
                    raise ValueError(f"{path}: method = {shortened(name)}: must be letters, digits, _ and -")
        if field.name == "settings":
            for settings in column.to_pylist():
                _check_settings(settings, path)
        for word in set(column.unique().to_pylist()) - set(_WORDS[field.name]) if field.name in _WORDS else ():
            raise ValueError(f"{path}: {field.name} = {shortened(word)}: must be {', '.join(_WORDS[field.name])}")
        if pa.types.is_list(field.type):
            column = pc.list_flatten(column).drop_null()
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            least = _LEAST.get(field.name, 0.0)
            most = _MOST.get(field.name, 2.0**53 if pa.types.is_integer(column.type) else 1e300)
            allowed = pc.and_(pc.greater_equal(column, least), pc.less_equal(column, most))  # false for NaN
            if not pc.all(allowed, min_count=0).as_py():
                value = column.filter(pc.invert(allowed))[0].as_py()
                raise ValueError(f"{path}: {field.name} = {value}: must be from {least:g} to {most:g}")


def _check_settings(settings: str, path: object) -> None:
    try:
        value = json.loads(settings)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: settings = {shortened(settings)}: must be a JSON object")
