"""How a command that can go on later ends before it is done."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import typer

from bench.cli.base import errors


class Stopped(KeyboardInterrupt):
    """As Ctrl-C raises it. Of KeyboardInterrupt itself Python remembers that it once came through an `exec`, as where a
    dataclass is made, and ends by SIGINT then, whatever the program says."""


@contextmanager
def stopped_in_order() -> Iterator[None]:
    """Ctrl-C, SIGTERM as schedulers send it, and SIGHUP as a terminal that goes sends it, end the block as a
    KeyboardInterrupt does, so that it is tidied up; then one sentence says how to go on. The exit status is a shell's
    for the signal: 130, 143 or 129."""
    received = [signal.SIGINT]

    def end(number: int, _frame: FrameType | None) -> None:
        # A scheduler tells every process of a job, and the job's script tells its command again; so do a terminal that
        # goes and its shell.
        for often in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(often, signal.SIG_IGN)
        received[0] = signal.Signals(number)
        raise Stopped

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, end)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # it is ignored in a script's background
        before[signal.SIGINT] = signal.signal(signal.SIGINT, end)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # nohup has it ignored
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, end)
    try:
        yield
    except KeyboardInterrupt:
        for often in (signal.SIGTERM, signal.SIGHUP):  # they stay ignored until the process has ended
            before.pop(often, None)
        with suppress(OSError):  # there may be no terminal any more
            errors.print("Stopped. Everything finished is kept; the same command goes on from there.")
        raise typer.Exit(128 + received[0]) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
