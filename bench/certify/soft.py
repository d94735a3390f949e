"""What is kept of the softmax of noise samples, for the certificate of its expectation (`results.bounds.soft`)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from results.bounds.soft import EDGES, SCALE, UNIT


class SoftmaxWeights:
    """The weights of one class's softmax on `EDGES`, summed over samples: whole numbers, so that they depend on neither
    order nor batches."""

    def __init__(self, selected: int, device: torch.device) -> None:
        self.selected = selected
        self._sums = torch.zeros(len(EDGES), dtype=torch.int64, device=device)
        self._edges = torch.from_numpy(EDGES).to(device)
        self._factors = torch.from_numpy(UNIT // np.diff(EDGES)).to(device)

    def add(self, logits: Tensor) -> None:
        """Samples (count, classes) more."""
        probability = logits.double().softmax(dim=1)[:, self.selected]
        rounded = (probability * SCALE).long().clamp_(0, SCALE)  # down
        place = torch.bucketize(rounded, self._edges[1:-1], right=True)
        upper = (rounded - self._edges[place]) * self._factors[place]
        self._sums.scatter_add_(0, place + 1, upper)
        self._sums.scatter_add_(0, place, UNIT - upper)

    def sums(self) -> list[int]:
        """(edges,)."""
        return self._sums.tolist()
