"""CIFAR-10 (Krizhevsky, Nair & Hinton 2009) through torchvision."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from torchvision.datasets import CIFAR10

from bench.data.imageset import DataError, ImageSet, Split


def find_cifar10(root: Path) -> Path:
    """The folder of CIFAR-10's batches under `root`, absolute; downloaded when absent, maybe by several processes.

    Raises:
        DataError: it is not there and cannot be downloaded; says where to put it.
    """
    root = root.absolute()
    folder: Path = root / CIFAR10.base_folder
    if not folder.is_dir():
        try:
            _download(root, folder)
        except (OSError, RuntimeError) as error:  # no network, no permission
            raise DataError(
                f"CIFAR-10 is not there and cannot be downloaded ({error}): put the python version's folder "
                f"{CIFAR10.base_folder} into {root} (or set BENCH_DATA to the folder that holds it), or give --data a "
                "folder of Parquet files"
            ) from None
    return folder


def _download(root: Path, folder: Path) -> None:
    """Into a folder of its own, which is then put in place: a process sees all of it or nothing."""
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=root) as temporary:
        if (root / CIFAR10.filename).is_file():  # fetched by hand
            shutil.copy(root / CIFAR10.filename, temporary)
        CIFAR10(temporary, download=True)
        try:
            Path(temporary, CIFAR10.base_folder).rename(folder)
        except OSError:
            if not folder.is_dir():  # not because another process was faster
                raise


def load_batches(folder: Path, split: Split) -> ImageSet:
    """A split of CIFAR-10 from the folder of its batches, whose checksums torchvision verifies.

    Raises:
        DataError: a file is missing or damaged.
    """
    try:
        dataset = CIFAR10(str(folder.parent), train=split == "train")
    except (OSError, RuntimeError):
        raise DataError(
            f"{folder}: a file of CIFAR-10 is missing or damaged; delete the folder and try again"
        ) from None
    images = np.ascontiguousarray(dataset.data.transpose(0, 3, 1, 2))
    return ImageSet(images, np.array(dataset.targets), 10, tuple(dataset.classes))
