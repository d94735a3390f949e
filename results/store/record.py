"""What the JSON records of a run have in common: typed, refused with file and key where they are wrong, and sealed."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable
from typing import Any, ClassVar, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from results.errors import StoreError
from results.printable import shortened
from results.store.folder import AnyPath, read_json, write_json

DIGEST = "sha256"
"""Key of a sealed record's own digest."""


class Record(BaseModel):
    """Typed values that refuse unknown keys and wrong types; not to be changed once made."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )


class FileRecord(Record):
    """A record that is a file of its own."""

    sealed: ClassVar[bool] = False
    """Whether the file carries a digest of what it says, so that damage shows."""

    @classmethod
    def read(cls, path: AnyPath) -> Self:
        """The record that a file holds.

        Raises:
            FileNotFoundError: there is none.
            StoreError: it is not one; names the file, the key, the value and what is allowed.
        """
        values = read_json(path)
        cls.refuse(values, path)
        if cls.sealed:
            digest = values.pop(DIGEST, None)
            if digest != digest_of(values):
                raise StoreError(f"{path}: is damaged: {DIGEST} is not the digest of what it says")
        return validated(cls, values, path)

    @classmethod
    def refuse(cls, values: dict[str, Any], path: AnyPath) -> None:
        """Raise StoreError for what a file of this kind must not be, before its values are looked at one by one."""

    def write(self, path: AnyPath) -> None:
        """Write the file whole, with its digest where it is sealed."""
        values = self.model_dump(mode="json")
        write_json(path, {**values, DIGEST: digest_of(values)} if self.sealed else values)


def digest_of(values: dict[str, Any]) -> str:
    """SHA-256 of JSON values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


Kind = TypeVar("Kind", bound=Record)


def validated(kind: type[Kind], values: dict[str, Any], place: object) -> Kind:
    """`values`, as JSON has them, as a record of that kind.

    Raises:
        StoreError: names the place, the key, the value and what is allowed.
    """
    try:
        return kind.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise StoreError(f"{place}: {explain(error, kind)}") from None


def explain(error: ValidationError, kind: type[BaseModel]) -> str:
    """The first thing wrong with a record, as one sentence with key, value and what is allowed."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _keys_beside(kind, first["loc"])
        return f"unknown key {key!r}{nearest(str(first['loc'][-1]), known) or '; known: ' + ', '.join(known)}"
    if first["type"] == "missing":
        return f"lacks {key}"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return message if not key else f"{key}: {message}"
    message = message[0].lower() + message[1:]
    return f"{key} = {shortened(first['input'])}: {message}" if key else message


def nearest(name: str, known: Iterable[str]) -> str:
    """`: did you mean …?` where a known name is close, otherwise an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f": did you mean {near[0]!r}?" if near else ""


def _keys_beside(kind: object, location: tuple[int | str, ...]) -> list[str]:
    """The keys allowed where `location` points, following nested records, also those in lists and tables."""
    current = kind
    for part in location[:-1]:
        found = _records_in(current)
        fields = found[0].model_fields if found else {}
        current = fields[str(part)].annotation if part in fields else current
    return list(found[0].model_fields) if (found := _records_in(current)) else []


def _records_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [record for part in get_args(annotation) for record in _records_in(part)]
