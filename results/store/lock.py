"""A lock on a run's folder that works on any storage, survives crashes and says who holds it.

It needs neither flock nor conditional writes, only that a listing shows what was written before it: whoever wants the
lock writes a claim into the folder, then looks for others. Of two claims, the one that was written later sees the
earlier one and is withdrawn, so no two are kept. A claim is dead if its process is gone, where that can be seen,
or else if its holder has not renewed it for half a minute.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType

from results.errors import BenchError, StoreError
from results.printable import as_utf8
from results.store.folder import AnyPath, RemotePath, RunFolder, listing
from results.store.process import is_hidden, machine, started
from results.store.records import ClaimRecord
from results.store.secrecy import masked

BEAT_SECONDS = 5.0
"""How often a holder renews its claim."""
STALE_SECONDS = 30.0
"""After so long without renewal a claim is of a holder that is no more."""
ATTEMPTS = 4
"""Those who come at the same instant may all withdraw, and try again after random delays of up to half a second."""

log = logging.getLogger(__name__)


class LockedError(BenchError):
    """Somebody else has the lock; one sentence says who, and what to do."""


@dataclass(frozen=True)
class Holder:
    """Who claims a run."""

    host: str
    pid: int
    since: str
    """ISO 8601, UTC."""
    command: str
    dead: bool
    """Its process is known to be gone, or by the time of its file it has not renewed its claim lately."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since} ({self.command})"


class RunLock:
    """Holds a run from `with` on until the block ends, the process dies, or the machine does.

    Args:
        name: locks of different names do not exclude each other.
        on_lost: called from another thread, once, if the claim was removed: this process was stopped for so long that
            somebody else took it for dead. `lost` is then true.
        wait: wait for the holder to be done instead of raising LockedError.

    Raises:
        LockedError: on entering, somebody else holds the run; on leaving by a KeyboardInterrupt, as `end_command`
            causes it, somebody else has taken it over.
        OSError: the folder cannot be written.
    """

    def __init__(
        self, run: RunFolder, *, name: str = "run", on_lost: Callable[[], None] | None = None, wait: bool = False
    ) -> None:
        self.run, self.name, self.on_lost, self.wait = run, name, on_lost, wait
        self.lost = False
        self._told = False
        self._renewing: set[AnyPath] = set()
        self._claim: AnyPath = run.new_claim(name)
        self._done = threading.Event()
        self._beating = threading.Thread(target=self._beat, name=f"lock {name}", daemon=True)

    def __enter__(self) -> RunLock:
        attempt = 1
        while (rival := self._try()) is not None:
            if attempt >= ATTEMPTS and not self.wait:
                raise _in_use(self.run, rival)
            if self.wait:
                self._tell(f"waiting for {rival}")
            attempt += 1
            time.sleep(random.uniform(0.1, 0.5))
        self._beating.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._done.set()
        self._beating.join()
        self._withdraw()
        if self.lost and isinstance(error, KeyboardInterrupt):
            raise LockedError(f"stopped: {self.run.path} was taken over by another command meanwhile") from None

    def _try(self) -> Holder | None:
        """Take the lock; or the holder of another claim."""
        for claim, written in self.run.claims(self.name):
            if rival := self._rival(claim, written):
                return rival
        record = ClaimRecord(
            host=socket.gethostname(),
            pid=os.getpid(),
            machine=machine(),
            started=started(os.getpid()),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
            command=shlex.join(map(as_utf8, masked(sys.argv))),
        )
        try:
            record.write(self._claim)
            others = [claim for claim, _ in self.run.claims(self.name) if claim != self._claim]
            if not others:
                return None
        except BaseException:
            self._withdraw()
            raise
        self._withdraw()
        return _holder(_read(others[0]) or NOT_OURS, dead=False)

    def _rival(self, claim: AnyPath, written: int) -> Holder | None:
        """Who made the claim; watches it where its process cannot be seen from here. That of a dead one is removed. One
        that is gone is not: by then there may be another in its place, of the same process, which tries again."""
        content = _read(claim)
        if content is None:
            return None
        rival, known = _holder(content, dead=False), _is_alive_here(content)
        if known:
            return rival
        if known is False:
            claim.unlink(missing_ok=True)
            return None
        if claim in self._renewing and not self.wait:
            return rival
        self._tell(f"claimed by {rival}: waiting up to {STALE_SECONDS:.0f} s for a sign of life")
        end = time.monotonic() + STALE_SECONDS
        while time.monotonic() < end:
            time.sleep(1)
            times = dict(listing(claim.parent))
            if claim not in times:
                return None
            if times[claim] != written:
                self._renewing.add(claim)
                return rival
        claim.unlink(missing_ok=True)
        return None

    def _tell(self, message: str) -> None:
        if not self._told:
            log.warning("%s: %s", self.run.path, message)
        self._told = True

    def _withdraw(self) -> None:
        try:
            self._claim.unlink(missing_ok=True)
        except OSError as error:  # it goes stale
            log.warning("%s", error)

    def _beat(self) -> None:
        while not self._done.wait(BEAT_SECONDS):
            try:
                there = _renew(self._claim)
            except OSError as error:
                log.warning("the lock could not be renewed: %s", error)
                continue
            if not there:
                self.lost = True
                if self.on_lost:
                    self.on_lost()
                return


def end_command() -> None:
    """For `on_lost`: this command ends in order, as on SIGTERM."""
    os.kill(os.getpid(), signal.SIGTERM)


def holder(run: RunFolder) -> Holder | None:
    """Who claims the run, as its files tell at this instant; None: nobody."""
    found = None
    for claim, written in run.claims("run"):
        content = _read(claim)
        if content is None:
            continue
        known = _is_alive_here(content)
        dead = time.time() - written / 1e9 > STALE_SECONDS if known is None else not known
        found = _holder(content, dead=dead)
        if not dead:
            break
    return found


def refuse_in_use(run: RunFolder) -> None:
    """For a command that does much before it takes the lock, which waits for a holder on another machine as well.

    Raises:
        LockedError: a process of this machine holds the run.
    """
    for claim, _ in run.claims("run"):
        content = _read(claim)
        if content and _is_alive_here(content):
            raise _in_use(run, _holder(content, dead=False))


def _in_use(run: RunFolder, rival: Holder) -> LockedError:
    return LockedError(f"{run.path} is in use by {rival}: wait for it, stop it, or give --out another folder")


def _is_alive_here(claim: ClaimRecord) -> bool | None:
    """Whether the claim's process lives; None: that cannot be seen from here."""
    if claim.machine != machine() or (started(claim.pid) is None and is_hidden(claim.pid)):
        return None
    return started(claim.pid) is not None and started(claim.pid) == claim.started


def _read(claim: AnyPath) -> ClaimRecord | None:
    """None: it was withdrawn meanwhile. What is not of this program is watched like a claim of another machine."""
    try:
        return ClaimRecord.read(claim)
    except FileNotFoundError:
        return None
    except StoreError:
        return NOT_OURS


NOT_OURS = ClaimRecord(host="unknown", pid=0, machine="", started=None, since="unknown", command="unknown")


def _holder(claim: ClaimRecord, *, dead: bool) -> Holder:
    return Holder(claim.host, claim.pid, claim.since, claim.command, dead)


def _renew(claim: AnyPath) -> bool:
    """Give the claim the present time; whether it was still there. One that was removed is not made again."""
    try:
        if not isinstance(claim, RemotePath):
            os.utime(claim)
            return True
        before = time.clock_gettime(time.CLOCK_BOOTTIME)
        claim.write_bytes(claim.read_bytes())
        if time.clock_gettime(time.CLOCK_BOOTTIME) - before < STALE_SECONDS / 2:
            return True
        claim.unlink(missing_ok=True)  # it may have been removed between reading and writing
        return False
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):
            return False
        raise
