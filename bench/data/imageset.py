"""A labelled set of images, as numpy arrays: a command that only looks at its data needs no torch.

Small sets are in memory. Those of `bench.data.stored` stay in their files, and are decoded where they are asked for.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench.data.stored import StoredImages
from bench.settings.normalisation import Normalisation
from results.errors import BenchError
from results.store.shards import evenly_spaced

Split = Literal["train", "test"]


class DataError(BenchError):
    """Data that is not there or not usable; the message is one sentence for the user."""


class NoSplitError(DataError):
    """Data that has no images of a split."""


def other_images(place: str, dataset: str, found: str) -> DataError:
    """What to raise where a machine has other images than those that are called `dataset`; `found` is the fingerprint,
    or the name, of what is there."""
    return DataError(
        f"{place}: is {found} on {socket.gethostname()}, and not {dataset}: every machine must have the same images"
    )


@dataclass(frozen=True)
class ImageSet:
    """Images of one size."""

    images: NDArray[np.uint8] | StoredImages
    """(count, channel, height, width), of 1 or 3 channels. Both kinds have a shape, and give an array of those images
    whose indices they are given."""
    labels: NDArray[np.int64]
    """(count,), in [0, num_classes)."""
    num_classes: int
    classes: tuple[str, ...] | None = None
    """The name of each label, where the data has names."""
    normalisation: Normalisation | None = None
    """What a classifier that is trained on it does to pixels first; `bench.settings.normalisation.usual` if None."""
    flip: bool = True
    """Whether an image in the mirror is still of its class, so that training may flip it."""

    def __post_init__(self) -> None:
        if len(self.images) == 0:
            raise DataError("the data has no images")
        least, most = int(self.labels.min()), int(self.labels.max())
        if least < 0 or most >= self.num_classes:
            found = least if least < 0 else most
            raise DataError(f"labels must be from 0 to {self.num_classes - 1}, found {found}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def channels(self) -> int:
        """1 or 3."""
        return int(self.images.shape[1])

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """All images, in memory: training has them on its device as one tensor."""
        return np.asarray(self.images)

    def evenly(self, count: int | None) -> ImageSet:
        """`count` evenly spaced images, or all where it is None: sets may be sorted by class.

        Raises:
            ValueError: there are fewer.
        """
        return self.at(evenly_spaced(len(self), count))

    def at(self, picked: Sequence[int]) -> ImageSet:
        """The images at these indices; those that stay in files go on doing so."""
        images = self.images.at(picked) if isinstance(self.images, StoredImages) else self.images[list(picked)]
        return replace(self, images=images, labels=self.labels[list(picked)])
