"""Folders of images: Parquet as the Hugging Face hub serves it, or one folder per class.

What a folder is called in tables depends on the images and labels that are read from it and on nothing else in it.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from bench.data.fetch import fetched
from bench.data.imageset import DataError, ImageSet, Split
from bench.data.known import name_in
from bench.settings.registries import DATASETS
from results.store.folder import RemotePath, location

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "labels", "fine_label")
SUFFIXES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA"}
"""Of pixels that become 8-bit RGB without loss."""

logger = logging.getLogger("bench")


@dataclass(frozen=True)
class _Encoded:
    """The images of one split, as files have them."""

    contents: list[bytes]
    labels: list[int]
    places: list[str]
    """Where each is, for messages."""
    classes: list[str] | None
    """Names of the labels, where the files tell."""


def name_of_folder(data: str, splits: tuple[Split, ...] = get_args(Split)) -> str:
    """What tables call a folder or its URL: its own name and a fingerprint of the images and labels of these splits, in
    their order; or the name of the data set of `bench.data.known` that it holds.

    Files that are not read are named in one warning, where all splits are.

    Raises:
        DataError: a folder that is not there, or that holds no usable images.
        StorageError: the store gives no answer.
    """
    place = location(data)
    folder = fetched(place) if isinstance(place, RemotePath) else _existing(place)
    if known := name_in(folder, splits):
        return known
    digest = hashlib.sha256()
    found, used = False, set()
    for split in splits:
        files = _files_of(folder, split)
        used.update(files)
        if files:
            found = True
            encoded = _read(folder, split, files, splits)
            for label, content in zip(encoded.labels, encoded.contents, strict=True):
                digest.update(f"{split} {label} {hashlib.sha256(content).hexdigest()}\n".encode())
    if not found:
        raise _nothing(folder, splits[-1])
    if splits == get_args(Split):
        _tell_of_the_rest(folder, used)
    name = place.name if isinstance(place, RemotePath) else folder.resolve().name
    return f"{name}@{digest.hexdigest()[:8]}"


def load_folder(folder: Path, split: Split, splits: tuple[Split, ...] = get_args(Split)) -> ImageSet:
    """The images of one split of a folder.

    Args:
        splits: which must have the same classes, where there are folders of them.

    Raises:
        DataError: neither layout is found, several are, or a file is not readable as images of one size with labels.
    """
    folder = _existing(folder)
    files = _files_of(folder, split)
    if not files:
        raise _nothing(folder, split)
    encoded = _read(folder, split, files, splits)
    known = len(encoded.classes or [])
    num_classes = known if known > max(encoded.labels) else max(encoded.labels) + 1
    names = tuple(encoded.classes) if encoded.classes and known == num_classes else None
    return ImageSet(_stack(encoded), np.array(encoded.labels), max(2, num_classes), names)


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise DataError(
            f"data {str(folder)!r} is not a folder; allowed: {', '.join(DATASETS)}, or a folder of images (one of your "
            "own: give --plugin)"
        )
    return folder


def _nothing(folder: Path, split: Split) -> DataError:
    return DataError(f"{folder}: found neither {split}-*.parquet nor a folder {split}/ with one folder per class")


def _files_of(folder: Path, split: Split) -> list[Path]:
    """The files that hold the images of a split, in the order of its images: all Parquet, or all images; none where
    there is neither.

    Raises:
        DataError: it cannot be told which they are.
    """
    tables = [path for path in sorted(folder.glob(f"**/{split}-*.parquet")) if not _hidden(path, folder)]
    if not tables:
        return [path for name in _classes(folder, split) for path in _images_in(folder / split / name)]
    places = sorted({path.parent for path in tables})
    if len(places) > 1:
        raise DataError(f"{folder}: holds several sets of images: give one of {', '.join(map(str, places))}")
    if _classes(folder, split):
        raise DataError(f"{folder}: holds both {split}-*.parquet and folders of images in {split}/: give one of them")
    parts = [re.fullmatch(rf"{split}-(\d+)-of-(\d+)", path.stem) for path in tables]
    if any(parts):
        wanted = max(int(part[2]) for part in parts if part)
        have = [int(part[1]) for part in parts if part and int(part[2]) == wanted]
        if len(have) < len(tables) or have != list(range(wanted)):
            names = ", ".join(path.name for path in tables)
            raise DataError(f"{places[0]}: {split} must be all {wanted} parts and nothing else, found {names}")
    return tables


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _classes(folder: Path, split: Split) -> list[str]:
    """The folders of a split that hold images, in the order of their labels: numbers by value, else by name."""
    if not (folder / split).is_dir():
        return []
    found = [path for path in (folder / split).iterdir() if path.is_dir() and not path.name.startswith(".")]
    names = sorted(path.name for path in found if any(_images_in(path)))
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else names


def _images_in(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield Path(place, name)


def _tell_of_the_rest(folder: Path, used: set[Path]) -> None:
    """Warn of what is in the folder and is not read."""
    rest = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path not in used)
    if rest:
        named = ", ".join(rest[:3]) + (f" and {len(rest) - 3} more" if len(rest) > 3 else "")
        logger.warning("%s: ignored, as no image of a class: %s", folder, named)


def _read(folder: Path, split: Split, files: list[Path], splits: tuple[Split, ...]) -> _Encoded:
    return _read_parquet(files) if files[0].suffix == ".parquet" else _read_images(folder, split, files, splits)


def _read_parquet(files: list[Path]) -> _Encoded:
    contents: list[bytes] = []
    labels: list[int] = []
    places: list[str] = []
    classes: list[str] | None = None
    for file in files:
        try:
            schema = pq.read_schema(file)
            image, label = (_pick(file, schema.names, allowed) for allowed in (IMAGE_COLUMNS, LABEL_COLUMNS))
            table = pq.read_table(file, columns=[image, label])
            rows = [row["bytes"] for row in table[image].to_pylist()]
        except (OSError, pa.ArrowException, KeyError, TypeError) as error:
            raise DataError(f"{file}: not readable as images and labels: {error}") from None
        if not pa.types.is_integer(table[label].type):
            raise DataError(f"{file}: {label} must be whole numbers, found {table[label].type}")
        contents += rows
        labels += table[label].to_pylist()
        places += [f"{file}: row {row}" for row in range(len(rows))]
        classes = _names_in(schema, label)
    if not labels or None in labels or None in contents:
        raise DataError(f"{files[0]}: no images, or a row without image or label")
    return _Encoded(contents, labels, places, classes)


def _names_in(schema: pa.Schema, label: str) -> list[str] | None:
    """The classes as the hub's metadata name them."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return names if isinstance(names, list) and names and all(isinstance(name, str) for name in names) else None


def _read_images(folder: Path, split: Split, files: list[Path], splits: tuple[Split, ...]) -> _Encoded:
    classes = {part: _classes(folder, part) for part in splits}
    if len(classes) > 1 and all(classes.values()) and classes["train"] != classes["test"]:
        raise DataError(
            f"{folder}: train/ and test/ must have the same classes, found {classes['train']} and {classes['test']}"
        )
    names = classes[split]
    numbers = {name: number for number, name in enumerate(names)}
    labels = [numbers[path.relative_to(folder / split).parts[0]] for path in files]
    try:
        contents = [path.read_bytes() for path in files]
    except OSError as error:
        raise DataError(f"{error.filename}: not readable: {error.strerror}") from None
    return _Encoded(contents, labels, [str(path) for path in files], names)


def _stack(encoded: _Encoded) -> NDArray[np.uint8]:
    """Decode images of one size into (count, 3, height, width); grey ones too, whose three channels are then equal."""
    pixels: NDArray[np.uint8] | None = None
    for index, (content, place) in enumerate(zip(encoded.contents, encoded.places, strict=True)):
        decoded = _decoded(content, place)
        if pixels is None:
            pixels = np.empty((len(encoded.contents), *decoded.shape), dtype=np.uint8)
        if decoded.shape != pixels.shape[1:]:
            wanted, found = (f"{shape[1]}×{shape[0]}" for shape in (pixels.shape[1:], decoded.shape))
            raise DataError(f"{place}: is {found}, the first image {wanted}: all must have one size")
        pixels[index] = decoded
    assert pixels is not None
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))


def _decoded(content: bytes, place: str) -> NDArray[np.uint8]:
    """(height, width, 3), as the image is meant to be seen.

    Raises:
        DataError: not an image, or one that 8-bit RGB cannot hold without loss.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            lost = _what_rgb_loses(image)
            if not lost:
                return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except UnidentifiedImageError:
        raise DataError(f"{place}: not readable as an image") from None
    except Exception as error:  # a damaged file may raise anything
        raise DataError(f"{place}: not readable as an image: {error}") from None
    raise DataError(f"{place}: {lost}: convert it to 8-bit RGB")


def _what_rgb_loses(image: Image.Image) -> str:
    """What of an image does not survive as 8-bit RGB; empty where all does."""
    raw = next(
        (str(tile[3]) for tile in getattr(image, "tile", [])), ""
    )  # as the file has them, before Pillow converts
    if image.mode not in MODES or ";16" in raw:
        return f"has pixels of mode {raw if ';16' in raw else image.mode}"
    if getattr(image, "n_frames", 1) > 1:
        return f"has {getattr(image, 'n_frames', 1)} frames"
    has_alpha = "A" in image.mode or "transparency" in image.info
    if has_alpha and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
        return f"has transparent pixels (mode {image.mode})"
    return ""


def _pick(file: Path, names: list[str], allowed: tuple[str, ...]) -> str:
    for name in allowed:
        if name in names:
            return name
    raise DataError(f"{file}: has none of the columns {', '.join(allowed)}; found {', '.join(names)}")
