"""Small data sets in the form in which the authors of the large ones serve theirs, with checksums of their own."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat
from torchvision.datasets import CIFAR10, CIFAR100, MNIST, SVHN, FashionMNIST

from bench.data import Split
from bench.data.known import CHECKSUMS, IDX, KNOWN

COUNTS: dict[Split, int] = {"train": 30, "test": 13}
Arrays = dict[Split, tuple[np.ndarray, np.ndarray]]
"""Images (count, channel, height, width) and labels (count,) of each split."""


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def drawn(name: str, counts: dict[Split, int] = COUNTS) -> Arrays:
    """Noise whose brightness tells the class, modulo ten."""
    shape = (1, 28, 28) if name in CHECKSUMS else (3, 32, 32)
    classes = KNOWN[name].num_classes
    arrays: Arrays = {}
    for split, count in counts.items():
        random = np.random.default_rng([len(name), count])
        labels = random.permutation(np.arange(count) % classes)
        images = random.integers(0, 40, (count, *shape), dtype=np.uint8)
        images += (23 * (labels % 10)).astype(np.uint8)[:, None, None, None]
        arrays[split] = images, labels
    return arrays


def write_original(name: str, root: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a data set under `root`, as it is once downloaded; its checksums are the right ones."""
    folder = root / KNOWN[name].folder
    folder.mkdir(parents=True)
    if name in CHECKSUMS:
        _write_idx(name, folder / "raw", arrays, monkeypatch)
    elif name == "svhn":
        _write_mat(folder, arrays, monkeypatch)
    else:
        _write_pickles(CIFAR10 if name == "cifar10" else CIFAR100, folder, arrays, monkeypatch)
    return folder


def _write_pickles(kind: Any, folder: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    def written(file: str, content: object) -> list[str]:
        (folder / file).write_bytes(pickle.dumps(content))
        return [file, md5(folder / file)]

    def batch(split: Split, part: np.ndarray) -> dict[str, Any]:
        images, labels = (array[part] for array in arrays[split])
        key = "labels" if kind is CIFAR10 else "fine_labels"
        return {"data": images.reshape(len(images), -1), key: labels.tolist(), "coarse_labels": [0] * len(labels)}

    key, file = kind.meta["key"], kind.meta["filename"]
    names = [f"class {number}" for number in range(10 if kind is CIFAR10 else 100)]
    lists: dict[Split, str] = {"train": "train_list", "test": "test_list"}
    for split, listed in lists.items():
        files = [name for name, _ in getattr(kind, listed)]
        parts = np.array_split(np.arange(len(arrays[split][0])), len(files))
        sums = [written(name, batch(split, part)) for name, part in zip(files, parts, strict=True)]
        monkeypatch.setattr(kind, listed, sums)
    _, checksum = written(file, {key: names})
    monkeypatch.setattr(kind, "meta", {"filename": file, "key": key, "md5": checksum})


def _write_mat(folder: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {}
    for split, (images, labels) in arrays.items():
        path = folder / f"{split}_32x32.mat"
        numbers = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]  # 10 stands for the digit 0
        savemat(path, {"X": images.transpose(2, 3, 1, 0), "y": numbers})
        parts[split] = [f"http://127.0.0.1:9/{path.name}", path.name, md5(path)]
    monkeypatch.setattr(SVHN, "split_list", parts)


def _write_idx(name: str, folder: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    contents = [_idx(array.squeeze()) for split in COUNTS for array in arrays[split]]
    for file, content in zip(IDX, contents, strict=True):
        (folder / f"{file}.gz").write_bytes(gzip.compress(content, mtime=0))
        (folder / file).write_bytes(content)
    monkeypatch.setitem(CHECKSUMS, name, tuple(md5(folder / file) for file in IDX))
    kind = MNIST if name == "mnist" else FashionMNIST
    monkeypatch.setattr(kind, "resources", [(f"{file}.gz", md5(folder / f"{file}.gz")) for file in IDX])
    monkeypatch.setattr(kind, "mirrors", ["http://127.0.0.1:9/"])


def _idx(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def fetch_by_hand(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave of a data set's folder only what its authors serve, beside where the folder was."""
    if name in ("cifar10", "cifar100"):
        kind: Any = CIFAR10 if name == "cifar10" else CIFAR100
        with tarfile.open(folder.parent / kind.filename, "w:gz") as archive:
            archive.add(folder, folder.name)
        monkeypatch.setattr(kind, "tgz_md5", md5(folder.parent / kind.filename))
    else:
        for file in KNOWN[name].archives:
            [path] = folder.rglob(file)
            path.rename(folder.parent / file)
    folder.rename(folder.parent / "not here")
