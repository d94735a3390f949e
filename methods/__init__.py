"""Training objectives: functions of the noisy logits (m, batch, num_classes) and the labels. torch only.

from methods import METHODS, get_method
get_method("consistency", strength=20.0).loss(logits, labels, sigma=0.25, epoch=0)
"""

from __future__ import annotations

import difflib
from dataclasses import fields

from .base import Method
from .consistency import Consistency, Ensemble
from .gaussian import Gaussian, GaussianLD
from .generalised import Generalised, Ours
from .macer import MACER

METHODS: dict[str, type[Method]] = {
    "gaussian": Gaussian,
    "gaussian_ld": GaussianLD,
    "consistency": Consistency,
    "macer": MACER,
    "ensemble": Ensemble,
    "generalised": Generalised,
    "ours": Ours,
}

__all__ = ["METHODS", "Method", "get_method"]


def get_method(name: str, /, **options: object) -> Method:
    """The objective called `name`, with the given options; the others keep the defaults of its class.

    Raises:
        ValueError: unknown method or option (with the nearest known name), or a value of the wrong type or range.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}{_nearest(name, list(METHODS))}")
    method = METHODS[name]
    known = {field.name: field.default for field in fields(method)}
    for option, value in options.items():
        if option not in known:
            raise ValueError(f"method {name!r} has no option {option!r}{_nearest(option, list(known))}")
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


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f": did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
