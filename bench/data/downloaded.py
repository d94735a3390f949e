"""CIFAR-10 and -100 (Krizhevsky, Nair & Hinton 2009), SVHN (Netzer et al. 2011), MNIST (LeCun et al. 1998) and
FashionMNIST (Xiao, Rasul & Vollgraf 2017): read once their checksums are verified, downloaded through torchvision."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.fetch import remove_abandoned
from bench.data.imageset import DataError, ImageSet, Split
from bench.data.known import KNOWN, KnownSet, idx_contents, md5
from bench.settings.registries import register_dataset
from results.store.folder import RemotePath, location

Read = tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...] | None]
"""Images (count, channel, height, width), labels (count,), and the names of the classes, if they have any."""
UNFINISHED = ".download-"
"""What folders are called into which a set is being downloaded."""


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
    from torchvision import datasets  # takes seconds to import, with torch

    kinds: dict[str, Any] = {
        "cifar10": datasets.CIFAR10,
        "cifar100": datasets.CIFAR100,
        "svhn": datasets.SVHN,
        "mnist": datasets.MNIST,
        "fashion_mnist": datasets.FashionMNIST,
    }
    known, kind = KNOWN[name], kinds[name]
    root.mkdir(parents=True, exist_ok=True)
    remove_abandoned(root, UNFINISHED)
    with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=root) as temporary:
        place = Path(temporary, known.place)
        place.mkdir(parents=True, exist_ok=True)
        for archive in known.archives:
            if (root / archive).is_file():  # fetched by hand; torchvision takes it if its checksum is right
                shutil.copy(root / archive, place)
        if name == "svhn":
            for split in ("train", "test"):
                kind(str(place), split=split, download=True)
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
        images, labels, classes = READERS[name](known, folder, split)
    except OSError:
        raise DataError(
            f"{folder}: a file of {known.title} is missing or damaged; delete the folder and try again"
        ) from None
    return ImageSet(images, labels, known.num_classes, classes, normalisation=known.normalisation, flip=known.flip)


def _read_pickles(known: KnownSet, folder: Path, split: Split) -> Read:
    assert known.names is not None
    batches = [_unpickled(folder, *file) for file in known.files[split]]
    images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([batch["labels" if "labels" in batch else "fine_labels"] for batch in batches])
    names = _unpickled(folder, *known.names)
    classes = names["label_names" if "label_names" in names else "fine_label_names"]
    return images, labels.astype(np.int64), tuple(classes)


def _unpickled(folder: Path, file: str, checksum: str) -> dict[str, Any]:
    """Of Python 2; by its checksum it is the authors' own file, and not code of somebody else."""
    found: dict[str, Any] = pickle.loads(_verified(folder / file, checksum), encoding="latin1")  # noqa: S301
    return found


def _read_mat(known: KnownSet, folder: Path, split: Split) -> Read:
    from scipy.io import loadmat

    [(file, checksum)] = known.files[split]
    content = io.BytesIO(_verified(folder / file, checksum))
    found = loadmat(content)  # type: ignore[arg-type]  # takes open files as well
    labels = found["y"].astype(np.int64).squeeze()
    return np.ascontiguousarray(found["X"].transpose(3, 2, 0, 1)), labels % 10, None  # 10 stands for the digit 0


def _read_idx(known: KnownSet, folder: Path, split: Split) -> Read:
    images, labels = (_idx(folder, *file) for file in known.files[split])
    return images[:, None], labels.astype(np.int64), known.classes


def _idx(folder: Path, file: str, checksum: str) -> NDArray[np.uint8]:
    """The array of a file in MNIST's form: two bytes 0, type, number of axes, their lengths, uint8.

    Raises:
        OSError: it is not there with the right checksum.
    """
    for content in idx_contents(folder, file):
        if md5(content) == checksum:
            axes = content[3]
            lengths = np.frombuffer(content, ">u4", axes, offset=4)
            return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(lengths).copy()
    raise FileNotFoundError(folder / file)


def _verified(path: Path, checksum: str) -> bytes:
    """The content of a file.

    Raises:
        OSError: it is not there with the right checksum.
    """
    content = path.read_bytes()
    if md5(content) != checksum:
        raise OSError(f"{path}: its checksum is wrong")
    return content


READERS: dict[str, Callable[[KnownSet, Path, Split], Read]] = {
    "cifar10": _read_pickles,
    "cifar100": _read_pickles,
    "svhn": _read_mat,
    "mnist": _read_idx,
    "fashion_mnist": _read_idx,
}


def _loader(name: str) -> Callable[[Split], ImageSet]:
    """Of a split from under $BENCH_DATA or ./data; raises as `find` and `load`."""
    return lambda split: load(name, find(name, given_place() or Path("data")), split)


for _name in KNOWN:
    register_dataset(_name)(_loader(_name))
