"""CIFAR-10 (Krizhevsky, Nair & Hinton 2009) through torchvision."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torchvision.datasets import CIFAR10

from bench.data.imageset import DataError, ImageSet, Split


def find_cifar10() -> Path:
    """The folder of CIFAR-10's batches, absolute: in $BENCH_DATA or ./data, downloaded there when absent.

    Raises:
        DataError: it is not there and cannot be downloaded; says where to put it.
    """
    root = Path(os.environ.get("BENCH_DATA", "data")).absolute()
    folder: Path = root / CIFAR10.base_folder
    if not folder.is_dir():
        try:
            CIFAR10(str(root), download=True)
        except (OSError, RuntimeError) as error:  # no network, no permission
            raise DataError(
                f"CIFAR-10 is not there and cannot be downloaded ({error}): put the python version's folder "
                f"{CIFAR10.base_folder} into {root} (or set BENCH_DATA to the folder that holds it), or give --data a "
                "folder of Parquet files"
            ) from None
    return folder


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
    images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
    return ImageSet(images, torch.tensor(dataset.targets), num_classes=10)
