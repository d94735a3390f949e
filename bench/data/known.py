"""The data sets that are had by name: what belongs to each, and how it lies in a folder.

Without torchvision, which takes seconds to import.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.data.imageset import DataError, Split
from bench.settings.normalisation import CIFAR10, Normalisation

IDX: dict[Split, tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
"""The files of MNIST, and of others in its form: images and labels."""
IDX_ARCHIVES = tuple(f"{file}.gz" for pair in IDX.values() for file in pair)


@dataclass(frozen=True)
class KnownSet:
    """A data set as its authors serve it."""

    title: str
    folder: str
    """Where it is under $BENCH_DATA or ./data."""
    archives: tuple[str, ...]
    """What is downloaded, or fetched by hand."""
    num_classes: int
    normalisation: Normalisation
    files: Mapping[Split, tuple[tuple[str, str], ...]]
    """Of each split the files and their MD5; of those of `IDX` as they are unpacked."""
    names: tuple[str, str] | None = None
    """The file that has the names of the classes, and its MD5."""
    flip: bool = True
    """As `bench.data.ImageSet` has it."""
    marks: tuple[str, ...] = ()
    """Files by which a folder is known to hold it; none where the checksums of `IDX` tell."""
    classes: tuple[str, ...] | None = None
    """Their names, where no file has them."""
    place: str = ""
    """Where under $BENCH_DATA or ./data torchvision looks for the archives."""

    def wanted(self, root: Path) -> str:
        """What to put where by hand."""
        if self.place:
            return f"{', '.join(self.archives)} into {root / self.place}"
        return f"the python version's folder {self.folder} into {root}"


def _in_idx(train: tuple[str, str], test: tuple[str, str]) -> dict[Split, tuple[tuple[str, str], ...]]:
    """The files of `IDX` with these MD5."""
    sums: dict[Split, tuple[str, str]] = {"train": train, "test": test}
    return {split: tuple(zip(IDX[split], sums[split], strict=True)) for split in IDX}


KNOWN = {
    "cifar10": KnownSet(
        title="CIFAR-10",
        folder="cifar-10-batches-py",
        archives=("cifar-10-python.tar.gz",),
        num_classes=10,
        normalisation=CIFAR10,
        files={
            "train": (
                ("data_batch_1", "c99cafc152244af753f735de768cd75f"),
                ("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
                ("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
                ("data_batch_4", "634d18415352ddfa80567beed471001a"),
                ("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
            ),
            "test": (("test_batch", "40351d587109b95175f43aff81a1287e"),),
        },
        names=("batches.meta", "5ff9c542aee3614f3951f8cda6e48888"),
        marks=("data_batch_1", "batches.meta"),
    ),
    "cifar100": KnownSet(
        title="CIFAR-100",
        folder="cifar-100-python",
        archives=("cifar-100-python.tar.gz",),
        num_classes=100,
        normalisation=Normalisation(mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762)),
        files={
            "train": (("train", "16019d7e3df5f24257cddd939b257f8d"),),
            "test": (("test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),),
        },
        names=("meta", "7973b15100ade9c7d40fb424638fde48"),
        marks=("train", "meta"),
    ),
    "svhn": KnownSet(
        title="SVHN",
        folder="svhn",
        archives=("train_32x32.mat", "test_32x32.mat"),
        num_classes=10,
        normalisation=Normalisation(mean=(0.4377, 0.4438, 0.4728), std=(0.1980, 0.2010, 0.1970)),
        files={
            "train": (("train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373"),),
            "test": (("test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3"),),
        },
        flip=False,
        marks=("train_32x32.mat",),
        place="svhn",
    ),
    "mnist": KnownSet(
        title="MNIST",
        folder="MNIST",
        archives=IDX_ARCHIVES,
        num_classes=10,
        normalisation=Normalisation(mean=(0.1307,), std=(0.3081,)),
        files=_in_idx(
            train=("6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624"),
            test=("2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"),
        ),
        flip=False,
        place="MNIST/raw",
    ),
    "fashion_mnist": KnownSet(
        title="FashionMNIST",
        folder="FashionMNIST",
        archives=IDX_ARCHIVES,
        num_classes=10,
        normalisation=Normalisation(mean=(0.2860,), std=(0.3530,)),
        files=_in_idx(
            train=("f4a8712d7a061bf5bd6d2ca38dc4d50a", "9018921c3c673c538a1fc5bad174d6f9"),
            test=("8181f5470baa50b63fa0f6fddb340f0a", "15d484375f8d13e6eb1aabb0c3f46965"),
        ),
        place="FashionMNIST/raw",
        classes=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
    ),
}


def name_in(folder: Path, splits: tuple[Split, ...]) -> str | None:
    """The data set that a folder holds as its authors serve it, if it holds one; only files of these splits are read.

    Raises:
        DataError: files of MNIST's form that are neither MNIST's nor FashionMNIST's.
    """
    for name, known in KNOWN.items():
        if known.marks and all((folder / mark).is_file() for mark in known.marks):
            return name
    some = False
    for split in sorted(splits):  # the smallest first
        for number in (1, 0):
            for content in idx_contents(folder, IDX[split][number]):
                some, checksum = True, md5(content)
                for name, known in KNOWN.items():
                    if not known.marks and known.files[split][number][1] == checksum:
                        return name
    if not some:
        return None
    raise DataError(
        f"{folder}: files such as {IDX['train'][0]} are neither MNIST's nor FashionMNIST's: they are damaged, or of a "
        "data set that must be registered or given as a folder of images"
    )


def idx_contents(folder: Path, file: str) -> Iterator[bytes]:
    """What a folder has under the name of one of `IDX`: packed or not, and in raw/, where torchvision puts it, or
    not."""
    for place in (folder, folder / "raw"):
        for path in (place / f"{file}.gz", place / file):
            if path.is_file():
                yield _unpacked(path)


def _unpacked(path: Path) -> bytes:
    """The content of a file; nothing where it is damaged, as its checksum then says."""
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error):
        return b""


def md5(content: bytes) -> str:
    """As the authors of data sets have it."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
