"""Steps that are replayed: with a graph of this file's making, which does what was done while it was captured."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench.train.batches import Batch
from bench.train.replay import WARM_UPS, Steps

GPU = SimpleNamespace(device=torch.device("cuda"), num_processes=1)


class Graph:
    """What a step does while a graph is captured is done when it is replayed."""

    capturing: Graph | None = None

    def __init__(self) -> None:
        self.done: list[Callable[[], None]] = []

    def replay(self) -> None:
        for act in self.done:
            act()


@pytest.fixture(autouse=True)
def graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def capture(graph: Graph) -> Iterator[None]:
        Graph.capturing = graph
        try:
            yield
        finally:
            Graph.capturing = None

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr("bench.train.replay.captured_in", capture)


def batch_of(first: int, size: int) -> Batch:
    places = torch.arange(first, first + size)
    return Batch(places, places[:, None], places > 0, torch.rand(1, size, 3, 4, 4), torch.rand(0, size), 1.0, size)


class Taken:
    """A step that says which images it has seen, and how."""

    def __init__(self) -> None:
        self.images: list[list[int]] = []
        self.replayed: list[bool] = []

    def __call__(self, batch: Batch) -> None:
        graph = Graph.capturing

        def act() -> None:
            self.images.append(batch.indices.tolist())
            self.replayed.append(graph is not None)

        if graph is None:
            act()
        else:
            graph.done.append(act)


def test_every_batch_is_taken_once_and_whole_ones_are_replayed() -> None:
    steps = Steps(GPU)
    whole = [batch_of(4 * number, 4) for number in range(5)]
    for epoch in range(2):
        taken = Taken()
        take = steps.of_epoch(taken)
        for batch in (*whole, batch_of(20, 3)):  # the last is ragged
            take(batch)
        assert taken.images == [[*range(4 * number, 4 * number + 4)] for number in range(5)] + [[20, 21, 22]], epoch
        assert taken.replayed == [False] * WARM_UPS + [True] * (5 - WARM_UPS) + [False]


def test_a_batch_of_another_weight_is_not_replayed() -> None:
    taken = Taken()
    take = Steps(GPU).of_epoch(taken)
    for number in range(WARM_UPS + 1):
        take(batch_of(number, 4))
    take(replace(batch_of(9, 4), weight=0.5))
    assert taken.replayed[-2:] == [True, False]
    assert taken.images[-1] == [9, 10, 11, 12]


def test_the_ragged_batch_of_a_short_epoch_is_not_captured() -> None:
    """Of its shape libraries have made no plans, which they may not make in a graph."""
    taken = Taken()
    take = Steps(GPU).of_epoch(taken)
    for batch in (batch_of(0, 4), batch_of(4, 4), batch_of(8, 3)):
        take(batch)
    assert taken.replayed == [False] * 3
    assert taken.images[-1] == [8, 9, 10]


def test_what_cannot_be_captured_is_taken_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    seen = []

    def take(batch: Batch) -> None:
        if Graph.capturing is not None:
            raise RuntimeError("operation not permitted when stream is capturing")
        seen.append(int(batch.indices[0]))

    steps = Steps(GPU)
    with caplog.at_level(logging.INFO, "bench"):
        for _ in range(2):
            each = steps.of_epoch(take)
            for number in range(WARM_UPS + 2):
                each(batch_of(number, 4))
    assert seen == [*range(WARM_UPS + 2)] * 2
    assert [line for line in caplog.messages if "not permitted" in line] == caplog.messages
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("draw", [random.random, np.random.rand, lambda: torch.rand(()).item()])
def test_a_step_that_draws_on_the_host_is_not_replayed(
    draw: Callable[[], float], caplog: pytest.LogCaptureFixture
) -> None:
    """Each step has a number of its own, those that it would have on a CPU."""

    def numbers(steps: Steps) -> list[float]:
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        torch.manual_seed(0)
        found: list[float] = []

        def take(_: Batch) -> None:
            number = draw()
            if Graph.capturing is None:
                found.append(number)
            else:
                Graph.capturing.done.append(lambda: found.append(number))

        each = steps.of_epoch(take)
        for batch in batches:
            each(batch)
        return found

    batches = [batch_of(number, 4) for number in range(WARM_UPS + 3)]
    with caplog.at_level(logging.INFO, "bench"):
        assert numbers(Steps(GPU)) == numbers(Steps(SimpleNamespace(device=torch.device("cpu"), num_processes=1)))
    assert "draws random numbers on the host" in caplog.text


@pytest.mark.parametrize(("kind", "processes"), [("cpu", 1), ("cuda", 2)])
def test_on_cpus_and_in_groups_nothing_is_captured(kind: str, processes: int) -> None:
    taken = Taken()
    place = SimpleNamespace(device=torch.device(kind), num_processes=processes)
    take = Steps(place).of_epoch(taken)
    for number in range(WARM_UPS + 2):
        take(batch_of(number, 4))
    assert not any(taken.replayed)
