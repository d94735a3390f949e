"""The processes that work on a trial together: how long they wait for one another, and how they part.

Collectives of a training are answered within minutes or never: what takes one process longer, such as data that it
fetches for all, is waited for in a group of its own, on gloo, which takes nothing of a GPU.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate.state import AcceleratorState, PartialState
from torch.distributed import ProcessGroup

from bench.machine.devices import own_device

COLLECTIVES_WITHIN = timedelta(minutes=5)
LONGEST_WAIT = timedelta(days=2)  # of a process that is done for one that is not

Decision = TypeVar("Decision")


class _WaitingRoom:
    """The group on which processes wait for one another for as long as it takes; none where a process is alone."""

    def __init__(self) -> None:
        self._group: ProcessGroup | None = None

    def open(self) -> None:
        """Form the group, once all processes are together; every process calls this."""
        if self._group is None and torch.distributed.is_initialized():
            group = torch.distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)
            assert isinstance(group, ProcessGroup)  # every process is in it
            self._group = group

    def close(self) -> None:
        """Forget the group."""
        self._group = None

    def wait(self) -> None:
        """Return once every process has called this."""
        if self._group is not None:
            torch.distributed.barrier(self._group)

    def agreed(self, decide: Callable[[], Decision]) -> Decision:
        """What the first process finds, on every process."""
        if self._group is None:
            return decide()
        found = [decide() if torch.distributed.get_rank() == 0 else None]
        torch.distributed.broadcast_object_list(found, group=self._group)
        return found[0]  # type: ignore[return-value]  # the first process's


_waiting_room = _WaitingRoom()


def join_group() -> PartialState:
    """The place of this process among those that RANK and WORLD_SIZE tell of, or alone; every process calls this, and
    what forms an Accelerator later finds the same group.

    Raises:
        DeviceError: as `own_device`.
    """
    state = PartialState(cpu=own_device().type == "cpu", timeout=COLLECTIVES_WITHIN)
    _waiting_room.open()
    return state


def wait_for_all() -> None:
    """Return once every process of the group has called this, however long that takes."""
    _waiting_room.wait()


def agreed(decide: Callable[[], Decision]) -> Decision:
    """What the first process of the group finds, on every process, however long it looks."""
    return _waiting_room.agreed(decide)


@contextmanager
def first_process_first() -> Iterator[None]:
    """A block that the first process of the group leaves before the others enter it."""
    first = join_group().is_main_process
    if not first:
        wait_for_all()
    yield
    if first:
        wait_for_all()


@contextmanager
def leaving_group() -> Iterator[None]:
    """Leave the group at the end of the block. After an error its processes keep it, and have to end: NCCL takes leave
    only once all processes do, and those that wait for this one in a collective never would, nor would the error come
    out."""
    try:
        yield
    except BaseException:
        if not torch.distributed.is_initialized():
            leave_group()
        raise
    leave_group()


def leave_group() -> None:
    """Forget the group of processes that trained together: the next trial of this process forms its own.

    A process that ends without this may be aborted by the threads of its group, which live as long as anything that
    refers to it; DDP's modules do, in cycles.
    """
    gc.collect()
    _waiting_room.close()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    AcceleratorState._reset_state(reset_partial_state=True)
