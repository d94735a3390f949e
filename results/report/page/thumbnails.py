"""Small pictures of the test images, many to a sheet: thousands of files of a kilobyte take twice the space."""

from __future__ import annotations

import io

import pandas as pd
from PIL import Image

from results.report.page.content import DatasetImages, Tiles

COLUMNS, ROWS = 40, 25
QUALITY, EFFORT = 75, 2  # of WebP: 10 000 images of CIFAR-10 take 2.7 MB and less than a second
BLOCK = 16  # pixels; WebP codes blocks of this size, and a picture that shares none takes no colour from its neighbour


def sprite_sheets(thumbnails: pd.DataFrame, datasets: list[DatasetImages]) -> tuple[dict[str, bytes], dict[str, Tiles]]:
    """The sheets by name, and for each data set that has pictures where they are.

    Args:
        thumbnails: columns `dataset`, `index`, `png`.
        datasets: those of the page.

    Returns:
        WebP files by name; and the places of the tiles by data set.
    """
    sheets: dict[str, bytes] = {}
    places: dict[str, Tiles] = {}
    for dataset in (dataset["name"] for dataset in datasets):
        rows = thumbnails[thumbnails["dataset"] == dataset].sort_values("index")
        if rows.empty:
            continue
        pictures = [Image.open(io.BytesIO(png)).convert("RGB") for png in rows["png"]]
        size = max(max(picture.size) for picture in pictures)
        pitch = -(-size // BLOCK) * BLOCK
        names = []
        for first in range(0, len(pictures), COLUMNS * ROWS):
            names.append(f"sheet-{len(sheets)}")
            sheets[names[-1]] = _sheet(pictures[first : first + COLUMNS * ROWS], pitch)
        places[dataset] = {
            "sheets": names,
            "index": rows["index"].tolist(),
            "columns": COLUMNS,
            "tiles": COLUMNS * ROWS,
            "pitch": pitch,
            "size": size,
        }
    return sheets, places


def _sheet(pictures: list[Image.Image], pitch: int) -> bytes:
    sheet = Image.new("RGB", (COLUMNS * pitch, -(-len(pictures) // COLUMNS) * pitch))
    for place, picture in enumerate(pictures):
        sheet.paste(picture, (place % COLUMNS * pitch, place // COLUMNS * pitch))
    file = io.BytesIO()
    sheet.save(file, "WEBP", quality=QUALITY, method=EFFORT)
    return file.getvalue()
