"""CIFAR-10 (Krizhevsky, Nair & Hinton 2009) through torchvision."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from torchvision.datasets import CIFAR10

from bench.data.imageset import DataError, ImageSet, Split
from bench.settings.registries import register_dataset
from results.store.folder import RemotePath, location


@register_dataset("cifar10")
def load_cifar10(split: Split) -> ImageSet:
    """A split from under $BENCH_DATA or ./data; raises as `find_cifar10` and `load_batches`."""
    return load_batches(find_cifar10(given_place() or Path("data")), split)


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


def given_place() -> Path | None:
    """$BENCH_DATA, where it is set."""
    given = os.environ.get("BENCH_DATA")
    place = location(given) if given else None
    if isinstance(place, RemotePath):
        raise DataError(f"BENCH_DATA={given}: must be a folder of this machine; --data takes a URL")
    return place


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
