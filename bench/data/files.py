"""Folders of images: Parquet as the Hugging Face hub serves it, or one folder per class."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from bench.data.imageset import DataError, ImageSet, Split
from results.folder import RemotePath, location

IMAGE_COLUMNS = ("img", "image")
BATCHES = {"data_batch_1", "batches.meta"}
LABEL_COLUMNS = ("label", "labels", "fine_label")


def dataset_name(data: str) -> str:
    """What tables call the data. A folder's name carries a fingerprint of its files' names and sizes.

    Raises:
        DataError: a folder that is not there or is empty.
    """
    if data in ("synthetic", "cifar10"):
        return data
    place = location(data)
    if isinstance(place, RemotePath):
        name, files = place.name, {path.key.relative_to(place.key): size for path, size in place.walk()}
        if not files:
            raise DataError(f"data {data!r} is not a folder with files")
    else:
        folder = _existing(place)
        name = folder.resolve().name
        paths = [path for path in folder.rglob("*") if path.is_file()]
        files = {PurePosixPath(path.relative_to(folder)): path.stat().st_size for path in paths}
    if {str(path) for path in files} >= BATCHES:
        return "cifar10"
    images = sorted(path for path in files if path.suffix not in ("", ".md", ".txt"))
    listing = "\n".join(f"{path} {files[path]}" for path in images)
    return f"{name}@{hashlib.sha256(listing.encode()).hexdigest()[:8]}"


def holds_batches(folder: Path) -> bool:
    """Whether the folder is CIFAR-10 as its authors serve it for python."""
    return all((folder / name).is_file() for name in BATCHES)


def load_folder(folder: Path, split: Split) -> ImageSet:
    """The images of one split of a folder.

    Raises:
        DataError: neither layout is found, or a file is not readable as images of one size with labels.
    """
    folder = _existing(folder)
    files = sorted(folder.glob(f"**/{split}-*.parquet"))
    if files:
        return _load_parquet(files)
    if (folder / split).is_dir():
        return _load_image_folder(folder / split)
    raise DataError(f"{folder}: found neither {split}-*.parquet nor a folder {split}/ with one folder per class")


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise DataError(f"data {str(folder)!r} is not a folder; allowed: synthetic, cifar10, or a folder of images")
    return folder


def _load_parquet(files: list[Path]) -> ImageSet:
    encoded: list[bytes] = []
    labels: list[int] = []
    for file in files:
        try:
            names = pq.read_schema(file).names
            image, label = (_pick(file, names, allowed) for allowed in (IMAGE_COLUMNS, LABEL_COLUMNS))
            table = pq.read_table(file, columns=[image, label])
            encoded += [row["bytes"] for row in table[image].to_pylist()]
            labels += table[label].to_pylist()
        except (OSError, pa.ArrowException, KeyError, TypeError) as error:
            raise DataError(f"{file}: not readable as images and labels: {error}") from None
    if not labels or None in labels or None in encoded:
        raise DataError(f"{files[0]}: no images, or a row without image or label")
    pixels = _stack(files[0].parent, (io.BytesIO(data) for data in encoded), len(encoded))
    return ImageSet(pixels, np.array(labels), num_classes=max(2, max(labels) + 1))


def _load_image_folder(folder: Path) -> ImageSet:
    from torchvision.datasets import ImageFolder  # takes seconds to import

    classes = [sorted(path.name for path in (folder.parent / split).glob("*/")) for split in ("train", "test")]
    if all(classes) and classes[0] != classes[1]:
        raise DataError(
            f"{folder.parent}: train/ and test/ must have the same classes, found {classes[0]} and {classes[1]}"
        )
    try:
        dataset = ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise DataError(f"{folder}: {error}") from None
    pixels = _stack(folder, (path for path, _ in dataset.samples), len(dataset.samples))
    return ImageSet(pixels, np.array(dataset.targets), num_classes=max(2, len(dataset.classes)))


def _stack(place: Path, sources: Iterable[str | io.BytesIO], count: int) -> NDArray[np.uint8]:
    """Decode images of one size into (count, 3, height, width)."""
    pixels: NDArray[np.uint8] | None = None
    for index, source in enumerate(sources):
        try:
            with Image.open(source) as image:
                decoded = np.asarray(image.convert("RGB"))
        except (OSError, UnidentifiedImageError) as error:
            raise DataError(f"{place}: image {index} is not readable: {error}") from None
        if pixels is None:
            pixels = np.empty((count, *decoded.shape), dtype=np.uint8)
        if decoded.shape != pixels.shape[1:]:
            wanted, found = (f"{shape[1]}×{shape[0]}" for shape in (pixels.shape[1:], decoded.shape))
            raise DataError(f"{place}: image {index} is {found}, the first one {wanted}: all must have one size")
        pixels[index] = decoded
    assert pixels is not None
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))


def _pick(file: Path, names: list[str], allowed: tuple[str, ...]) -> str:
    for name in allowed:
        if name in names:
            return name
    raise DataError(f"{file}: has none of the columns {', '.join(allowed)}; found {', '.join(names)}")
