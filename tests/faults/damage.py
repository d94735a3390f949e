"""Faults of files: cut short, changed, deleted, left behind, not to be written."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from results.store.process import machine
from tests.faults.processes import NotHappened

SHARD = "trials/*/shards/*.parquet"
TRAINING_FILES = {
    "checkpoint": "checkpoint.safetensors",
    "model": "model.safetensors",
    "training record": "training.json",
    "epochs": "epochs.parquet",
    "spectrum": "spectrum.parquet",
}


def pick(random: Random, run: Path, pattern: str, spared: set[Path]) -> Path | None:
    """A file or folder of the run (no pattern: the run itself), unless it or its folder is spared."""
    found = sorted(path for path in (run.glob(pattern) if pattern else [run]) if not spared & {path, path.parent})
    fitting = [path for path in found if path.is_dir() or path.stat().st_size]
    return random.choice(fitting) if fitting else None


def look_of(path: Path) -> tuple[int, int] | None:
    """Tells a file from the one that takes its place."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def truncate(random: Random, path: Path) -> str:
    before = path.stat().st_size
    after = random.randrange(before)
    os.truncate(path, after)
    _check(path.stat().st_size == after < before, path)
    return f"{path}: cut from {before} to {after} bytes"


def flip(random: Random, path: Path) -> str:
    before = path.read_bytes()
    place, mask = random.randrange(len(before)), random.randrange(1, 256)
    path.write_bytes(before[:place] + bytes([before[place] ^ mask]) + before[place + 1 :])
    _check(path.read_bytes() != before, path)
    return f"{path}: byte {place} of {len(before)} xor {mask:#x}"


def empty(random: Random, path: Path) -> str:  # noqa: ARG001
    os.truncate(path, 0)
    _check(path.stat().st_size == 0, path)
    return f"{path}: emptied"


def delete(random: Random, path: Path) -> str:  # noqa: ARG001
    path.unlink()
    _check(not path.exists(), path)
    return f"{path}: deleted"


def leave_stray(random: Random, path: Path) -> str:
    """Half of a file under the temporary name of a process that is no more."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    stray = path.with_name(f".{path.name}.{machine()}.{ended.pid}.{random.randbytes(4).hex()}")
    content = path.read_bytes()
    stray.write_bytes(content[: random.randrange(len(content))])
    _check(stray.exists(), stray)
    return f"{stray}: left behind"


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """A file or folder that cannot be changed, by root neither.

    Raises:
        NotHappened: it can be written all the same.
    """
    mode = path.stat().st_mode
    path.chmod(mode & ~0o222)
    try:
        if os.geteuid() == 0:
            subprocess.run(["chattr", "+i", path], check=True, capture_output=True)
        _check(not _writable(path), path)
        yield
    finally:
        if os.geteuid() == 0:
            subprocess.run(["chattr", "-i", path], check=True, capture_output=True)
        path.chmod(mode)


def _writable(path: Path) -> bool:
    probe = path / "probe" if path.is_dir() else path
    try:
        probe.open("ab").close()
    except OSError:
        return False
    if path.is_dir():
        probe.unlink()
    return True


def _check(happened: bool, path: Path) -> None:
    if not happened:
        raise NotHappened(f"{path} is as it was")


@contextmanager
def small_disk(path: Path, megabytes: int) -> Iterator[None]:
    """A file system of its own in the folder `path`, which is made.

    Raises:
        OSError: file systems cannot be mounted here.
    """
    path.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "faults", path],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        raise OSError(f"a file system cannot be mounted: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def fill_disk(filler: Path) -> str:
    """Write until no byte is left."""
    written = 0
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                written += file.write(bytes(65536))
        except OSError:
            pass
    _check(os.statvfs(filler).f_bavail == 0, filler)
    return f"{filler}: {written} bytes, and the disk is full"
