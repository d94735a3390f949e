"""Data sets that are registered under a name (`bench.settings.registries.DATASETS`)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from bench.data.imageset import DataError, ImageSet, Split, other_images
from bench.settings.normalisation import Normalisation
from bench.settings.registries import DATASETS

_names: dict[tuple[str, str, tuple[Split, ...]], str] = {}
"""What data sets were called when this process last looked at these splits; of another code one is another."""


def load_named(name: str, split: Split, dataset: str, splits: tuple[Split, ...]) -> ImageSet:
    """A split of a registered data set.

    Args:
        dataset: what it must be called, as `name_of_named` gives it for these splits; not compared where it has no
            fingerprint.

    Raises:
        DataError: its loader fails, or gives something else than images with labels; it is another one.
    """
    found = _load(name, split)
    if "@" in dataset:
        here = _names.get((name, DATASETS.code(name), splits)) or _name(name, splits, {split: found})
        if here != dataset:
            raise other_images(name, dataset, here)
    return found


def name_of_named(name: str, splits: tuple[Split, ...]) -> str:
    """The name itself for this program's own data; else with a fingerprint of all that belongs to these splits."""
    return _name(name, splits, {})


def _name(name: str, splits: tuple[Split, ...], loaded: Mapping[Split, ImageSet]) -> str:
    code = DATASETS.code(name)
    if not code:
        return name
    digest = hashlib.sha256()
    for split in splits:
        found = loaded[split] if split in loaded else _load(name, split)
        shape = ", ".join(map(str, found.images.shape))
        digest.update(f"{split} {shape} {found.num_classes} {found.classes}\n".encode())
        if (found.normalisation, found.flip) != (None, True):
            digest.update(f"{found.normalisation} {found.flip}\n".encode())
        digest.update(np.ascontiguousarray(found.images).data)
        digest.update(np.ascontiguousarray(found.labels, dtype="<i8").data)
    _names[name, code, splits] = f"{name}@{digest.hexdigest()[:8]}"
    return _names[name, code, splits]


def _load(name: str, split: Split) -> ImageSet:
    loader = DATASETS.find(name)
    try:
        found = loader(split)
    except Exception as error:
        if not DATASETS.code(name):
            raise
        if isinstance(error, DataError):  # whose sentence may be of an `ImageSet`, which has no name
            raise type(error)(f"data {name!r}: {error}") from error
        reason = " ".join(str(error).split())
        raise DataError(f"data {name!r}: its loader fails on {split!r}: {type(error).__name__}: {reason}") from error
    return _checked(name, found)


def _checked(name: str, found: object) -> ImageSet:
    if not isinstance(found, ImageSet):
        raise DataError(f"data {name!r}: its loader must return a bench.data.ImageSet, gave {type(found).__name__}")
    images, labels = found.images, found.labels
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise DataError(
            f"data {name!r}: images must be (count, 1 or 3, height, width), uint8, not "
            f"{_kind(images.shape, images.dtype)}"
        )
    if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
        raise DataError(
            f"data {name!r}: labels must be ({len(images)},), int64, not {_kind(labels.shape, labels.dtype)}"
        )
    if found.normalisation is None:
        return found
    if not isinstance(found.normalisation, Normalisation):
        kind = type(found.normalisation).__name__
        raise DataError(f"data {name!r}: its normalisation must be a bench.data.Normalisation, not a {kind}")
    if found.normalisation.channels != found.channels:
        raise DataError(
            f"data {name!r}: its normalisation must have as many means and stds as its images have channels, "
            f"{found.channels}, not {found.normalisation.channels}"
        )
    return found


def _kind(shape: tuple[int, ...], dtype: np.dtype) -> str:
    return f"{shape}, {dtype}"
