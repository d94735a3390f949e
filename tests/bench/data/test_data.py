from __future__ import annotations

import fcntl
import io
import logging
import shutil
import socket
import struct
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bench.data import (
    DataError,
    ImageSet,
    Normalisation,
    count_images,
    dataset_name,
    files,
    load_images,
    named,
    resolve_data,
)
from bench.data.files import _Fingerprints
from bench.data.held_out import held_out_of, name_of
from bench.data.synthetic import draw_synthetic
from bench.models.decomposition import spectrum_of
from bench.settings.registries import DATASETS, register_dataset
from bench.train.augment import crop_and_flip, random_shifts
from methods import RegistryError
from tests.bench.data.pictures import image_folder, png, random_pixels, write_parquet

SHARED = Path(__file__).parents[4] / "shared" / "data"
needs_cifar = pytest.mark.skipif(not SHARED.is_dir(), reason="CIFAR-10 is not part of the repository")


@pytest.fixture(autouse=True)
def _forget_images() -> None:
    load_images.cache_clear()


def test_synthetic_images_are_the_same_every_time_and_balanced() -> None:
    first = load_images("synthetic", "train")
    again = draw_synthetic.__wrapped__("train")
    assert np.array_equal(first.images, again.images)
    assert first.images.dtype == np.uint8
    assert first.images.shape[1:] == (3, 32, 32)
    assert np.bincount(first.labels).tolist() == [len(first) // 10] * 10
    test = load_images("synthetic", "test")
    assert set(test.labels[::5].tolist()) == set(range(10))  # certified images are evenly spaced
    assert not any(np.array_equal(image, other) for image in test.images[:20] for other in first.images[:20])


def test_synthetic_spectrum_falls_like_a_photographs() -> None:
    spectrum = spectrum_of(torch.from_numpy(load_images("synthetic", "train").evenly(1100).images))
    for sigma in (0.25, 0.5):
        kept = spectrum.keep(0.2 * sigma**2).shape[1]
        assert 55 < kept < 850  # a real subset of 3072, as on CIFAR-10 (447 and 205)
    steps = spectrum.variances[[0, 9, 99, 999]]
    assert (steps[1:] < steps[:-1] / 2).all()


@pytest.mark.parametrize("column", ["img", "image"])
def test_parquet_in_the_layout_of_the_hub(tmp_path: Path, column: str) -> None:
    pixels = random_pixels(4)
    write_parquet(tmp_path, "train", [png(image) for image in pixels], [0, 1, 2, 1], image=column)
    found = load_images(str(tmp_path), "train")
    assert np.array_equal(found.images, pixels.transpose(0, 3, 1, 2))
    assert found.labels.tolist() == [0, 1, 2, 1]
    assert found.num_classes == 3


def test_image_folder(tmp_path: Path) -> None:
    pixels = random_pixels(2)
    for name, image in zip(("cat", "dog"), pixels, strict=True):
        (tmp_path / "test" / name).mkdir(parents=True)
        (tmp_path / "test" / name / "0.png").write_bytes(png(image))
    found = load_images(str(tmp_path), "test")
    assert np.array_equal(found.images, pixels.transpose(0, 3, 1, 2))
    assert found.labels.tolist() == [0, 1]


@pytest.mark.filterwarnings("default::ResourceWarning")
def test_wrong_data_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match="is not a folder; allowed: synthetic, cifar10, cifar100, svhn, mnist, fashion_mnist, or a folder",
    ):
        load_images(str(tmp_path / "none"), "train")
    with pytest.raises(DataError, match="found neither train-"):
        load_images(str(tmp_path), "train")
    write_parquet(tmp_path, "train", [b"not an image"], [0])
    with pytest.raises(DataError, match="row 0: not readable as an image"):
        load_images(str(tmp_path), "train")
    write_parquet(tmp_path, "train", [png(random_pixels(1, 8)[0]), png(random_pixels(1, 9)[0])], [0, 1])
    with pytest.raises(DataError, match="row 1: is 9×9, the first image 8×8"):
        load_images(str(tmp_path), "train")
    write_parquet(tmp_path, "train", [png(random_pixels(1)[0])], [0], image="picture")
    with pytest.raises(DataError, match="has none of the columns img, image; found picture, label"):
        load_images(str(tmp_path), "train")
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(DataError, match="not readable as images and labels"):
        load_images(str(tmp_path), "train")


def test_cifar10_offline_says_where_to_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", refuse)
    with pytest.raises(DataError, match=f"put the python version's folder cifar-10-batches-py into {tmp_path}"):
        load_images("cifar10", "train")


def test_a_folders_name_tells_its_content_apart_and_survives_a_move(tmp_path: Path) -> None:
    for place in ("a", "b", "c"):
        folder = tmp_path / place / "mine"
        folder.mkdir(parents=True)
        write_parquet(
            folder,
            "train",
            [png(image) for image in random_pixels(3 if place == "c" else 2)],
            [0, 1, 0][: 3 if place == "c" else 2],
        )
    names = [dataset_name(str(tmp_path / place / "mine")) for place in "abc"]
    assert names[0] == names[1] != names[2]
    assert names[0].startswith("mine@")


def test_another_copy_on_a_machines_own_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker of another machine finds under the same path what is there, which may be older."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "mine"
    folder.mkdir()
    pixels, labels = [png(image) for image in random_pixels(3)], [0, 1, 0]
    write_parquet(folder, "train", pixels[:2], labels[:2])
    name = dataset_name(str(folder))
    for place in (tmp_path / "home", Path("/proc/1/nowhere")):  # also where no other process can be told
        monkeypatch.setenv("HOME", str(place))
        load_images.cache_clear()
        with monkeypatch.context() as patched:  # what this machine has read is not read again
            patched.setattr("bench.data.files._fingerprint", lambda *_: pytest.fail("read again"))
            assert len(load_images(str(folder), "train", name)) == 2
            assert len(load_images(held_out_of(str(folder), 1), "test", name_of(name, 1))) == 1
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    others = [(pixels, labels), (pixels[1::-1], labels[:2]), (pixels[:2], [1, 1])]
    for images, classes in others:  # one more, another order, another label
        write_parquet(folder, "train", images, classes)
        load_images.cache_clear()
        found = dataset_name(str(folder)).partition("@")[2]
        for _ in range(2):  # remembered or not
            with pytest.raises(DataError, match=rf"mine: is {found} on {socket.gethostname()}, and not {name}: every"):
                load_images(str(folder), "train", name)
            shutil.rmtree(tmp_path / "home")
            monkeypatch.setattr("bench.data.files._fingerprints", _Fingerprints())
        with pytest.raises(DataError, match=r"is a folder of images on .*, and not cifar10"):
            load_images(str(folder), "train", "cifar10")
    write_parquet(folder, "train", pixels[:2], labels[:2])
    assert len(load_images(str(folder), "train", name)) == 2


def test_only_who_reads_the_same_copy_waits_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Machines may share a home, and have a copy each."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    caplog.set_level(logging.INFO, "bench")
    copies = [tmp_path / machine / "mine" for machine in "ab"]
    for folder in copies:
        folder.mkdir(parents=True)
        write_parquet(folder, "train", [png(image) for image in random_pixels(2)], [0, 1])
    name = dataset_name(str(copies[0]))
    shutil.rmtree(tmp_path / "home")
    monkeypatch.setattr("bench.data.files._fingerprints", _Fingerprints())
    other, lock = ExitStack(), fcntl.flock
    state = files._state_of(copies[0], files._files_of_all(copies[0], ("train", "test")))
    other.enter_context(_Fingerprints().one_at_a_time(state))

    def waiting(file: Any, how: int) -> None:
        if not how & fcntl.LOCK_NB:
            other.close()
        lock(file, how)

    monkeypatch.setattr("fcntl.flock", waiting)
    assert len(load_images(str(copies[1]), "train", name)) == 2
    assert not caplog.messages
    assert len(load_images(str(copies[0]), "train", name)) == 2
    [told] = caplog.messages
    assert told.endswith(": waiting for another process that fetches or reads the data")


def test_images_that_change_while_they_are_read_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write_parquet(tmp_path, "train", [png(image) for image in random_pixels(2)], [0, 1])
    read = files._read

    def replaced(*rest: Any) -> Any:
        found = read(*rest)
        monkeypatch.setattr(files, "_read", read)
        contents = list(found.contents())
        write_parquet(tmp_path, "train", [png(image) for image in random_pixels(2)], [1, 0])
        monkeypatch.setattr(type(found), "contents", lambda _: iter(contents))
        return found

    with monkeypatch.context():
        monkeypatch.setattr(files, "_read", replaced)
        name = dataset_name(str(tmp_path))
        monkeypatch.undo()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert dataset_name(str(tmp_path)) != name
    with pytest.raises(DataError, match=f"and not {name}"):
        load_images(str(tmp_path), "train", name)


@pytest.fixture
def _own_data_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(DATASETS, "_entries", dict(DATASETS._entries))


def stripes(count: int = 4, **changes: object) -> ImageSet:
    pixels = random_pixels(count).transpose(0, 3, 1, 2)
    return ImageSet(**{"images": pixels, "labels": np.arange(count) % 2, "num_classes": 2, **changes})  # type: ignore[arg-type]


@pytest.mark.usefixtures("_own_data_sets")
def test_a_registered_data_set_is_known_by_its_name_and_its_images() -> None:
    names = []
    for number, found in enumerate([stripes(), stripes(), stripes(5), stripes(labels=np.zeros(4, np.int64))]):
        register_dataset(f"stripes{number}")(lambda _split, found=found: found)  # type: ignore[misc]
        assert resolve_data(f"stripes{number}") == f"stripes{number}"
        assert load_images(f"stripes{number}", "train") is found
        assert count_images(f"stripes{number}", "test") == len(found)
        name, _, fingerprint = dataset_name(f"stripes{number}").partition("@")
        assert load_images(f"stripes{number}", "train", f"{name}@{fingerprint}") is found
        with pytest.raises(
            DataError, match=rf"stripes{number}: is {name}@{fingerprint} on .*, and not {name}@00000000:"
        ):
            load_images(f"stripes{number}", "train", f"{name}@00000000")
        assert name == f"stripes{number}"
        names.append(fingerprint)
    assert names[0] == names[1]
    assert len(set(names)) == 3
    assert [dataset_name(name) for name in ("synthetic", "cifar10")] == ["synthetic", "cifar10"]
    with pytest.raises(RegistryError, match=r"data set 'synthetic' is registered already, by bench\.data\.synthetic"):
        register_dataset("synthetic")(stripes)


@pytest.mark.usefixtures("_own_data_sets")
def test_a_registered_data_set_is_loaded_no_more_often_than_its_name_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named, "_names", {})
    loaded: list[str] = []
    given = [stripes()]
    register_dataset("counted")(lambda split: loaded.append(split) or given[0])  # type: ignore[func-returns-value]
    name = dataset_name("counted")
    assert [len(load_images("counted", split, name)) for split in ("train", "test")] == [4, 4]
    assert loaded == ["train", "test"] * 2  # for the name, and to be used
    named._names.clear()  # as in another process
    load_images.cache_clear()
    assert [len(load_images("counted", split, name)) for split in ("test", "train")] == [4, 4]
    assert loaded[4:] == ["test", "train", "train"]
    given[0] = stripes(5)
    assert len(load_images("counted", "test", dataset_name("counted"))) == 5


@pytest.mark.usefixtures("_own_data_sets")
def test_what_a_data_set_of_ones_own_says_for_training_is_in_its_fingerprint() -> None:
    said = {"normalisation": Normalisation((0.5,) * 3, (0.2,) * 3)}
    names = []
    sets = [stripes(**changes) for changes in ({}, {"normalisation": None, "flip": True}, said, {"flip": False})]
    for number, found in enumerate(sets):
        register_dataset(f"said{number}")(lambda _split, found=found: found)  # type: ignore[misc]
        names.append(dataset_name(f"said{number}").partition("@")[2])
    assert names[0] == names[1] == "60f94382"  # as before either could be said
    assert len(set(names)) == 3


@pytest.mark.usefixtures("_own_data_sets")
@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (lambda _: 1 / 0, "its loader fails on 'train': ZeroDivisionError: division by zero"),
        (lambda _: [1], "must return a bench.data.ImageSet, gave list"),
        (lambda _: stripes(images=np.zeros((4, 3, 8, 8))), r"uint8, not \(4, 3, 8, 8\), float64"),
        (lambda _: stripes(images=np.zeros((4, 2, 8, 8), np.uint8)), r"uint8, not \(4, 2, 8, 8\), uint8"),
        (
            lambda _: stripes(normalisation=Normalisation((0.5,), (0.2,))),
            "means and stds as its images have channels, 3, not 1",
        ),
        (
            lambda _: stripes(images=np.zeros((4, 8, 8, 3), np.uint8)),
            r"images must be \(count, 1 or 3, height, width\)",
        ),
        (lambda _: stripes(labels=np.zeros(3, np.int64)), r"labels must be \(4,\), int64, not \(3,\), int64"),
        (lambda _: stripes(labels=np.full(4, 7)), "^data 'mine': labels must be from 0 to 1, found 7"),
        (lambda _: stripes(labels=np.array([-1, 0, 1, 1])), "labels must be from 0 to 1, found -1"),
        (lambda _: stripes(normalisation=(0.5, 0.2)), "normalisation must be a bench.data.Normalisation, not a tuple"),
    ],
)
def test_a_registered_data_set_that_gives_no_images_is_refused(loader: Callable[[str], ImageSet], message: str) -> None:
    register_dataset("mine")(loader)
    with pytest.raises(DataError, match=message):
        load_images("mine", "train")


def test_more_images_than_there_are_is_refused() -> None:
    images = ImageSet(np.zeros((3, 3, 2, 2), np.uint8), np.array([0, 1, 0]), 2)
    assert images.evenly(2).labels.tolist() == [0, 1]
    with pytest.raises(ValueError, match="4 images were asked for, the data has 3"):
        images.evenly(4)


@pytest.mark.slow
@needs_cifar
def test_real_cifar10_keeps_as_many_directions_as_the_specification_says() -> None:
    images = load_images(str(SHARED / "cifar10-exact-6k"), "train")
    assert images.images.shape == (5085, 3, 32, 32)
    assert images.num_classes == 10
    spectrum = spectrum_of(torch.from_numpy(images.images))
    for sigma, ratio, expected in [(0.25, 0.2, 447), (0.5, 0.2, 205), (0.25, 0.1, 615), (0.5, 0.1, 311)]:
        assert spectrum.keep(ratio * sigma**2).shape[1] == pytest.approx(expected, abs=5)


@pytest.mark.parametrize("count", [40, 200])  # fewer and more images than pixels
def test_decomposition_is_an_orthogonal_projection_on_the_principal_directions(count: int) -> None:
    images = torch.from_numpy(random_pixels(count, 4)).permute(0, 3, 1, 2)
    pixels = images.flatten(1).double() / 255
    covariance = torch.cov(pixels.T)
    spectrum = spectrum_of(images)
    variances = torch.linalg.eigvalsh(covariance).flip(0)[: len(spectrum.variances)]
    assert torch.allclose(spectrum.variances, variances, atol=1e-12)
    threshold = float(spectrum.variances[10] + spectrum.variances[11]) / 2
    basis = spectrum.keep(threshold)
    assert basis.shape == (48, 11)
    assert torch.allclose(basis.T @ basis, torch.eye(11, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(covariance @ basis, basis * variances[:11], atol=1e-9)

    layer = spectrum_of(images).decomposition(0.5, threshold / 0.25)
    x = torch.rand(5, 3, 4, 4)
    once = layer(x)
    assert torch.allclose(layer(once), once, atol=1e-5)
    mean = pixels.mean(dim=0).float().view(3, 4, 4)
    assert torch.allclose(layer(mean[None]), mean[None], atol=1e-6)
    by_hand = pixels.mean(dim=0) + (x.flatten(1).double() - pixels.mean(dim=0)) @ basis @ basis.T
    assert torch.allclose(once.flatten(1).double(), by_hand, atol=1e-5)


def test_decomposition_that_keeps_nothing_is_refused() -> None:
    images = torch.from_numpy(random_pixels(10, 4)).permute(0, 3, 1, 2)
    with pytest.raises(ValueError, match="keeps nothing"):
        spectrum_of(images).decomposition(100.0, 1.0)


def test_crop_and_flip_equals_the_plain_way() -> None:
    images = torch.from_numpy(random_pixels(6, 8)).permute(0, 3, 1, 2)
    offsets, flips = random_shifts(6, torch.Generator().manual_seed(0))
    for image, (row, column), flip, found in zip(
        images, offsets.tolist(), flips, crop_and_flip(images, offsets, flips), strict=True
    ):
        padded = torch.nn.functional.pad(image, (4, 4, 4, 4))
        crop = padded[:, row : row + 8, column : column + 8]
        assert torch.equal(found, crop.flip(2) if flip else crop)


def test_shifts_cover_their_range_evenly() -> None:
    offsets, flips = random_shifts(20_000, torch.Generator().manual_seed(0))
    assert set(offsets.unique().tolist()) == set(range(9))
    assert offsets.double().mean().item() == pytest.approx(4, abs=0.1)
    assert flips.double().mean().item() == pytest.approx(0.5, abs=0.02)


def test_image_folders_must_have_the_same_classes(tmp_path: Path) -> None:
    for split, names in (("train", ("cat", "dog")), ("test", ("dog",))):
        for name in names:
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "0.png").write_bytes(png(random_pixels(1)[0]))
    with pytest.raises(DataError, match="must have the same classes"):
        load_images(str(tmp_path), "test")


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_what_is_no_image_of_a_class_changes_nothing_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = random_pixels(2)
    folder = image_folder(tmp_path / "mine", {"cat": pixels[0], "dog": pixels[1]})
    name = dataset_name(str(folder))
    assert not caplog.records
    for split in ("train", "test"):
        (folder / split / ".ipynb_checkpoints").mkdir()
        (folder / split / ".ipynb_checkpoints" / "0-checkpoint.png").write_bytes(png(pixels[0]))
        (folder / split / "__MACOSX").mkdir()
        (folder / split / "__MACOSX" / "._0.png").write_bytes(b"Mac")
        (folder / split / "dog" / "._0.png").write_bytes(b"Mac")
        (folder / split / "dog" / "Thumbs.db").write_bytes(b"Windows")
    (folder / "download.lock").touch()
    (folder / "metadata.jsonl").write_text("{}")
    assert dataset_name(str(folder)) == name
    [record] = caplog.records
    assert "ignored, as no image of a class: download.lock, metadata.jsonl, " in record.message
    found = load_images(str(folder), "test")
    assert (found.labels.tolist(), found.num_classes, found.classes) == ([0, 1], 2, ("cat", "dog"))
    assert np.array_equal(found.images, pixels.transpose(0, 3, 1, 2))
    (folder / "test" / "dog" / "0.png").write_bytes(png(pixels[0]))
    assert dataset_name(str(folder)) != name


def test_labels_of_numbered_folders_are_in_the_order_of_the_numbers(tmp_path: Path) -> None:
    pixels = random_pixels(12)
    folder = image_folder(tmp_path, {str(number): image for number, image in enumerate(pixels)})
    found = load_images(str(folder), "test")
    assert found.classes == tuple(map(str, range(12)))
    assert np.array_equal(found.images[np.argsort(found.labels)], pixels.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (encoded(Image.fromarray(np.full((8, 8), 40_000, np.uint16))), "mode I;16"),
        (encoded(Image.new("CMYK", (8, 8)), "JPEG"), "mode CMYK"),
        (encoded(Image.new("F", (8, 8)), "TIFF"), "mode F"),
        (encoded(Image.new("RGBA", (8, 8), (9, 9, 9, 128))), r"transparent pixels \(mode RGBA\)"),
        (encoded(Image.new("L", (8, 8)), transparency=0), r"transparent pixels \(mode L\)"),
        (b"\x89PNG\r\n\x1a\n and no more", "not readable as an image"),
    ],
)
def test_an_image_that_rgb_cannot_hold_is_refused_by_name(tmp_path: Path, content: bytes, complaint: str) -> None:
    (image_folder(tmp_path, {"cat": random_pixels(1)[0]}) / "test" / "cat" / "1.png").write_bytes(content)
    with pytest.raises(DataError, match=rf"test/cat/1\.png: .*{complaint}"):
        load_images(str(tmp_path), "test")


def test_sixteen_bits_of_colour_are_refused_too(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = zlib.compress(b"".join(b"\0" + bytes(8 * 6) for _ in range(8)))
    deep = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0))
    (image_folder(tmp_path, {"cat": random_pixels(1)[0]}) / "test" / "cat" / "1.png").write_bytes(
        deep + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )
    with pytest.raises(DataError, match=r"1\.png: has pixels of mode RGB;16B: convert it"):
        load_images(str(tmp_path), "test")


def test_pixels_of_other_modes_are_what_a_viewer_shows(tmp_path: Path) -> None:
    pixels = random_pixels(1, 8)[0]
    grey = Image.fromarray(pixels[..., 0])
    palette = Image.fromarray(pixels).quantize(16)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be seen turned by 90° clockwise
    contents = {
        "0.png": (encoded(grey), np.repeat(pixels[..., :1], 3, axis=2)),
        "1.png": (encoded(palette), np.asarray(palette.convert("RGB"))),
        "2.png": (encoded(Image.fromarray(pixels).convert("RGBA")), pixels),
        "3.png": (encoded(Image.fromarray(pixels), exif=turned), np.rot90(pixels, -1)),
        "4.png": (encoded(grey.convert("1")), np.asarray(grey.convert("1").convert("RGB"))),
    }
    (tmp_path / "test" / "cat").mkdir(parents=True)
    for name, (content, _) in contents.items():
        (tmp_path / "test" / "cat" / name).write_bytes(content)
    found = load_images(str(tmp_path), "test").pixels.transpose(0, 2, 3, 1)
    for image, (_, expected) in zip(found, contents.values(), strict=True):
        assert np.array_equal(image, expected)


def test_which_files_are_the_data_is_not_guessed(tmp_path: Path) -> None:
    image = png(random_pixels(1)[0])
    for configuration in ("plain", "noisy"):
        (tmp_path / "two" / configuration).mkdir(parents=True)
        write_parquet(tmp_path / "two" / configuration, "test", [image], [0])
    with pytest.raises(DataError, match=r"holds several sets of images: give one of .*noisy, .*plain"):
        load_images(str(tmp_path / "two"), "test")
    assert len(load_images(str(tmp_path / "two" / "plain"), "test")) == 1
    (tmp_path / "half").mkdir()
    write_parquet(tmp_path / "half", "test", [image], [0])
    (tmp_path / "half" / "test-00000-of-00001.parquet").rename(tmp_path / "half" / "test-00000-of-00002.parquet")
    with pytest.raises(DataError, match=r"must be all 2 parts and nothing else, found test-00000-of-00002\.parquet"):
        dataset_name(str(tmp_path / "half"))
    image_folder(tmp_path / "two" / "plain", {"cat": random_pixels(1)[0]}, ("test",))
    with pytest.raises(DataError, match="holds both"):
        dataset_name(str(tmp_path / "two" / "plain"))
