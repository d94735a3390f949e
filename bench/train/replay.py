"""Training steps as a CUDA graph: on an accelerator a step of a small network is a thousand kernels, which take longer
to launch than to run."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from bench.machine.capture import captured_in
from bench.machine.reasons import reason_of
from bench.train.batches import Batch

WARM_UPS = 2
"""Steps of an epoch that are taken as they are: in them libraries make their plans, and the optimizer its state."""

logger = logging.getLogger("bench")
Take = Callable[[Batch], None]


class Steps:
    """Takes the steps of a training: as they are, or, from the third of an epoch on, by replaying what one of them did.
    Both do the same operations in the same order, so what comes out is the same to the last bit."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        # A graph is of one process, and captured once for all its batches.
        self._able = accelerator.device.type == "cuda" and accelerator.num_processes == 1

    def of_epoch(self, take: Take) -> Take:
        """What takes the steps of one epoch.

        Args:
            take: one step. Whatever it depends on beside the batch stays the same in an epoch, but for tensors that are
                changed in place.
        """
        return _Replayed(take, self) if self._able else take

    def give_up(self, error: Exception) -> None:
        """Take all further steps as they are."""
        logger.info("training without a CUDA graph, which failed: %s", reason_of(error))
        self._able = False


class _Replayed:
    def __init__(self, take: Take, steps: Steps) -> None:
        self._take = take
        self._steps = steps
        self._taken = 0
        self._usual: object = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._given: Batch | None = None

    def __call__(self, batch: Batch) -> None:
        kind = _kind_of(batch)
        if not self._taken:
            self._usual = kind
        if self._taken == WARM_UPS and kind == self._usual:  # of others no plans are made
            self._capture(batch)
        self._taken += 1
        if self._graph is None or self._given is None or kind != self._usual:
            self._take(batch)
            return
        for mine, its in zip(_tensors(self._given), _tensors(batch), strict=True):
            mine.copy_(its)
        self._graph.replay()

    def _capture(self, batch: Batch) -> None:
        """Write down what a step does, without taking it."""
        names = [field.name for field in fields(batch) if isinstance(getattr(batch, field.name), Tensor)]
        given = replace(batch, **{name: getattr(batch, name).clone() for name in names})
        graph = torch.cuda.CUDAGraph()
        try:
            with captured_in(graph), _drawing_nothing():
                self._take(given)
        except Exception as error:  # whatever a method or a network does that cannot be in a graph
            self._steps.give_up(error)
            return
        self._graph, self._given = graph, given


@contextmanager
def _drawing_nothing() -> Iterator[None]:
    """Leaves the random number generators of the host as they were.

    Raises:
        RuntimeError: one was drawn from; every step that is replayed would have that number.
    """
    of_python, of_numpy, of_torch = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    before = _state_of_the_host()
    try:
        yield
        if _state_of_the_host() != before:
            raise RuntimeError("its code draws random numbers on the host")
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002
        torch.set_rng_state(of_torch)


def _state_of_the_host() -> object:
    _, words, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    return random.getstate(), np.asarray(words).tolist(), rest, torch.get_rng_state().tolist()


def _tensors(batch: Batch) -> list[Tensor]:
    return [value for value in vars(batch).values() if isinstance(value, Tensor)]


def _kind_of(batch: Batch) -> object:
    """What the batches of a graph have in common."""
    return [tensor.shape for tensor in _tensors(batch)], batch.weight, batch.global_size
