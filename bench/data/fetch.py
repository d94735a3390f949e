"""Images in a store, copied once to every machine that needs them."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from bench.data.imageset import DataError
from results.store.folder import read_each
from results.store.remote import RemotePath

ABANDONED = 24 * 3600.0
"""Seconds after which a copy that was not finished is of nobody."""

log = logging.getLogger(__name__)


def cache() -> Path:
    """Where this user's copies are on this machine.

    Raises:
        DataError: it has no home for this user.
    """
    try:
        return Path.home() / ".cache" / "smoothing-bench" / "data"
    except RuntimeError:
        raise DataError("this user has no home, in whose .cache data is kept: set HOME to a folder of yours") from None


def fetched(url: RemotePath) -> Path:
    """A copy of a folder in a store: there already if it was fetched before and no file was written since. Several
    processes may fetch it at once.

    Raises:
        DataError: there is nothing.
        StorageError: the store gives no answer.
    """
    files = sorted(url.walk())
    if not files:
        raise DataError(f"data {str(url)!r} is not a folder with files")
    listing = "\n".join(f"{path} {size} {written}" for path, size, written in files)
    target = cache() / hashlib.sha256(listing.encode()).hexdigest()[:16] / (url.name or "data")
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / "fetch.lock").open("wb") as turn:
        wait_for_turn(turn)  # the others wait, and then find it
        if not target.is_dir():
            _fetch(url, [path for path, *_ in files], target)
    return target


def remove_abandoned(folder: Path, prefix: str) -> None:
    """Remove folders of that prefix whose process was killed, as their age tells."""
    for old in folder.glob(f"{prefix}*"):
        with suppress(FileNotFoundError):
            if time.time() - old.stat().st_mtime > ABANDONED:
                shutil.rmtree(old, ignore_errors=True)


def wait_for_turn(turn: IO[bytes]) -> None:
    """Lock the file, where its file system can; else several processes may each fetch, or read, the data."""
    try:
        try:
            fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s: waiting for another process that fetches or reads the data", turn.name)
            fcntl.flock(turn, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK):
            raise
        log.warning(
            "%s: cannot be locked (%s): processes that start together each fetch or read the data",
            turn.name,
            error.strerror,
        )


def _fetch(url: RemotePath, paths: list[RemotePath], target: Path) -> None:
    remove_abandoned(target.parent, ".")
    temporary = Path(tempfile.mkdtemp(prefix=".", dir=target.parent))
    for path, content in zip(paths, read_each(RemotePath.read_bytes, paths), strict=True):
        copy = temporary / path.key.relative_to(url.key)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(content)
    try:
        temporary.rename(target)
    except OSError:
        shutil.rmtree(temporary)
        if not target.is_dir():
            raise  # not because a process of another machine that shares the folder was faster
