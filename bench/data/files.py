"""Folders of images: Parquet as the Hugging Face hub serves it, or one folder per class.

FOLDER#SHORT,CROP resizes and crops what it has, as is usual for ImageNet: FOLDER#256,224. Sets above `IN_MEMORY` stay
in their files.

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
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from bench.data.fetch import cache, fetched, wait_for_turn
from bench.data.imageset import DataError, ImageSet, NoSplitError, Split, other_images
from bench.data.known import name_in
from bench.data.stored import StoredImages
from bench.settings.registries import DATASETS
from results.store.folder import RemotePath, location, write_text
from results.store.record import nearest

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "labels", "fine_label")
SUFFIXES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA"}
"""Of pixels that become 8-bit RGB without loss."""
ORIENTATION = 0x0112
"""EXIF's tag; from 5 on width and height are exchanged."""

logger = logging.getLogger("bench")


IN_MEMORY = 256 * 2**20
"""Bytes of pixels of a split that is decoded once and kept; CIFAR-10's 50 000 images are 147 MiB."""
CROP = re.compile(r"(?P<folder>.+)#(?P<short>[1-9]\d{0,3})(,(?P<crop>[1-9]\d{0,3}))?", re.DOTALL)


@dataclass(frozen=True)
class Crop:
    """How images of any size become squares of one: the shorter side is resized, and the centre cropped, as the code
    published with Cohen et al. 2019 does it for ImageNet (torchvision's Resize and CenterCrop, of Pillow's images)."""

    short: int
    """Pixels of the shorter side."""
    side: int
    """Pixels of the square, at most as many."""

    def __call__(self, image: Image.Image) -> Image.Image:
        """The square."""
        width, height = (self.short * side // min(image.size) for side in image.size)
        left, top = (round((side - self.side) / 2) for side in (width, height))
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        return image.crop((left, top, left + self.side, top + self.side))


def split_crop(data: str) -> tuple[str, Crop | None]:
    """The folder or its URL, and what is done to its images.

    Raises:
        DataError: a crop that is larger than what it is taken from.
    """
    match = CROP.fullmatch(data)
    if not match:
        return data, None
    short = int(match["short"])
    crop = Crop(short, int(match["crop"] or short))
    if crop.side > crop.short:
        raise DataError(f"data {data!r}: a crop of {crop.side} is larger than the shorter side, {crop.short}")
    return match["folder"], crop


@dataclass(frozen=True)
class _Encoded:
    """The images of one split, as files have them."""

    labels: list[int]
    classes: list[str] | None
    """Names of the labels, where the files tell."""
    source: _Pictures | _Rows
    crop: Crop | None

    def contents(self) -> Iterator[tuple[bytes, str]]:
        """Each image as it is encoded, and where it is, for messages; one at a time."""
        for index in range(len(self.labels)):
            yield self.source.content(index), self.source.place(index)

    def decoded(self, index: int) -> NDArray[np.uint8]:
        """(channel, height, width)."""
        pixels = _decoded(self.source.content(index), self.source.place(index), self.crop)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))


class _Pictures:
    """One file for each image."""

    def __init__(self, files: list[Path]) -> None:
        self._files = files

    def content(self, index: int) -> bytes:
        """Raises DataError: the file cannot be read."""
        try:
            return self._files[index].read_bytes()
        except OSError as error:
            raise DataError(f"{error.filename}: not readable: {error.strerror}") from None

    def place(self, index: int) -> str:
        return str(self._files[index])


class _Rows:
    """Rows of Parquet files; of one row group at a time they are in memory."""

    def __init__(self, groups: list[tuple[Path, str, int, int]]) -> None:
        """groups: of each row group its file, the column of its images, its number, and how many rows it has."""
        self._groups = groups
        self._ends = np.cumsum([rows for *_, rows in groups])
        first = {file: group for group, (file, *_) in reversed([*enumerate(groups)])}
        self._firsts = [int(self._ends[first[file]] - groups[first[file]][3]) for file, *_ in groups]
        self._held: tuple[int, pa.ChunkedArray] | None = None

    def content(self, index: int) -> bytes:
        """Raises DataError: the file cannot be read, or has no image there."""
        group = self._group_of(index)
        if self._held is None or self._held[0] != group:
            self._held = None  # not two at once
            file, column, number, _ = self._groups[group]
            with _refusing(file), pq.ParquetFile(file) as opened:
                table = opened.read_row_group(number, columns=[f"{column}.bytes"], use_threads=False)
                self._held = group, _bytes_of(table, column)
        start = int(self._ends[group]) - self._groups[group][3]
        content = self._held[1][index - start].as_py()
        if content is None:
            raise DataError(f"{self.place(index)}: a row without image or label")
        assert isinstance(content, bytes)
        return content

    def place(self, index: int) -> str:
        group = self._group_of(index)
        return f"{self._groups[group][0]}: row {index - self._firsts[group]}"

    def _group_of(self, index: int) -> int:
        return int(np.searchsorted(self._ends, index, side="right"))


def _bytes_of(table: pa.Table, column: str) -> pa.ChunkedArray:
    """Raises TypeError: the column has none."""
    found = table[column]
    if not pa.types.is_struct(found.type):
        raise TypeError(f"{column} is {found.type}, expected a struct with bytes")
    return pa.chunked_array([chunk.field("bytes") for chunk in found.chunks], pa.binary())


@contextmanager
def _refusing(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, KeyError, TypeError) as error:
        raise DataError(f"{file}: not readable as images and labels: {error}") from None


def name_of_folder(data: str, splits: tuple[Split, ...]) -> str:
    """What tables call a folder or its URL: its own name and a fingerprint of the images and labels of these splits, in
    their order; or the name of the data set of `bench.data.known` that it holds.

    Files that are not read are named in one warning, where all splits are.

    Raises:
        DataError: a folder that is not there, or that holds no usable images.
        StorageError: the store gives no answer.
    """
    data, crop = split_crop(data)
    place = location(data)
    folder = fetched(place) if isinstance(place, RemotePath) else existing(place)
    if known := name_in(folder, splits):
        _refuse_crop(known, crop)
        return known
    files = _files_of_all(folder, splits)
    fingerprint = _fingerprint(folder, files, _state_of(folder, files))
    if splits == get_args(Split):
        _tell_of_the_rest(folder, {file for found in files.values() for file in found})
    name = place.name if isinstance(place, RemotePath) else folder.resolve().name
    cropped = f"-{crop.short}-{crop.side}" if crop else ""
    return f"{name}{cropped}@{fingerprint}"


def refuse_other_images(data: str, folder: Path, dataset: str, splits: tuple[Split, ...]) -> None:
    """Raise DataError where a folder, or the copy of one in a store, holds other images or labels of these splits than
    those that are called `dataset`: a machine may have another copy on a disk of its own.

    Files that were looked at before, and have not changed since, are not read again.
    """
    files = _files_of_all(existing(folder), splits)
    state = _state_of(folder, files)
    found = _fingerprints.known(state)
    if found is None:
        with _fingerprints.one_at_a_time(state):  # the others wait, and then know it
            found = _fingerprints.known(state) or _fingerprint(folder, files, state)
    if found != dataset.rpartition("@")[2]:
        raise other_images(data, dataset, found)


def _files_of_all(folder: Path, splits: tuple[Split, ...]) -> dict[Split, list[Path]]:
    files = {split: _files_of(folder, split) for split in splits}
    if not any(files.values()):
        raise _nothing(folder, splits[-1])
    return files


def _fingerprint(folder: Path, files: dict[Split, list[Path]], state: str) -> str:
    """Eight hexadecimal digits of the images and labels, in their order; kept if the files' state is still this one
    when they have been read."""
    digest = hashlib.sha256()
    for split, found in files.items():
        if found:
            encoded = _read(folder, split, found, tuple(files), None)
            for label, (content, _) in zip(encoded.labels, encoded.contents(), strict=True):
                digest.update(f"{split} {label} {hashlib.sha256(content).hexdigest()}\n".encode())
    fingerprint = digest.hexdigest()[:8]
    if _state_of(folder, files) == state:
        _fingerprints.keep(state, fingerprint)
    return fingerprint


def _state_of(folder: Path, files: dict[Split, list[Path]]) -> str:
    """A digest of which files these are, and when they were written."""
    listing = hashlib.sha256(f"{folder.resolve()}\n".encode())
    for split, found in files.items():
        for file in found:
            state = ""
            with suppress(OSError):  # reading it will tell
                seen = file.stat()
                state = f"{seen.st_ino} {seen.st_size} {seen.st_mtime_ns} {seen.st_ctime_ns}"
            listing.update(f"{split} {file} {state}\n".encode())
    return listing.hexdigest()


class _Fingerprints:
    """What files had when they were read, by their state: in this process, and in the user's .cache for others."""

    def __init__(self) -> None:
        self._here: dict[str, str] = {}

    def known(self, state: str) -> str | None:
        """The fingerprint; None: such files were not read."""
        if state not in self._here:
            with suppress(OSError, ValueError, DataError):
                if found := self._note(state).read_text(encoding="ascii"):  # who reads the images holds an empty one
                    self._here[state] = found
        return self._here.get(state)

    def keep(self, state: str, fingerprint: str) -> None:
        """Remember it; a cache that cannot be written keeps nothing for other processes."""
        self._here[state] = fingerprint
        with suppress(OSError, DataError):
            write_text(self._note(state), fingerprint)

    @contextmanager
    def one_at_a_time(self, state: str) -> Iterator[None]:
        """A block that no other process of this user enters meanwhile for files of this state, where there is a
        cache; machines that share it and have copies of their own do not wait for each other."""
        with ExitStack() as stack:
            with suppress(OSError, DataError):
                place = self._note(state)  # which `keep` replaces
                place.parent.mkdir(parents=True, exist_ok=True)
                wait_for_turn(stack.enter_context(place.open("ab")))
            yield

    def _note(self, state: str) -> Path:
        return cache().with_name("fingerprints") / state[:32]


_fingerprints = _Fingerprints()


def load_folder(folder: Path, split: Split, splits: tuple[Split, ...], crop: Crop | None) -> ImageSet:
    """The images of one split of a folder; in memory, or, where they are many or large, in their files.

    Args:
        splits: which must have the same classes, where there are folders of them.

    Raises:
        DataError: neither layout is found, several are, or a file is not readable as images of one size with labels.
    """
    folder = existing(folder)
    files = _files_of(folder, split)
    if not files:
        raise _nothing(folder, split)
    encoded = _read(folder, split, files, splits, crop)
    known = len(encoded.classes or [])
    num_classes = known if known > max(encoded.labels) else max(encoded.labels) + 1
    names = tuple(encoded.classes) if encoded.classes and known == num_classes else None
    first = encoded.decoded(0)
    images: NDArray[np.uint8] | StoredImages
    if len(encoded.labels) * first.nbytes > IN_MEMORY:
        _check_sizes(encoded, first.shape)
        images = StoredImages(partial(_sized, encoded, first.shape), first.shape, range(len(encoded.labels)))
    else:
        images = _stack(encoded, first.shape)
    return ImageSet(images, np.array(encoded.labels), max(2, num_classes), names)


def _refuse_crop(known: str, crop: Crop | None) -> None:
    if crop:
        raise DataError(f"{known}: is not cropped: leave out #{crop.short},{crop.side}")


def existing(folder: Path) -> Path:
    """The folder.

    Raises:
        DataError: it is none.
    """
    if not folder.is_dir():
        raise DataError(
            f"data {str(folder)!r} is not a folder; allowed: {', '.join(DATASETS)}, or a folder of images"
            f"{nearest(folder.name, DATASETS)} (one of your own: give --plugin)"
        )
    return folder


def _nothing(folder: Path, split: Split) -> NoSplitError:
    return NoSplitError(f"{folder}: found neither {split}-*.parquet nor a folder {split}/ with one folder per class")


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


def _read(folder: Path, split: Split, files: list[Path], splits: tuple[Split, ...], crop: Crop | None) -> _Encoded:
    """What is where; images themselves are read when they are wanted."""
    if files[0].suffix == ".parquet":
        return _read_parquet(files, crop)
    return _read_images(folder, split, files, splits, crop)


def _read_parquet(files: list[Path], crop: Crop | None) -> _Encoded:
    labels: list[int] = []
    groups: list[tuple[Path, str, int, int]] = []
    classes: list[str] | None = None
    for file in files:
        with _refusing(file), pq.ParquetFile(file) as opened:
            schema, metadata = opened.schema_arrow, opened.metadata
            image, label = (_pick(file, schema.names, allowed) for allowed in (IMAGE_COLUMNS, LABEL_COLUMNS))
            column = opened.read(columns=[label])[label]
            groups += [
                (file, image, number, metadata.row_group(number).num_rows) for number in range(metadata.num_row_groups)
            ]
        if not pa.types.is_integer(column.type):
            raise DataError(f"{file}: {label} must be whole numbers, found {column.type}")
        labels += column.to_pylist()
        classes = _names_in(schema, label)
    if not labels or None in labels:
        raise DataError(f"{files[0]}: no images, or a row without image or label")
    return _Encoded(labels, classes, _Rows([group for group in groups if group[3]]), crop)


def _names_in(schema: pa.Schema, label: str) -> list[str] | None:
    """The classes as the hub's metadata name them."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return names if isinstance(names, list) and names and all(isinstance(name, str) for name in names) else None


def _read_images(
    folder: Path, split: Split, files: list[Path], splits: tuple[Split, ...], crop: Crop | None
) -> _Encoded:
    classes = {part: _classes(folder, part) for part in splits}
    if len(classes) > 1 and all(classes.values()) and classes["train"] != classes["test"]:
        raise DataError(
            f"{folder}: train/ and test/ must have the same classes, found {classes['train']} and {classes['test']}"
        )
    names = classes[split]
    numbers = {name: number for number, name in enumerate(names)}
    labels = [numbers[path.relative_to(folder / split).parts[0]] for path in files]
    return _Encoded(labels, names, _Pictures(files), crop)


def _stack(encoded: _Encoded, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Decode images of one size into (count, 3, height, width); grey ones too, whose three channels are then equal."""
    pixels = np.empty((len(encoded.labels), *shape), dtype=np.uint8)
    for index in range(len(pixels)):
        pixels[index] = _sized(encoded, shape, index)
    return pixels


def _sized(encoded: _Encoded, shape: tuple[int, ...], index: int) -> NDArray[np.uint8]:
    decoded = encoded.decoded(index)
    _refuse_other_size(encoded.source.place(index), decoded.shape, shape)
    return decoded


def _check_sizes(encoded: _Encoded, shape: tuple[int, ...]) -> None:
    """Look at the headers of images that are not decoded now.

    Raises:
        DataError: one is no image, or of another size.
    """
    for content, place in encoded.contents():
        with _opened(content, place) as image:
            width, height = image.size
            turned = "exif" in image.info and image.getexif().get(ORIENTATION, 1) >= 5  # without it PNGs are decoded
        if encoded.crop is None:
            _refuse_other_size(place, (3, width, height) if turned else (3, height, width), shape)


def _refuse_other_size(place: str, found: tuple[int, ...], first: tuple[int, ...]) -> None:
    if found != first:
        is_, wanted = (f"{shape[2]}×{shape[1]}" for shape in (found, first))
        raise DataError(
            f"{place}: is {is_}, the first image {wanted}: all must have one size, or be resized and cropped: "
            "FOLDER#256,224 takes the centre of 224 of what has 256 on its shorter side"
        )


@contextmanager
def _opened(content: bytes, place: str) -> Iterator[Image.Image]:
    """An image whose pixels may not be read yet; whatever is wrong with it becomes one sentence."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            yield image
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(f"{place}: not readable as an image") from None
    except Exception as error:  # a damaged file may raise anything
        raise DataError(f"{place}: not readable as an image: {error}") from None


def _decoded(content: bytes, place: str, crop: Crop | None = None) -> NDArray[np.uint8]:
    """(height, width, 3), as the image is meant to be seen.

    Raises:
        DataError: not an image, or one that 8-bit RGB cannot hold without loss.
    """
    with _opened(content, place) as image:
        if lost := _what_rgb_loses(image):
            raise DataError(f"{place}: {lost}: convert it to 8-bit RGB")
        seen = ImageOps.exif_transpose(image).convert("RGB")
        return np.asarray(crop(seen) if crop else seen)


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
