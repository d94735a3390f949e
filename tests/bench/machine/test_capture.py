"""Captures that fail, with a torch of this file's making, which stays in them as torch 2.11 does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.machine.capture import captured_in

GRAPH: Any = object()
OWN, SIDE, POOL = "the stream before", "the stream of the capture", (0, 7)


class Device:
    """What a process has of a device while it captures, and after it could not end to."""

    def __init__(self) -> None:
        self.stream = OWN
        self.capturing = False
        self.recording: tuple[int, int] | None = None
        self.pools: list[tuple[int, int]] = []
        self.draws = True
        self.refused = False

    def wait(self) -> None:
        """As `.item()` does."""
        self.refused = self.capturing
        if self.capturing:
            raise RuntimeError("operation not permitted when stream is capturing")

    @contextmanager
    def graph(self, _: object, *, pool: tuple[int, int]) -> Iterator[None]:
        self.empty_cache()
        self.stream, self.capturing, self.recording, self.draws = SIDE, True, pool, False
        self.pools.append(pool)
        try:
            yield
        finally:
            self.capturing = False
            if self.refused:
                raise RuntimeError("operation failed due to a previous error during capture")
            self.recording, self.draws, self.stream = None, True, OWN

    def empty_cache(self) -> None:
        if self.recording is not None:
            raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")

    def end_allocation(self, _: int, pool: tuple[int, int]) -> None:
        if self.recording != pool:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.recording = None

    def set_stream(self, stream: str) -> None:
        self.stream = stream

    def set_state(self, _: object) -> None:
        self.draws = True


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    fake = Device()
    generator = SimpleNamespace(clone_state=lambda: "fresh", graphsafe_set_state=fake.set_state)
    fakes = {
        "current_stream": lambda: fake.stream,
        "set_stream": fake.set_stream,
        "current_device": lambda: 0,
        "graph_pool_handle": lambda: POOL,
        "graph": fake.graph,
        "default_generators": (generator,),
    }
    for name, value in fakes.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", fake.end_allocation, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", lambda _, pool: fake.pools.remove(pool), raising=False)
    return fake


def test_a_capture_that_cannot_be_ended_leaves_nothing_behind(device: Device) -> None:
    with pytest.raises(RuntimeError, match="not permitted"), captured_in(GRAPH):
        device.wait()
    assert (device.stream, device.recording, device.pools, device.draws) == (OWN, None, [], True)
    device.refused = False
    with captured_in(GRAPH):  # which empties the cache first
        assert device.stream == SIDE
    assert (device.stream, device.pools) == (OWN, [POOL])


def test_memory_of_a_capture_that_was_ended_is_the_graphs(device: Device) -> None:
    """To let go of it twice would end the process."""
    with pytest.raises(ValueError, match="of the block"), captured_in(GRAPH):
        raise ValueError("of the block")
    assert (device.stream, device.recording, device.pools) == (OWN, None, [POOL])
