"""Small images of noise, in the forms in which users have theirs."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_parquet(folder: Path, split: str, images: list[bytes], labels: list[int], *, image: str = "img") -> None:
    rows = [{image: {"bytes": data, "path": None}, "label": label} for data, label in zip(images, labels, strict=True)]
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}-00000-of-00001.parquet")


def random_pixels(count: int, size: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def image_folder(folder: Path, classes: dict[str, np.ndarray], splits: tuple[str, ...] = ("train", "test")) -> Path:
    """A folder per split and class, with one image each."""
    for split in splits:
        for name, image in classes.items():
            (folder / split / name).mkdir(parents=True)
            (folder / split / name / "0.png").write_bytes(png(image))
    return folder


def make_unreadable(*paths: Path) -> None:
    """Even root cannot open what is not there."""
    assert paths
    for path in paths:
        path.unlink()
        path.symlink_to("/nowhere/at/all")


def sealed_parquet(folder: Path, count: int = 30) -> Path:
    """Images of three classes, of which the test set cannot be opened."""
    folder.mkdir()
    pixels = random_pixels(count)
    for split in ("train", "test"):
        write_parquet(folder, split, [png(image) for image in pixels], [number % 3 for number in range(count)])
    make_unreadable(folder / "test-00000-of-00001.parquet")
    return folder
