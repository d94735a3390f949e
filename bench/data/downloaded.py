"""CIFAR-10 and -100 (Krizhevsky, Nair & Hinton 2009), SVHN (Netzer et al. 2011), MNIST (LeCun et al. 1998) and
FashionMNIST (Xiao, Rasul & Vollgraf 2017) through torchvision."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torchvision.datasets import CIFAR10, CIFAR100, MNIST, SVHN, FashionMNIST

from bench.data.imageset import DataError, ImageSet, Split
from bench.data.known import CHECKSUMS, IDX, KNOWN, idx_contents, md5
from bench.settings.registries import register_dataset
from results.store.folder import RemotePath, location

Read = tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...] | None]
"""Images (count, channel, height, width), labels (count,), and the names of the classes, if they have any."""
KINDS: dict[str, Any] = {
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "svhn": SVHN,
    "mnist": MNIST,
    "fashion_mnist": FashionMNIST,
}


def find(name: str, root: Path) -> Path:
    """The folder of a data set under `root`, absolute; downloaded when absent, maybe by several processes.

    Raises:
        DataError: it is not there and cannot be downloaded; says where to put it.
    """
    known, root = KNOWN[name], root.absolute()
    folder = root / known.folder
    if not folder.is_dir():
        try:
            _download(name, root, folder)
        except (OSError, RuntimeError) as error:  # no network, no permission
            reason = " ".join(str(error).split())
            raise DataError(
                f"{known.title} is not there and cannot be downloaded ({reason}): put {known.wanted(root)} (or set "
                f"BENCH_DATA to the folder that holds {known.folder}), or give --data a folder of Parquet files"
            ) from None
    return folder


def given_place() -> Path | None:
    """$BENCH_DATA, where it is set."""
    given = os.environ.get("BENCH_DATA")
    place = location(given) if given else None
    if isinstance(place, RemotePath):
        raise DataError(f"BENCH_DATA={given}: must be a folder of this machine; --data takes a URL")
    return place


def _download(name: str, root: Path, folder: Path) -> None:
    """Into a folder of its own, which is then put in place: a process sees all of it or nothing."""
    known, kind = KNOWN[name], KINDS[name]
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=root) as temporary:
        place = Path(temporary, known.place)
        place.mkdir(parents=True, exist_ok=True)
        for archive in known.archives:
            if (root / archive).is_file():  # fetched by hand; torchvision takes it if its checksum is right
                shutil.copy(root / archive, place)
        if kind is SVHN:
            for split in ("train", "test"):
                SVHN(str(place), split=split, download=True)
        else:
            kind(temporary, download=True)
        try:
            Path(temporary, known.folder).rename(folder)
        except OSError:
            if not folder.is_dir():  # not because another process was faster
                raise


def load(name: str, folder: Path, split: Split) -> ImageSet:
    """A split of a data set from its folder, once its checksums are verified.

    Raises:
        DataError: a file is missing or damaged.
    """
    known = KNOWN[name]
    try:
        images, labels, classes = READERS[name](folder, split)
    except (OSError, RuntimeError):
        raise DataError(
            f"{folder}: a file of {known.title} is missing or damaged; delete the folder and try again"
        ) from None
    return ImageSet(images, labels, known.num_classes, classes, normalisation=known.normalisation, flip=known.flip)


def _read_cifar(kind: type[CIFAR10], folder: Path, split: Split) -> Read:
    # Whatever the folder is called; and torchvision would read all files to see whether they are damaged.
    other = "test_list" if split == "train" else "train_list"
    in_place: type[CIFAR10] = type(kind.__name__, (kind,), {"base_folder": "", other: []})
    found = in_place(str(folder), train=split == "train")
    images = np.ascontiguousarray(found.data.transpose(0, 3, 1, 2))
    return images, np.array(found.targets), tuple(found.classes)


def _read_svhn(folder: Path, split: Split) -> Read:
    found = SVHN(str(folder), split=split)
    return np.ascontiguousarray(found.data), found.labels, None


def _read_idx(name: str, folder: Path, split: Split) -> Read:
    images, labels = (_idx(name, folder, number) for number in ((0, 1) if split == "train" else (2, 3)))
    return images[:, None], labels.astype(np.int64), tuple(FashionMNIST.classes) if name == "fashion_mnist" else None


def _idx(name: str, folder: Path, number: int) -> NDArray[np.uint8]:
    """The array of a file in MNIST's form: two bytes 0, type, number of axes, their lengths, uint8.

    Raises:
        OSError: it is not there with the right checksum.
    """
    for content in idx_contents(folder, IDX[number]):
        if md5(content) == CHECKSUMS[name][number]:
            axes = content[3]
            lengths = np.frombuffer(content, ">u4", axes, offset=4)
            return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(lengths).copy()
    raise FileNotFoundError(folder / IDX[number])


READERS: dict[str, Callable[[Path, Split], Read]] = {
    "cifar10": partial(_read_cifar, CIFAR10),
    "cifar100": partial(_read_cifar, CIFAR100),
    "svhn": _read_svhn,
    "mnist": partial(_read_idx, "mnist"),
    "fashion_mnist": partial(_read_idx, "fashion_mnist"),
}


def _loader(name: str) -> Callable[[Split], ImageSet]:
    """Of a split from under $BENCH_DATA or ./data; raises as `find` and `load`."""
    return lambda split: load(name, find(name, given_place() or Path("data")), split)


for _name in KNOWN:
    register_dataset(_name)(_loader(_name))
