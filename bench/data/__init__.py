"""Image sets: synthetic, CIFAR-10, a folder of Parquet files, or a folder of image folders.

from bench.data import load_images
train = load_images("synthetic", "train")     # .images (count, 3, height, width) uint8, .labels (count,) int64
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from bench.data.files import dataset_name, holds_batches, load_folder
from bench.data.imageset import DataError, ImageSet, Split
from bench.data.synthetic import draw_synthetic

__all__ = ["DataError", "ImageSet", "Split", "dataset_name", "load_images", "resolve_data"]


def resolve_data(data: str) -> str:
    """What every worker can load, wherever it runs: "synthetic", or the absolute path of a folder.

    Args:
        data: "synthetic", "cifar10" (under ./data or $BENCH_DATA, downloaded when absent), or a folder.

    Raises:
        DataError: CIFAR-10 is neither there nor to be had.
    """
    if data == "synthetic":
        return data
    if data == "cifar10":
        from bench.data.cifar10 import find_cifar10  # torchvision takes seconds to import

        return str(find_cifar10())
    return str(Path(data).expanduser().absolute())


@lru_cache(maxsize=2)
def load_images(data: str, split: Split) -> ImageSet:
    """All images of a split; kept, so do not change them.

    Args:
        data: as `resolve_data` takes or gives it. A folder holds Parquet files in the layout of the Hugging Face hub,
            or train/ and test/ with a folder of images per class, or the batches of CIFAR-10.
        split: "train" or "test".

    Raises:
        DataError: nothing there, or not readable as images of one size with labels; says what was looked for.
    """
    if data == "synthetic":
        return draw_synthetic(split)
    folder = Path(resolve_data(data))
    if holds_batches(folder):
        from bench.data.cifar10 import load_batches

        return load_batches(folder, split)
    return load_folder(folder, split)
