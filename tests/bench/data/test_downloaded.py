"""Data sets that are had by name, on small files in the form of the originals."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from torchvision.datasets import CIFAR10, CIFAR100, MNIST, SVHN, FashionMNIST

from bench.data import DataError, count_channels, count_images, dataset_name, load_images, resolve_data
from bench.data.known import IDX, KNOWN
from bench.settings.normalisation import CIFAR10 as CIFAR10_NORMALISATION
from bench.settings.normalisation import Normalisation
from bench.settings.registries import DATASETS
from tests.bench.data.originals import COUNTS, IN_IDX, drawn, fetch_by_hand, write_original

IDX_FILES = [file for pair in IDX.values() for file in pair]
NAMES = sorted(KNOWN)
each = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True)
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is there, and nothing can be downloaded."""

    def refuse(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    load_images.cache_clear()
    yield
    load_images.cache_clear()


@pytest.fixture
def folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return write_original(name, tmp_path, drawn(name), monkeypatch)


@each
def test_a_known_set_is_what_its_files_say(name: str, folder: Path) -> None:
    assert resolve_data(name) == str(folder)
    assert dataset_name(resolve_data(name)) == dataset_name(name) == name
    for split, (images, labels) in drawn(name).items():
        for found in (load_images(name, split), load_images(str(folder), split)):
            assert np.array_equal(found.images, images)
            assert found.images.dtype == np.uint8
            assert found.pixels.flags.c_contiguous
            assert found.pixels.flags.writeable  # torch warns of others
            assert found.labels.tolist() == labels.tolist()
            assert found.labels.dtype == np.int64
        assert count_images(name, split) == COUNTS[split]
    assert count_channels(name) == (1 if name in IN_IDX else 3)


@each
def test_a_folder_tells_its_set_whatever_it_is_called(name: str, folder: Path, tmp_path: Path) -> None:
    moved = folder.rename(tmp_path / "mine")
    assert dataset_name(str(moved)) == name
    assert len(load_images(str(moved), "test")) == COUNTS["test"]


@pytest.mark.parametrize(
    ("name", "classes", "mean", "std", "flip", "named"),
    [
        ("cifar10", 10, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), True, True),
        ("cifar100", 100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), True, True),
        ("svhn", 10, (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), False, False),
        ("mnist", 10, (0.1307,), (0.3081,), False, False),
        ("fashion_mnist", 10, (0.2860,), (0.3530,), True, True),
    ],
)
@pytest.mark.usefixtures("folder")
def test_what_belongs_to_each_set(
    name: str, classes: int, mean: tuple[float, ...], std: tuple[float, ...], flip: bool, named: bool
) -> None:
    found = load_images(name, "train")
    assert found.num_classes == classes
    assert found.normalisation == Normalisation(mean, std)
    assert found.flip is flip
    assert (found.classes is not None) is named
    assert found.classes is None or len(found.classes) == classes
    few = found.evenly(5)
    assert (few.normalisation, few.flip, few.classes) == (found.normalisation, found.flip, found.classes)


def test_a_classifier_of_cifar10_is_normalised_as_ever() -> None:
    assert KNOWN["cifar10"].normalisation == CIFAR10_NORMALISATION
    assert load_images("synthetic", "train").normalisation is None


@each
def test_offline_it_is_said_where_to_put_what(name: str, tmp_path: Path) -> None:
    expected = {
        "cifar10": f"put the python version's folder cifar-10-batches-py into {tmp_path} (or set",
        "cifar100": f"put the python version's folder cifar-100-python into {tmp_path} (or set",
        "svhn": f"put train_32x32.mat, test_32x32.mat into {tmp_path}/svhn (or set",
        "mnist": f"put {'.gz, '.join(IDX_FILES)}.gz into {tmp_path}/MNIST/raw (or set",
        "fashion_mnist": f"put {'.gz, '.join(IDX_FILES)}.gz into {tmp_path}/FashionMNIST/raw (or set",
    }[name]
    for attempt in (lambda: load_images(name, "train"), lambda: resolve_data(name)):
        with pytest.raises(DataError) as refused:
            attempt()
        text = str(refused.value)
        assert text.startswith(f"{KNOWN[name].title} is not there and cannot be downloaded (")
        assert expected in text
        assert "\n" not in text
    assert not list(tmp_path.iterdir())


@each
def test_what_was_fetched_by_hand_is_put_in_place(
    name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch_by_hand(name, folder, monkeypatch)
    assert resolve_data(name) == str(folder)
    assert np.array_equal(load_images(name, "test").images, drawn(name)["test"][0])
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        *(("cifar100", file) for file in ("train", "test", "meta")),
        *(("svhn", file) for file in ("train_32x32.mat", "test_32x32.mat")),
        *((name, f"raw/{file}") for name in IN_IDX for file in IDX_FILES),
    ],
)
@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_file_is_told(name: str, file: str, damage: str, folder: Path) -> None:
    for path in folder.glob(f"{file}*"):
        content = path.read_bytes()
        path.unlink()
        if damage != "gone":
            half = len(content) // 2
            path.write_bytes(
                content[:half] + (bytes([content[half] ^ 1]) + content[half + 1 :]) * (damage == "flipped")
            )
    title = KNOWN[name].title
    with pytest.raises(DataError, match=f"{folder}: a file of {title} is missing or damaged; delete the folder"):
        _ = [load_images(name, split) for split in COUNTS]


@pytest.mark.parametrize("name", IN_IDX)
@pytest.mark.parametrize("kept", ["*.gz", "*ubyte"])
def test_packed_or_unpacked_will_do_in_raw_or_not(name: str, kept: str, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for path in folder.glob(f"raw/{kept}"):
        shutil.copy(path, other)
    assert dataset_name(str(other)) == name
    assert np.array_equal(load_images(str(other), "train").images, drawn(name)["train"][0])


def test_mnist_and_fashion_mnist_have_files_of_the_same_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = {name: write_original(name, tmp_path, drawn(name), monkeypatch) for name in IN_IDX}
    assert [dataset_name(str(folder)) for folder in folders.values()] == list(folders)
    for file in IDX_FILES:  # of a third set in the same form
        for path in folders["mnist"].glob(f"raw/{file}*"):
            path.unlink()
        (folders["mnist"] / f"raw/{file}.gz").write_bytes(gzip.compress(b"of KMNIST"))
    with pytest.raises(DataError, match="neither MNIST's nor FashionMNIST's"):
        dataset_name(str(folders["mnist"]))


@each
def test_a_worker_looks_for_it_where_the_folder_of_the_driver_is_not(name: str, folder: Path) -> None:
    found = load_images("/on/the/driver/alone", "test", name)
    assert np.array_equal(found.images, load_images(str(folder), "test").images)


def test_another_set_that_a_worker_finds_there_is_told_by_its_folder(tmp_path: Path) -> None:
    (tmp_path / "MNIST").mkdir()
    with pytest.raises(DataError, match=f"^{tmp_path}/MNIST: is a folder of images on .*, and not mnist"):
        load_images("/on/the/driver/alone", "test", "mnist")


def test_the_names_are_those_that_are_registered() -> None:
    assert list(DATASETS)[:6] == ["synthetic", *KNOWN]
    kinds = {"cifar10": CIFAR10, "cifar100": CIFAR100, "svhn": SVHN, "mnist": MNIST, "fashion_mnist": FashionMNIST}
    for name, kind in kinds.items():  # torchvision's own words for what `known` says without it
        known = KNOWN[name]
        if name.startswith("cifar"):
            assert (known.folder, known.archives) == (kind.base_folder, (kind.filename,))
            assert known.files == {split: tuple(map(tuple, getattr(kind, f"{split}_list"))) for split in COUNTS}
            assert known.names == (kind.meta["filename"], kind.meta["md5"])
        elif name == "svhn":
            assert known.archives == tuple(kind.split_list[split][1] for split in COUNTS)
            assert known.files == {split: (tuple(kind.split_list[split][1:]),) for split in COUNTS}
        else:
            assert known.archives == tuple(file for file, _ in kind.resources)
            assert known.place == f"{kind.__name__}/raw"
            assert {split: tuple(file for file, _ in files) for split, files in known.files.items()} == IDX
    assert KNOWN["fashion_mnist"].classes == tuple(FashionMNIST.classes)
