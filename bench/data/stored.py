"""Images that stay in their files: a set of any length takes no memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray


class StoredImages:
    """(count, channel, height, width), uint8, as an array of that shape as far as one is needed to look at images: each
    is read and decoded whenever it is asked for, and none is kept."""

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(
        self, decoded: Callable[[int], NDArray[np.uint8]], shape: tuple[int, int, int], places: Sequence[int]
    ) -> None:
        """
        Args:
            decoded: from the place of an image in its files to its pixels, of `shape`.
            shape: (channel, height, width).
            places: of the images, in their order.
        """
        self._decoded = decoded
        self._places = places
        self.shape = (len(places), *shape)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def nbytes(self) -> int:
        """What all of them would take in memory."""
        return int(np.prod(self.shape))

    def at(self, indices: Sequence[int]) -> StoredImages:
        """Some of them, which stay in their files too."""
        return StoredImages(self._decoded, self.shape[1:], [self._places[index] for index in indices])

    def __getitem__(self, index: int | slice | Sequence[int] | NDArray[np.integer]) -> NDArray[np.uint8]:
        """One image (channel, height, width), or several (count, channel, height, width)."""
        if isinstance(index, int | np.integer):
            return self._decoded(self._places[int(index)])
        wanted = range(len(self))[index] if isinstance(index, slice) else [int(each) for each in index]
        found = np.empty((len(wanted), *self.shape[1:]), dtype=np.uint8)
        for number, each in enumerate(wanted):
            found[number] = self._decoded(self._places[each])
        return found

    def __array__(self, dtype: object = None, copy: bool | None = None) -> NDArray[np.uint8]:
        """All of them, in memory."""
        return self[:]
