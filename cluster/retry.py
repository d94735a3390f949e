"""What is tried again after a failure, and how often: shards and trainings."""

from __future__ import annotations

import errno
import re

from ray.exceptions import RayError, RayTaskError

from cluster.work import WorkFailed, shard_name

ATTEMPTS = 3
"""At a shard, at a training between two finished epochs, at a start."""
ERRORS_IN_A_ROW = 10
AGAIN_AFTER_SECONDS = 2.0
PASSING = frozenset([errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, None])
"""Errors of a file system or store that may be over when it is tried again; a store's have no number."""
OF_A_PEER = re.compile(r"by peer|gloo|NCCL|timed out waiting", re.IGNORECASE)
"""What collectives say where another process of the group is gone, or does not come."""
FULL = frozenset([errno.ENOSPC, errno.EDQUOT, errno.EROFS])
"""Errors that every other shard would meet as well."""


class ShardRetries:
    """The shards of a job that went wrong: each has three attempts, on any worker, and is then given up."""

    def __init__(self) -> None:
        self.failures: dict[int, int] = {}
        """By a shard's first image."""
        self.in_a_row = 0
        """Errors raised since a shard came through: after many, what is wrong is not the shards."""
        self.given_up: list[str] = []

    def again(self, shard: list[int], error: RayError) -> bool:
        """Whether the shard, which failed with this error, shall be tried again.

        Raises:
            WorkFailed: hardly anything comes through.
        """
        if isinstance(error, RayTaskError):
            self.in_a_row += 1
            full = isinstance(error.cause, OSError) and error.cause.errno in FULL
            if full or self.in_a_row >= ERRORS_IN_A_ROW:
                raise WorkFailed(reason(error))
        self.failures[shard[0]] = self.failures.get(shard[0], 0) + 1
        if self.failures[shard[0]] < ATTEMPTS:
            return True
        self.given_up.append(f"{shard_name(shard)}: {reason(error)}")
        return False

    def came_through(self) -> None:
        """A shard was certified."""
        self.in_a_row = 0

    def raise_if_given_up(self) -> None:
        """At the end of all others.

        Raises:
            WorkFailed: a shard was given up.
        """
        if self.given_up:
            others = f", and {len(self.given_up) - 1} more" if len(self.given_up) > 1 else ""
            raise WorkFailed(f"a shard failed {ATTEMPTS} times: {self.given_up[0]}{others}")


class TrainingRetries:
    """The attempts at a training: three without a finished epoch in between."""

    def __init__(self) -> None:
        self.attempt = 1
        self.left_before = -1

    def begin(self, epochs_left: int) -> None:
        """An attempt begins, with so many epochs still to be trained."""
        if self.left_before > epochs_left:  # epochs were finished since: the attempts start anew
            self.attempt = 1
        self.left_before = epochs_left

    def failed(self, death: RayError) -> None:
        """An attempt ended with the death of a worker.

        Raises:
            WorkFailed: it was the last one.
        """
        if self.attempt == ATTEMPTS:
            raise WorkFailed(f"the training was interrupted {ATTEMPTS} times: {reason(death)}")
        self.attempt += 1


def may_pass(error: RayTaskError) -> bool:
    """Whether what the work raised may be over when it is tried again."""
    return (isinstance(error.cause, OSError) and error.cause.errno in PASSING) or is_of_a_peer(error)


def is_of_a_peer(error: RayTaskError) -> bool:
    """Whether what the work raised says that another of its group failed, or does not answer, and no more than that."""
    if not isinstance(error.cause, RuntimeError):
        return False
    # torch's DistError and its kind; torch itself is not to be imported here.
    return any(kind.__name__ == "DistError" for kind in type(error.cause).__mro__) or bool(
        OF_A_PEER.search(str(error.cause))
    )


def reason(error: BaseException) -> str:
    """An error in one line; a ValueError of the work is a sentence for the user already."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    text = str(cause).strip().splitlines()
    message = text[0] if text else "no message"
    return message if isinstance(cause, ValueError | RayError) else f"{type(cause).__name__}: {message}"
