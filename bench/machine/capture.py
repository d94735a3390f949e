"""Work of a GPU written down as a CUDA graph, without harm to a process in which that does not succeed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch


@contextmanager
def captured_in(graph: torch.cuda.CUDAGraph) -> Iterator[None]:
    """A block whose work is written into the graph, in memory of its own, and not done.

    An error of the block comes out as it was raised. Where CUDA refuses to write something down, such as the wait for a
    number, its capture cannot be ended, and torch 2.11 stays half in it: the current stream is still the capture's, the
    allocator keeps what the block took and fails when next it is to give memory back (`torch.cuda.empty_cache`, with
    which every capture begins), and the generator draws no more. When the error comes out, all of that is as before.
    """
    stream, pool = torch.cuda.current_stream(), torch.cuda.graph_pool_handle()
    refused: BaseException | None = None
    try:
        with torch.cuda.graph(graph, pool=pool):
            try:
                yield
            except BaseException as error:
                refused = error
                raise
    except BaseException:
        torch.cuda.set_stream(stream)
        _leave(graph, pool)
        if refused is not None:
            raise refused  # noqa: B904  # that the capture could not be ended follows from it
        raise
    finally:
        refused = None  # whose frames hold this one


_not_ended: list[torch.cuda.CUDAGraph] = []
"""The allocator of pinned memory, which nobody can tell, goes on asking these whether they capture."""


def _leave(graph: torch.cuda.CUDAGraph, pool: tuple[int, int]) -> None:
    """Have allocator and generator forget a capture that was not ended."""
    with suppress(RuntimeError):  # the allocator says that it was ended: nothing is to be forgotten then
        device = torch.cuda.current_device()
        torch._C._cuda_endAllocateToPool(device, pool)
        torch._C._cuda_releasePool(device, pool)
        _not_ended.append(graph)
        generator = torch.cuda.default_generators[device]
        generator.graphsafe_set_state(generator.clone_state())
