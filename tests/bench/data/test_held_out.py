"""Images held out of the training set, beside a test set that nobody can open."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bench.data import (
    DataError,
    count_channels,
    count_images,
    dataset_name,
    held_out_of,
    load_images,
    resolve_data,
    split_name,
)
from bench.data.known import KNOWN
from tests.bench.data.originals import drawn, write_original
from tests.bench.data.pictures import image_folder, make_unreadable, png, random_pixels, sealed_parquet


@pytest.fixture(autouse=True)
def _forget_images() -> Iterator[None]:
    load_images.cache_clear()
    yield
    load_images.cache_clear()


def test_a_part_is_drawn_evenly_and_the_rest_is_trained_on(tmp_path: Path) -> None:
    folder = str(sealed_parquet(tmp_path / "images", 28))
    whole, data = load_images(folder, "train"), held_out_of(folder, 7)
    held_out, rest = load_images(data, "test"), load_images(data, "train")
    assert (len(held_out), len(rest)) == (7, 21) == (count_images(data, "test"), count_images(data, "train"))
    assert np.array_equal(held_out.images, whole.images[::4])
    assert np.array_equal(held_out.labels, whole.labels[::4])
    assert np.array_equal(rest.images, np.delete(whole.images, np.s_[::4], axis=0))
    assert np.array_equal(rest.labels, np.delete(whole.labels, np.s_[::4]))
    assert count_channels(data) == 3
    assert dataset_name(held_out_of("synthetic", 500)) == "synthetic (500 of the training images)"
    assert split_name(data) == "held out of train"
    assert split_name("synthetic") == "test"
    assert resolve_data(held_out_of("synthetic", 7)) == held_out_of("synthetic", 7)


def test_to_hold_all_images_out_is_refused(tmp_path: Path) -> None:
    folder = str(sealed_parquet(tmp_path / "images", 3))
    with pytest.raises(DataError, match="3 training images were to be held out, the data has 3"):
        load_images(held_out_of(folder, 3), "test")


@pytest.mark.parametrize("layout", ["parquet", "classes", *KNOWN])
def test_the_test_images_are_not_opened(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if layout == "parquet":
        folder = sealed_parquet(tmp_path / "images")
    elif layout == "classes":
        pictures = {name: random_pixels(1)[0] for name in ("cat", "dog")}
        folder = image_folder(tmp_path / "images", pictures)
        for name in pictures:
            (folder / "train" / name / "1.png").write_bytes(png(random_pixels(1)[0]))
        make_unreadable(*(folder / "test" / name / "0.png" for name in pictures))
    else:
        folder = write_original(layout, tmp_path, drawn(layout), monkeypatch)
        of_the_test = [path for path in folder.rglob("*") if path.name.startswith(("test", "t10k"))]
        make_unreadable(*of_the_test)
    with pytest.raises(DataError):
        load_images(str(folder), "test")
    data = held_out_of(str(folder), 2)
    name = dataset_name(data)
    assert name.startswith(layout if layout in KNOWN else "images@")
    held_out, rest = load_images(data, "test", name), load_images(data, "train", name)
    assert len(held_out) == 2
    assert held_out.num_classes == rest.num_classes > 1
    moved = shutil.move(folder, tmp_path / "elsewhere")
    load_images.cache_clear()
    if layout not in KNOWN:
        assert dataset_name(held_out_of(str(moved), 2)).partition("@")[2] == name.partition("@")[2]
