"""Small pictures of the certified test images, for the report."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from bench.data import load_images
from results.store.folder import RunFolder
from results.store.schema import THUMBNAILS, read_table, write_table
from results.store.settings import CertifiedTrial
from results.store.shards import evenly_spaced

LARGEST = 64  # pixels
MOST = 10_000
"""Pictures of one data set whose images are larger; evenly spaced where there are more."""


def keep_thumbnails(run: RunFolder, trials: Sequence[CertifiedTrial]) -> None:
    """Write the pictures of all test images that the trials certify to the run's folder, beside those already there.

    Raises:
        DataError: the data is not usable.
    """
    kept = _kept(run)
    known = {(row["dataset"], row["index"]) for row in kept.select(["dataset", "index"]).to_pylist()}
    new = []
    for data, dataset, wanted in dict.fromkeys((trial.data, trial.dataset, trial.certify.images) for trial in trials):
        images = load_images(data, "test", dataset)
        indices = evenly_spaced(len(images), wanted)
        if len(indices) > MOST and max(images.images.shape[2:]) > LARGEST:
            indices = [indices[place] for place in evenly_spaced(len(indices), MOST)]
        for index in indices:
            if (dataset, index) not in known:
                known.add((dataset, index))
                new.append({"dataset": dataset, "index": index, "png": _png(images.images[index])})
    if new:
        table = pa.concat_tables([kept, pa.Table.from_pylist(new, THUMBNAILS)])
        write_table(run.thumbnails, table)


def _kept(run: RunFolder) -> pa.Table:
    if not run.thumbnails.exists():
        return THUMBNAILS.empty_table()
    return read_table(run.thumbnails, THUMBNAILS).cast(THUMBNAILS)


def _png(image: np.ndarray[Any, Any]) -> bytes:
    """image: (channel, height, width), uint8."""
    picture = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
    picture.thumbnail((LARGEST, LARGEST))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
