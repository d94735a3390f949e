"""Images held out of the training set, in the place of the test set, which is neither read nor looked for.

The data "held-out:500:/data/cifar10" has as its "test" split 500 of the training images there, evenly spaced, and as
its "train" split the others.
"""

from __future__ import annotations

import re

import numpy as np

from bench.data.imageset import DataError, ImageSet, Split
from results.store.shards import evenly_spaced

PATTERN = re.compile(r"held-out:([1-9]\d{0,8}):(.+)", re.DOTALL)
NAME = re.compile(r"(.*) \(\d+ of the training images\)", re.DOTALL)


def held_out_of(data: str, count: int) -> str:
    """The data that holds so many training images of `data` out; `data` as `bench.data.resolve_data` gives it."""
    return f"held-out:{count}:{data}"


def parts_of(data: str) -> tuple[int, str] | None:
    """How many images are held out, and of which data; None where none are."""
    found = PATTERN.fullmatch(data)
    return (int(found[1]), found[2]) if found else None


def name_of(whole: str, count: int) -> str:
    """What tables call it."""
    return f"{whole} ({count} of the training images)"


def name_of_whole(name: str) -> str:
    """Of the data of which images are held out, by `name_of`."""
    found = NAME.fullmatch(name)
    return found[1] if found else name


def split_in_two(training: ImageSet, count: int, split: Split) -> ImageSet:
    """The images that are held out for "test", the others for "train".

    Raises:
        DataError: there are not more than so many.
    """
    if count >= len(training):
        raise DataError(f"{count} training images were to be held out, the data has {len(training)}")
    held_out = evenly_spaced(len(training), count)
    if split == "test":
        return training.at(held_out)
    return training.at(np.setdiff1d(np.arange(len(training)), held_out).tolist())
