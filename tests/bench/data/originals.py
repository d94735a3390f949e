"""Small data sets in the form in which the authors of the large ones serve theirs, with checksums of their own."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat
from torchvision.datasets import CIFAR10, CIFAR100, MNIST, SVHN, FashionMNIST

from bench.data import Split
from bench.data.known import IDX, KNOWN

IN_IDX = ("mnist", "fashion_mnist")
"""Sets in MNIST's form."""
COUNTS: dict[Split, int] = {"train": 30, "test": 13}
Arrays = dict[Split, tuple[np.ndarray, np.ndarray]]
"""Images (count, channel, height, width) and labels (count,) of each split."""


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def drawn(name: str, counts: dict[Split, int] = COUNTS) -> Arrays:
    """Noise whose brightness tells the class, modulo ten."""
    shape = (1, 28, 28) if name in IN_IDX else (3, 32, 32)
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
    if name in IN_IDX:
        _write_idx(name, folder / "raw", arrays, monkeypatch)
    elif name == "svhn":
        _write_mat(folder, arrays, monkeypatch)
    else:
        _write_pickles(name, folder, arrays, monkeypatch)
    return folder


def _write_pickles(name: str, folder: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read is checked by `KNOWN`, and what is downloaded by torchvision, which looks at every file."""
    known, kind = KNOWN[name], CIFAR10 if name == "cifar10" else CIFAR100

    def written(file: str, content: object) -> tuple[str, str]:
        (folder / file).write_bytes(pickle.dumps(content))
        return file, md5(folder / file)

    def batch(split: Split, part: np.ndarray) -> dict[str, Any]:
        images, labels = (array[part] for array in arrays[split])
        key = "labels" if name == "cifar10" else "fine_labels"
        return {"data": images.reshape(len(images), -1), key: labels.tolist(), "coarse_labels": [0] * len(labels)}

    files: dict[Split, tuple[tuple[str, str], ...]] = {}
    for split, listed in known.files.items():
        parts = np.array_split(np.arange(len(arrays[split][0])), len(listed))
        files[split] = tuple(written(file, batch(split, part)) for (file, _), part in zip(listed, parts, strict=True))
        monkeypatch.setattr(kind, f"{split}_list", files[split])
    assert known.names is not None
    names = written(known.names[0], {kind.meta["key"]: [f"class {number}" for number in range(known.num_classes)]})
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": names[1]})
    monkeypatch.setitem(KNOWN, name, replace(known, files=files, names=names))


def _write_mat(folder: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, files = {}, {}
    for split, (images, labels) in arrays.items():
        path = folder / f"{split}_32x32.mat"
        numbers = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]  # 10 stands for the digit 0
        savemat(path, {"X": images.transpose(2, 3, 1, 0), "y": numbers})
        files[split] = ((path.name, md5(path)),)
        parts[split] = [f"http://127.0.0.1:9/{path.name}", path.name, md5(path)]
    monkeypatch.setattr(SVHN, "split_list", parts)
    monkeypatch.setitem(KNOWN, "svhn", replace(KNOWN["svhn"], files=files))


def _write_idx(name: str, folder: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    files = {}
    for split, pair in IDX.items():
        for file, array in zip(pair, arrays[split], strict=True):
            content = _idx(array.squeeze())
            (folder / f"{file}.gz").write_bytes(gzip.compress(content, mtime=0))
            (folder / file).write_bytes(content)
        files[split] = tuple((file, md5(folder / file)) for file in pair)
    monkeypatch.setitem(KNOWN, name, replace(KNOWN[name], files=files))
    kind = MNIST if name == "mnist" else FashionMNIST
    packed = [f"{file}.gz" for pair in IDX.values() for file in pair]
    monkeypatch.setattr(kind, "resources", [(file, md5(folder / file)) for file in packed])
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
