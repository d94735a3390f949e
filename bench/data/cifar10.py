"""CIFAR-10 (Krizhevsky, Nair & Hinton 2009) through torchvision."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torchvision.datasets import CIFAR10

from bench.data.imageset import DataError, ImageSet, Split


def load_cifar10(split: Split) -> ImageSet:
    """CIFAR-10 from $BENCH_DATA or ./data, downloaded there when absent.

    Raises:
        DataError: it is not there and cannot be downloaded; says where to put it.
    """
    root = Path(os.environ.get("BENCH_DATA", "data")).absolute()
    try:
        dataset = CIFAR10(str(root), train=split == "train", download=not (root / CIFAR10.base_folder).is_dir())
    except (OSError, RuntimeError) as error:  # no network, no permission, a damaged file
        raise DataError(
            f"CIFAR-10 cannot be read or downloaded ({error}): put the python version's folder {CIFAR10.base_folder} "
            f"into {root} (or set BENCH_DATA to the folder that holds it), or give --data a folder of Parquet files"
        ) from None
    images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
    return ImageSet(images, torch.tensor(dataset.targets), num_classes=10)
