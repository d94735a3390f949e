"""Every certificate of a run as typed arrays in one compressed block, for the page's explorer of images."""

from __future__ import annotations

import gzip
from typing import Any

import numpy as np
import pandas as pd

from results.analysis.groups import Group, of_published_data
from results.analysis.published import CIFAR10
from results.report.page.content import DatasetImages, Packed, TrialImages
from results.store.run import Run

STATUSES = ("absent", "certified", "abstained", "misclassified")
"""By their numbers in the packed arrays; absent: the trial did not certify the image."""


class Packer:
    """Arrays one after the other, little-endian, as typed arrays of JavaScript have them."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self._size = 0

    def add(self, array: np.ndarray[Any, Any], kind: str) -> Packed:
        """Where the array is: its type, its first byte, and how many numbers it has."""
        block = np.ascontiguousarray(array, dtype=np.dtype(kind).newbyteorder("<")).tobytes()
        place: Packed = {"type": kind, "offset": self._size, "length": array.size}
        block += b"\0" * (-len(block) % 8)  # a typed array begins at a multiple of its numbers' size
        self._blocks.append(block)
        self._size += len(block)
        return place

    def compressed(self) -> bytes:
        """The same bytes for the same arrays, whenever they are packed."""
        return gzip.compress(b"".join(self._blocks), compresslevel=6, mtime=0)


def packed_images(run: Run, groups: list[Group]) -> tuple[bytes, list[DatasetImages]]:
    """The compressed arrays, and for each data set where its arrays are.

    A data set has `index` and `label` of its images, rising by index; the arrays of its trials follow that order, with
    `status` absent where a trial did not certify an image, and `counts` (images × classes) where they are known.
    """
    packer = Packer()
    datasets: list[DatasetImages] = []
    for dataset, rows in run.certificates.groupby("dataset", sort=False):
        images = rows.drop_duplicates("index").sort_values("index")
        own_trials = run.trials[run.trials["dataset"] == dataset]
        named = own_trials["classes"].dropna()
        trials = [
            _trial(packer, group, own, images["index"].to_numpy())
            for group in groups
            for _, own in group.certificates[group.certificates["dataset"] == dataset].groupby("trial_id", sort=False)
        ]
        datasets.append(
            {
                "name": str(dataset),
                "classes": [*named.iloc[0]]
                if len(named)
                else [*CIFAR10]
                if of_published_data(own_trials).all()
                else [],
                "index": packer.add(images["index"].to_numpy(), "uint32"),
                "label": packer.add(images["label"].to_numpy(), "int16"),
                "trials": trials,
            }
        )
    return packer.compressed(), datasets


def _trial(packer: Packer, group: Group, rows: pd.DataFrame, index: np.ndarray[Any, Any]) -> TrialImages:
    at = np.searchsorted(index, rows["index"].to_numpy())

    def spread(values: Any, kind: str, absent: float) -> Packed:
        array = np.full(len(index), absent, dtype=kind)
        array[at] = values
        return packer.add(array, kind)

    several = len(group.trials) > 1
    status = rows["status"].map(STATUSES.index)
    counts, classes = _counts(packer, rows, at, len(index))
    return {
        "title": f"{group.title}, seed {rows['seed'].iloc[0]}" if several else group.title,
        "trial": str(rows["trial_id"].iloc[0]),
        "sigma": group.sigma,
        "status": spread(status, "uint8", 0),
        "predicted": spread(rows["predicted"], "int16", -1),
        "selected": spread(rows["selected"].fillna(-1), "int16", -1),
        "radius": spread(rows["radius"], "float64", 0),
        "p_lower": spread(rows["p_lower"], "float64", 0),
        "n": spread(rows["n"], "uint32", 0),
        "counts": counts,
        "num_classes": classes,
    }


def _counts(packer: Packer, rows: pd.DataFrame, at: np.ndarray[Any, Any], images: int) -> tuple[Packed | None, int]:
    if rows["counts"].isna().any():
        return None, 0
    counts = np.stack(rows["counts"].tolist())
    table = np.zeros((images, counts.shape[1]), dtype=np.uint32)
    table[at] = counts
    return packer.add(table, "uint32"), counts.shape[1]
