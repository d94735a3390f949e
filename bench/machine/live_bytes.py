"""How much memory a forward pass takes, counted and not watched: the tensors that are alive at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Counting(TorchDispatchMode):
    """Keeps the largest number of bytes of all tensors that operations made and that were alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.most: int = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, operation: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = operation(*args, **(kwargs or {}))
        given = {
            tensor.untyped_storage()._cdata for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)
        }
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in given:  # neither a view nor in place
                    self._alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self._alive = {key: kept for key, kept in self._alive.items() if not kept[0].expired()}
        self.most = max(self.most, sum(size for _, size in self._alive.values()))
        return result


def live_bytes(call: Callable[[Tensor], object], images: Tensor) -> int:
    """Peak of what a forward pass makes, in bytes, besides the images and whatever was there before. What is made
    outside torch is not seen."""
    with torch.inference_mode(), _Counting() as counting:
        call(images)
    return int(counting.most)
