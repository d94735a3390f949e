"""How far this process is, as a number that grows while it computes: who watches it tells slow work from none by it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class _Advance:
    """Written by the thread that works, read by the one that answers."""

    def __init__(self) -> None:
        self.steps = 0
        """Forward passes of trainings and certifications since the process began."""
        self.apart = ""
        """What it does that has no steps and may take long: loading, compiling, …; empty at other times."""

    @contextmanager
    def without_steps(self, doing: str) -> Iterator[None]:
        """A block that may take as long as it likes without a step."""
        before, self.apart = self.apart, doing
        try:
            yield
        finally:
            self.apart = before


advance = _Advance()
