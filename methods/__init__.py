"""Training objectives, most of them functions of the noisy logits (m, batch, num_classes) and the labels.

from methods import METHODS, get_method
get_method("consistency", strength=20.0).loss(logits, labels, sigma=0.25, epoch=0)
"""

from __future__ import annotations

import difflib
from dataclasses import fields

from . import (  # noqa: F401  # they register their methods
    cat_rs,
    consistency,
    direct,
    gaussian,
    generalised,
    macer,
    smoothadv,
    smoothmix,
    stability,
    sun,
)
from .base import METHODS, Method, TrainingStep, register_method
from .registry import Registry, RegistryError
from .search import Among, Between

__all__ = [
    "METHODS",
    "Among",
    "Between",
    "Method",
    "Registry",
    "RegistryError",
    "TrainingStep",
    "get_method",
    "register_method",
]


def get_method(name: str, /, **options: object) -> Method:
    """The objective called `name`, with the given options; the others keep the defaults of its class.

    Raises:
        ValueError: unknown method or option (with the nearest known name), or a value of the wrong type or range.
    """
    method = METHODS.find(name)
    known = {field.name: field.default for field in fields(method)}
    for option, value in options.items():
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f": did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
            raise ValueError(f"method {name!r} has no option {option!r}{hint}")
        if not _same_type(known[option], value):
            expected = type(known[option]).__name__
            raise ValueError(f"method {name!r}: {option} = {value!r}: must be of type {expected}")
    try:
        return method(**options)  # type: ignore[arg-type]  # checked above, option by option
    except ValueError as error:
        raise ValueError(f"method {name!r}: {error}") from None


def _same_type(default: object, value: object) -> bool:
    if isinstance(default, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is type(default)
