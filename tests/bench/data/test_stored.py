"""Sets that stay in their files: the same images as in memory, and no memory for them; resized and cropped ones."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torchvision import transforms

from bench.data import DataError, StoredImages, dataset_name, load_images, resolve_data
from bench.data.thumbnails import keep_thumbnails
from results.store.folder import RunFolder
from results.store.run import read_thumbnails
from results.store.settings import ExternalTrial
from tests.bench.data.pictures import png, random_pixels

COUNT = 37
SIZE = 48


@pytest.fixture(autouse=True)
def _forget_images(monkeypatch: pytest.MonkeyPatch) -> None:
    load_images.cache_clear()
    monkeypatch.setattr("bench.data.files.IN_MEMORY", 50_000)  # of 37 × 3 × 48 × 48 bytes


def in_folders(place: Path, images: list[np.ndarray]) -> list[int]:
    """Labels, in the order of the images as the program has them."""
    for number, image in enumerate(images):
        folder = place / "test" / f"{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:03}.png").write_bytes(png(image))
    return sorted(range(len(images)), key=lambda number: (number % 3, number))


def in_parquet(place: Path, images: list[np.ndarray], group: int = 5) -> None:
    place.mkdir(exist_ok=True)
    for part, numbers in enumerate((range(COUNT // 2), range(COUNT // 2, COUNT))):
        rows = [{"image": {"bytes": png(images[number]), "path": None}, "label": number % 3} for number in numbers]
        pq.write_table(pa.Table.from_pylist(rows), place / f"test-{part:05}-of-00002.parquet", row_group_size=group)


@pytest.mark.parametrize("layout", ["folders", "parquet"])
def test_images_in_files_are_those_that_would_be_in_memory(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = random_pixels(COUNT, SIZE)
    (in_folders if layout == "folders" else in_parquet)(tmp_path, list(pixels))
    stored = load_images(str(tmp_path), "test")
    monkeypatch.undo()
    load_images.cache_clear()
    held = load_images(str(tmp_path), "test")
    assert isinstance(stored.images, StoredImages)
    assert isinstance(held.images, np.ndarray)
    assert stored.images.shape == held.images.shape == (COUNT, 3, SIZE, SIZE)
    assert stored.images.nbytes == held.images.nbytes
    assert stored.labels.tolist() == held.labels.tolist()
    several: tuple[Any, ...] = ([30, 2, 2], np.array([7, 36]), slice(3, 40, 7), 5, np.int64(9))
    for index in several:
        assert np.array_equal(stored.images[index], held.images[index])
    assert np.array_equal(stored.pixels, held.pixels)
    few = stored.evenly(4)
    assert isinstance(few.images, StoredImages)
    assert np.array_equal(few.pixels, held.evenly(4).pixels)
    assert np.array_equal(few.images[[3, 0]], held.evenly(4).pixels[[3, 0]])
    assert torch.from_numpy(stored.images[[0]]).shape == (1, 3, SIZE, SIZE)


@pytest.mark.parametrize("layout", ["folders", "parquet"])
def test_memory_does_not_grow_with_the_data(layout: str, tmp_path: Path) -> None:
    pixels = random_pixels(COUNT, SIZE)
    (in_folders if layout == "folders" else in_parquet)(tmp_path, list(pixels))
    encoded = len(png(pixels[0]))
    load_images(str(tmp_path), "test").images[0]  # what Pillow and pyarrow import
    load_images.cache_clear()
    gc.collect()
    before = pa.total_allocated_bytes()
    arrow = 0
    tracemalloc.start()
    try:
        dataset_name(str(tmp_path))
        images = load_images(str(tmp_path), "test").images
        for index in range(COUNT):
            images[index]
            arrow = max(arrow, pa.total_allocated_bytes() - before)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < COUNT / 2 * pixels[0].nbytes  # all of them would be twice that, and encoded once more
    assert arrow <= (3 * 5 * encoded if layout == "parquet" else 0)  # a row group, and what reading one takes
    with_all = images[:]
    assert with_all.nbytes > peak


@pytest.mark.parametrize("size", [(50, 80), (81, 47), (48, 48), (20, 33), (64, 48), (103, 206), (66, 99)])
@pytest.mark.parametrize(("short", "side"), [(32, 28), (48, 48), (33, 28)])
def test_a_crop_is_that_of_the_usual_transforms(size: tuple[int, int], short: int, side: int, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    in_folders(tmp_path, [pixels, random_pixels(1, 64)[0]])
    found = load_images(f"{tmp_path}#{short},{side}", "test").images[0]
    usual = transforms.Compose([transforms.Resize(short), transforms.CenterCrop(side)])
    assert np.array_equal(found, np.asarray(usual(Image.fromarray(pixels))).transpose(2, 0, 1))


def test_a_cropped_set_has_its_own_name_and_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_folders(tmp_path / "own", list(random_pixels(4, SIZE)))
    monkeypatch.chdir(tmp_path)
    plain, cropped = dataset_name("own"), dataset_name("own#40,32")
    assert cropped == plain.replace("own@", "own-40-32@")
    assert resolve_data("own#40,32") == f"{tmp_path}/own#40,32"
    assert dataset_name(resolve_data("own#40,32")) == cropped
    assert dataset_name("own#32") == plain.replace("own@", "own-32-32@")
    assert load_images(resolve_data("own#32"), "test", cropped).images.shape == (4, 3, 32, 32)
    with pytest.raises(DataError, match="a crop of 33 is larger than the shorter side, 32"):
        resolve_data("own#32,33")


def test_images_of_several_sizes_are_refused_before_any_is_certified_unless_they_are_cropped(tmp_path: Path) -> None:
    images = [*random_pixels(COUNT - 1, SIZE), random_pixels(1, SIZE + 1)[0]]
    in_folders(tmp_path, images)
    with pytest.raises(DataError, match=r"\.png: is 49×49, the first image 48×48: .*FOLDER#256,224"):
        load_images(str(tmp_path), "test")
    assert load_images(f"{tmp_path}#44,40", "test").images[COUNT - 1].shape == (3, 40, 40)


def test_a_picture_that_lies_on_its_side_has_the_size_that_is_seen(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    folder = tmp_path / "test" / "a"
    folder.mkdir(parents=True)
    for number in range(COUNT):
        picture = Image.fromarray(np.full((40, 60, 3), number, dtype=np.uint8))
        picture.rotate(90, expand=True).save(folder / f"{number:02}.png", exif=exif)
    found = load_images(str(tmp_path), "test")
    assert isinstance(found.images, StoredImages)
    assert found.images.shape == (COUNT, 3, 40, 60)
    Image.new("RGB", (60, 40)).save(folder / "99.png", exif=exif)
    load_images.cache_clear()
    with pytest.raises(DataError, match=r"99\.png: is 40×60, the first image 60×40"):
        load_images(str(tmp_path), "test")


def test_what_is_no_image_is_found_at_once_and_a_cut_one_when_it_is_read(tmp_path: Path) -> None:
    in_folders(tmp_path, list(random_pixels(COUNT, SIZE)))
    broken = tmp_path / "test" / "2" / "035.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    found = load_images(str(tmp_path), "test")
    with pytest.raises(DataError, match=r"035\.png: not readable as an image"):
        found.images[COUNT - 1]
    broken.write_bytes(b"no image")
    load_images.cache_clear()
    with pytest.raises(DataError, match=r"035\.png: not readable as an image"):
        load_images(str(tmp_path), "test")


def test_a_row_without_an_image_is_refused(tmp_path: Path) -> None:
    pixels = list(random_pixels(COUNT, SIZE))
    rows = [{"image": {"bytes": png(image), "path": None}, "label": 0} for image in pixels]
    rows[30]["image"] = {"bytes": None, "path": "elsewhere.png"}
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test-00000-of-00001.parquet", row_group_size=7)
    with pytest.raises(DataError, match=r"test-00000-of-00001\.parquet: row 30: a row without image or label"):
        load_images(str(tmp_path), "test")


def test_the_report_gets_so_many_pictures_of_large_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_folders(tmp_path / "own", list(random_pixels(COUNT, 80)))
    monkeypatch.setattr("bench.data.thumbnails.MOST", 5)
    settings = ExternalTrial(name="a", sigma=1, model="a:b", weights="", data=str(tmp_path / "own"), dataset="own")
    keep_thumbnails(RunFolder(tmp_path / "run"), [settings])
    assert read_thumbnails(tmp_path / "run")["index"].tolist() == [0, 7, 14, 22, 29]
