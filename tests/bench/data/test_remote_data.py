"""Images that a machine has to fetch: from a store, or CIFAR-10 where the driver's folder is not."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.data import DataError, dataset_name, load_images, resolve_data
from bench.data.known import KNOWN
from results.store.folder import location
from results.store.remote import RemotePath, StorageError
from tests.bench.data.pictures import png, random_pixels, write_parquet
from tests.s3 import bucket, s3_server  # noqa: F401

LOAD = """
import hashlib, sys
from bench.data import load_images
print(hashlib.sha256(load_images(sys.argv[1], "test").images.tobytes()).hexdigest())
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without copies."""
    load_images.cache_clear()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("BENCH_DATA", raising=False)
    return tmp_path / "home"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder with Parquet files and one that is no image."""
    folder = tmp_path / "mine"
    (folder / "data").mkdir(parents=True)
    for split, count in (("train", 4), ("test", 3)):
        pictures = [png(image) for image in random_pixels(count)]
        write_parquet(folder / "data", split, pictures, [0, 1, 0, 1][:count])
    (folder / "README.md").write_text("whose they are")
    return folder


def upload(folder: Path, url: str) -> str:
    for path in folder.rglob("*"):
        if path.is_file():
            (location(url) / path.relative_to(folder).as_posix()).write_bytes(path.read_bytes())
    return url


def copies(home: Path) -> list[Path]:
    return [path for path in home.rglob("*.parquet") if path.is_file()]


def test_images_in_a_store_are_those_of_the_folder_and_are_fetched_once(
    bucket: str,  # noqa: F811
    mine: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = upload(mine, f"{bucket}/some where/mine")
    assert dataset_name(url) == dataset_name(str(mine))
    assert location(resolve_data(url)) == location(url)
    there, here = load_images(resolve_data(url), "train"), load_images(str(mine), "train")
    assert np.array_equal(there.images, here.images)
    assert np.array_equal(there.labels, here.labels)
    kept = copies(home)
    assert len(kept) == 2
    written = [path.stat().st_mtime_ns for path in kept]
    load_images.cache_clear()
    load_images(url, "test")
    assert [path.stat().st_mtime_ns for path in copies(home)] == written
    write_parquet(mine / "data", "test", [png(image) for image in random_pixels(2)], [1, 0])
    upload(mine, url)
    load_images.cache_clear()
    assert len(load_images(url, "test")) == 2
    before, place = len(copies(home)), location(url)
    assert isinstance(place, RemotePath)
    later = [(path, size, (written or 0) + 10**9) for path, size, written in place.walk()]
    with monkeypatch.context() as patched:  # others of the same sizes
        patched.setattr(RemotePath, "walk", lambda _: later)
        load_images.cache_clear()
        load_images(url, "test")
    assert len(copies(home)) == before + 2
    with pytest.raises(DataError, match="is not a folder with files"):
        load_images(f"{bucket}/nothing", "test")
    with pytest.raises(DataError, match="is not a folder with files"):
        dataset_name(f"{bucket}/nothing")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageError):
        load_images("s3://another-bucket/x?region=us-east-1", "test")


def test_several_workers_may_fetch_at_once(bucket: str, mine: Path, home: Path) -> None:  # noqa: F811
    url = upload(mine, f"{bucket}/mine")
    workers = [
        subprocess.Popen([sys.executable, "-c", LOAD, url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    answers = [worker.communicate() for worker in workers]
    expected = hashlib.sha256(load_images(str(mine), "test").pixels.tobytes()).hexdigest()
    assert [out.strip() for out, _ in answers] == [expected] * 3, answers
    assert len(copies(home)) == 2
    assert not [path for path in home.rglob(".*") if path.name.startswith(".") and path.name != ".cache"]


def test_cifar10_is_looked_for_where_the_folder_of_the_driver_is_not(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []

    def made(_: object, root: str, *, train: bool = True, download: bool = False) -> None:
        assert train
        assert download
        looked.append(root)
        folder = Path(root) / "cifar-10-batches-py"
        folder.mkdir()
        for name in KNOWN["cifar10"].marks:
            (folder / name).write_text("of no use")

    monkeypatch.setattr("torchvision.datasets.CIFAR10.__init__", made)
    with pytest.raises(DataError, match="is not a folder"):
        load_images("/on/the/driver/alone", "train", "mine@12345678")
    assert looked == []
    with pytest.raises(DataError, match="a file of CIFAR-10 is missing or damaged"):  # it was found, such as it is
        load_images("/on/the/driver/alone", "train", "cifar10")
    expected = home / ".cache" / "smoothing-bench" / "data"
    assert Path(looked[0]).parent == expected
    assert [path.name for path in expected.iterdir()] == ["cifar-10-batches-py"]
    for name in (".download-new", ".download-old", ".gitignore"):
        (expected / name).mkdir()
    for name in (".download-old", ".gitignore"):
        os.utime(expected / name, (1, 1))
    shutil.rmtree(expected / "cifar-10-batches-py")
    with pytest.raises(DataError, match="damaged"):
        load_images("/on/the/driver/alone", "train", "cifar10")
    assert sorted(path.name for path in expected.glob(".*")) == [".download-new", ".gitignore"]


def test_without_a_home_it_is_said_where_data_would_be_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(*_: object) -> str:
        raise KeyError

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", no_home)
    with pytest.raises(DataError, match="set HOME to a folder of yours"):
        load_images("/on/the/driver/alone", "train", "cifar10")
    home.touch()
    monkeypatch.setenv("BENCH_DATA", str(home))
    with pytest.raises(DataError, match="CIFAR-10 is not there and cannot be downloaded"):
        load_images("/on/the/driver/alone", "train", "cifar10")


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_said_once_and_does(
    number: int,
    bucket: str,  # noqa: F811
    mine: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    url = upload(mine, f"{bucket}/unlocked{number}")
    load_images.cache_clear()
    assert len(load_images(url, "test")) == len(load_images(str(mine), "test"))
    assert len(copies(home)) == 2
    [record] = caplog.records
    assert record.getMessage().endswith(
        f"cannot be locked ({os.strerror(number)}): processes that start together each fetch or read the data"
    )
