"""Image sets: synthetic, CIFAR-10, a folder of Parquet files, or a folder of image folders; here or in a store.

from bench.data import load_images
train = load_images("synthetic", "train")     # .images (count, 3, height, width) uint8, .labels (count,) int64
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from bench.data.fetch import cache, fetched
from bench.data.files import dataset_name, holds_batches, load_folder
from bench.data.imageset import DataError, ImageSet, Split
from bench.data.synthetic import COUNTS, draw_synthetic
from results.store.folder import RemotePath, location

__all__ = ["DataError", "ImageSet", "Split", "count_images", "dataset_name", "load_images", "resolve_data"]


def resolve_data(data: str) -> str:
    """What every worker can load: "synthetic", the absolute path of a folder, or the URL of one (s3://…).

    Args:
        data: "synthetic", "cifar10" (under ./data or $BENCH_DATA, downloaded when absent), a folder or its URL.

    Raises:
        DataError: CIFAR-10 is neither there nor to be had.
        ValueError: a URL that cannot be opened.
    """
    if data == "synthetic":
        return data
    if data == "cifar10":
        from bench.data.cifar10 import find_cifar10  # torchvision takes seconds to import

        return str(find_cifar10(_place_of_cifar10() or Path("data")))
    return str(location(data))


def count_images(data: str, split: Split) -> int:
    """How many images a split has; those of a folder are all read, and refused if they are not usable.

    Raises:
        DataError, StorageError: as `load_images`.
    """
    return COUNTS[split] if data == "synthetic" else len(load_images(data, split))


@lru_cache(maxsize=2)
def load_images(data: str, split: Split, dataset: str = "") -> ImageSet:
    """All images of a split; kept, so do not change them.

    Args:
        data: as `resolve_data` takes or gives it. A folder holds Parquet files in the layout of the Hugging Face hub,
            or train/ and test/ with a folder of images per class, or the batches of CIFAR-10. One in a store is copied
            to this machine first.
        split: "train" or "test".
        dataset: as `dataset_name` gave it where the run was started: where the folder is not on this machine, CIFAR-10
            is looked for, or downloaded, under $BENCH_DATA or ~/.cache/smoothing-bench/data.

    Raises:
        DataError: nothing there, or not readable as images of one size with labels; says what was looked for.
        StorageError: the store gives no answer.
    """
    if data == "synthetic":
        return draw_synthetic(split)
    place = location(resolve_data(data))
    folder = fetched(place) if isinstance(place, RemotePath) else place
    if dataset == "cifar10" and not folder.exists():
        from bench.data.cifar10 import find_cifar10

        folder = find_cifar10(_place_of_cifar10() or cache())
    if holds_batches(folder):
        from bench.data.cifar10 import load_batches

        return load_batches(folder, split)
    return load_folder(folder, split)


def _place_of_cifar10() -> Path | None:
    given = os.environ.get("BENCH_DATA")
    place = location(given) if given else None
    if isinstance(place, RemotePath):
        raise DataError(f"BENCH_DATA={given}: must be a folder of this machine; --data takes a URL")
    return place
