"""A job while it runs, and what it tells those who watch."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cluster.retry import AGAIN_AFTER_SECONDS, ATTEMPTS, FULL, reason
from cluster.work import JobState, Work, WorkFailed

if TYPE_CHECKING:
    from cluster.worker import WorkerHandle


@dataclass
class RunningJob:
    """A job in the process that waits for it."""

    work: Work
    task: dict[str, Any]
    log_file: str
    tell: Callable[[dict[str, float]], None] | None = None
    """Is given the metrics of the job every few seconds."""
    since: float = field(default_factory=time.time)
    """Seconds since 1970."""

    def note(self, workers: Sequence[WorkerHandle], *, full_is_fatal: bool = False) -> None:
        """Note that the job runs and what its workers do, as far as that can be kept.

        Raises:
            WorkFailed: there is no room for it at all, and that is asked for.
        """
        state = {
            "state": JobState.RUNNING,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": self.since,
            "at": time.time(),
            "workers": [worker.note() for worker in workers],
        }
        try:
            self.work.note(self.task, state)
        except OSError as error:  # or else the work itself will tell
            if full_is_fatal and error.errno in FULL:
                raise WorkFailed(reason(error)) from None
        if self.tell:
            with suppress(OSError, ValueError, LookupError):  # a damaged file, which the work makes anew
                self.tell(self.work.metrics(self.task))

    def note_end(self) -> None:
        """Note that all is done; without it the job would be taken for unfinished.

        Raises:
            OSError: it cannot be noted, in three attempts.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self.work.note(self.task, None)
                return
            except OSError:
                if attempt == ATTEMPTS:
                    raise
                time.sleep(AGAIN_AFTER_SECONDS)
