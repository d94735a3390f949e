"""Image sets: by name, a folder of Parquet files, or a folder of image folders; here or in a store.

from bench.data import load_images
train = load_images("synthetic", "train")     # .images (count, channel, height, width) uint8, .labels (count,) int64
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import get_args

from bench.data.fetch import cache, fetched
from bench.data.files import existing, load_folder, name_of_folder, refuse_other_images, split_crop
from bench.data.held_out import held_out_of, name_of, name_of_whole, parts_of, split_in_two
from bench.data.imageset import DataError, ImageSet, Split, other_images
from bench.data.known import KNOWN, name_in
from bench.data.named import load_named, name_of_named
from bench.data.stored import StoredImages
from bench.settings.normalisation import Normalisation
from bench.settings.registries import DATASETS
from results.store.folder import RemotePath, location

__all__ = [
    "DataError",
    "ImageSet",
    "Normalisation",
    "Split",
    "StoredImages",
    "count_channels",
    "count_images",
    "dataset_name",
    "held_out_of",
    "load_images",
    "refuse_missing",
    "resolve_data",
    "split_name",
]


def resolve_data(data: str) -> str:
    """What every worker can load: the name of a data set, the absolute path of a folder, or the URL of one (s3://…).

    Args:
        data: "synthetic", one of `KNOWN` such as "cifar10" (under ./data or $BENCH_DATA, downloaded when absent), the
            name of another registered data set, a folder or its URL; FOLDER#SHORT,CROP, whose images are resized and
            cropped; or what `held_out_of` gives.

    Raises:
        DataError: one of `KNOWN` is neither there nor to be had.
        ValueError: a URL that cannot be opened.
    """
    if parts := parts_of(data):
        return held_out_of(resolve_data(parts[1]), parts[0])
    if data in KNOWN:  # workers are told where it is, for ./data is another folder to them
        from bench.data.downloaded import find, given_place

        return str(find(data, given_place() or Path("data")))
    if data in DATASETS:
        return data
    folder, crop = split_crop(data)
    return f"{location(folder)}#{crop.short},{crop.side}" if crop else str(location(folder))


def refuse_missing(data: str) -> None:
    """Raise DataError for a folder of this machine that is not there; whatever else is wrong with the data is found
    when it is read."""
    if parts := parts_of(data):
        data = parts[1]
    if data not in DATASETS:
        place = location(split_crop(data)[0])
        if not isinstance(place, RemotePath):
            existing(place)


def dataset_name(data: str) -> str:
    """What tables call the data. Where it is not this program's own, the name carries a fingerprint of its images and
    labels, in their order.

    Files of a folder that are not read are named in one warning.

    Raises:
        DataError: a folder that is not there, or that holds no usable images; or as `load_images`.
        StorageError: the store gives no answer.
    """
    if parts := parts_of(data):
        return name_of(_name(parts[1], ("train",)), parts[0])
    return _name(data, get_args(Split))


def _name(data: str, splits: tuple[Split, ...]) -> str:
    return name_of_named(data, splits) if data in DATASETS else name_of_folder(data, splits)


def split_name(data: str) -> str:
    """Of which split the images are that a trial certifies on this data."""
    return "held out of train" if parts_of(data) else "test"


def count_images(data: str, split: Split) -> int:
    """How many images a split has; they are all read, and refused if they are not usable.

    Raises:
        DataError, StorageError: as `load_images`.
    """
    if data == "synthetic":  # to draw them takes a second
        from bench.data.synthetic import COUNTS

        return COUNTS[split]
    return len(load_images(data, split))


def count_channels(data: str) -> int:
    """1 or 3.

    Raises:
        DataError, StorageError: as `load_images`.
    """
    return 3 if data == "synthetic" else load_images(data, "train").channels


@lru_cache(maxsize=2)
def load_images(data: str, split: Split, dataset: str = "") -> ImageSet:
    """All images of a split; kept, so do not change them. Those of a large folder stay in their files.

    Args:
        data: as `resolve_data` takes or gives it. A folder holds Parquet files in the layout of the Hugging Face hub,
            or train/ and test/ with a folder of images per class, or the files of one of `KNOWN` as its authors serve
            it. One in a store is copied to this machine first.
        split: "train" or "test".
        dataset: as `dataset_name` gave it where the run was started: other images are refused. Where the folder is not
            on this machine, one of `KNOWN` is looked for, or downloaded, under $BENCH_DATA or
            ~/.cache/smoothing-bench/data.

    Raises:
        DataError: nothing there, or not readable as images of one size with labels, or not those of `dataset`; says
            what was looked for.
        StorageError: the store gives no answer.
    """
    if parts := parts_of(data):
        count, whole = parts
        return split_in_two(_load(whole, ("train",), name_of_whole(dataset)), count, split)
    return _load(data, (split, *(other for other in get_args(Split) if other != split)), dataset)


def _load(data: str, splits: tuple[Split, ...], dataset: str) -> ImageSet:
    """The images of the first split; the others may be looked at to see that they belong together."""
    split = splits[0]
    named = tuple(part for part in get_args(Split) if part in splits)  # as the name has them
    if data in DATASETS:
        return load_named(data, split, dataset, named)
    data, crop = split_crop(data)
    place = location(data)
    folder = fetched(place) if isinstance(place, RemotePath) else place
    if dataset in KNOWN and not folder.exists():
        from bench.data.downloaded import find, given_place

        folder = find(dataset, given_place() or cache())
        data = str(folder)  # for messages
    known = name_in(folder, splits)
    if known != dataset and (known or dataset in KNOWN) and dataset:
        raise other_images(data, dataset, known or "a folder of images")
    if known:
        from bench.data.downloaded import load

        return load(known, folder, split)
    if "@" in dataset:
        refuse_other_images(data, folder, dataset, named)
    return load_folder(folder, split, splits, crop)
