"""Every file name of a run, and the one way in which its files are written."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from results.errors import StoreError
from results.store.process import is_hidden, machine, started
from results.store.remote import AnyPath as AnyPath
from results.store.remote import RemotePath as RemotePath
from results.store.remote import location as location  # the way in to a run's folder

_TEMPORARY = re.compile(r"\..+\.(?P<machine>[0-9a-f]{12})\.(?P<pid>\d+)\.[0-9a-f]{8}")
_CLAIM = re.compile(r"lock-(?P<lock>[a-z]+)-[0-9a-f]{16}\.json")
Content = TypeVar("Content")
Place = TypeVar("Place", bound=AnyPath)
AT_ONCE = 16
"""Files that are read at the same time from a store, whose answers take long."""
NO_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
"""What reading raises where there is no file; any other OSError says nothing about one."""
SHARED_FOLDER_SECONDS = 60.0
"""How long a shared file system may show one machine what another has replaced."""
LEFT_OVER = 3600.0
"""Seconds after which a temporary file is of nobody, whichever machine wrote it."""


@dataclass(frozen=True)
class TrialFolder:
    """The files of one trial."""

    path: AnyPath

    @property
    def settings(self) -> AnyPath:
        """What the trial was told to do (`results.store.settings`)."""
        return self.path / "trial.json"

    @property
    def checkpoint(self) -> AnyPath:
        """Weights and optimizer state after the last finished epoch. Kept when the training is done, as is the previous
        one: whatever file of the training is damaged then, it can be written again."""
        return self.path / "checkpoint.safetensors"

    @property
    def previous_checkpoint(self) -> AnyPath:
        """That of the epoch before, should the last one be damaged."""
        return self.path / "checkpoint-previous.safetensors"

    @property
    def model(self) -> AnyPath:
        """The trained weights."""
        return self.path / "model.safetensors"

    @property
    def training(self) -> AnyPath:
        """Written last: where it exists, the training is done."""
        return self.path / "training.json"

    @property
    def epochs(self) -> AnyPath:
        """One row per finished epoch."""
        return self.path / "epochs.parquet"

    @property
    def spectrum(self) -> AnyPath:
        """Principal variances of the training images; only where the model has a linear decomposition."""
        return self.path / "spectrum.parquet"

    @property
    def batch(self) -> AnyPath:
        """How noise samples are classified; only where fewer at once than usual, or where compiling was decided on."""
        return self.path / "batch.json"

    @property
    def shards(self) -> AnyPath:
        """The folder of the trial's shards."""
        return self.path / "shards"

    @property
    def log(self) -> AnyPath:
        """What the trial's processes printed."""
        return self.path / "log.txt"

    @property
    def state(self) -> AnyPath:
        """Who works on the trial, or why the last attempt failed; absent before the first and after success."""
        return self.path / "state.json"

    @property
    def diverged(self) -> AnyPath:
        """Why the training cannot go on, which is a result of a search (`bench tune`); absent elsewhere."""
        return self.path / "diverged.json"

    @property
    def votes(self) -> AnyPath:
        """The folder of the model's votes on its training images; only where other trials learn from them."""
        return self.path / "votes"

    def votes_on(self, first: int, last: int, copies: int) -> AnyPath:
        """Votes on `copies` noise samples of each of the training images `first` to `last`, both included."""
        return self.votes / f"{copies}-{first:05d}-{last:05d}.safetensors"

    def shard(self, first: int, last: int) -> AnyPath:
        """Certificates of the test images `first` to `last`, both included."""
        return self.shards / f"{first:05d}-{last:05d}.parquet"

    def shard_files(self) -> list[AnyPath]:
        """The shards, by their first image."""
        return sorted(self.shards.glob("*.parquet"))

    def shard_times(self) -> dict[AnyPath, int]:
        """The shards as `shard_files` gives them, each with the time of its writing (ns since 1970); one listing."""
        found = {path: written for path, written in listing(self.shards) if path.suffix == ".parquet"}
        return dict(sorted(found.items()))


@dataclass(frozen=True)
class RunFolder:
    """The files of a run."""

    path: AnyPath

    @property
    def description(self) -> AnyPath:
        """Which trials form the run, and how it came about. Written before any work begins."""
        return self.path / "run.json"

    @property
    def certificates(self) -> AnyPath:
        """One row per trial and test image (`results.store.rows.CertificateRow`)."""
        return self.path / "certificates.parquet"

    @property
    def trials(self) -> AnyPath:
        """One row per trial (`TrialRow`)."""
        return self.path / "trials.parquet"

    @property
    def epochs(self) -> AnyPath:
        """One row per trained model and epoch (`EpochRow`)."""
        return self.path / "epochs.parquet"

    @property
    def spectra(self) -> AnyPath:
        """One row per principal component of a set of training images (`SpectrumRow`)."""
        return self.path / "spectra.parquet"

    @property
    def forecast(self) -> AnyPath:
        """What the last command was expected to cost; only where that was asked."""
        return self.path / "forecast.json"

    @property
    def devices(self) -> AnyPath:
        """Accelerators that failed; only where some did in the last command."""
        return self.path / "devices.json"

    @property
    def thumbnails(self) -> AnyPath:
        """One row per certified test image (`ThumbnailRow`)."""
        return self.path / "thumbnails.parquet"

    @property
    def search(self) -> AnyPath:
        """One row per configuration and rung (`SearchRow`); only where the trials are those of a search."""
        return self.path / "search.parquet"

    @property
    def tuned(self) -> AnyPath:
        """The grid with the options that a search chose."""
        return self.path / "tuned.toml"

    @property
    def page(self) -> AnyPath:
        """The report in one file, for a browser."""
        return self.path / "report.html"

    @property
    def report(self) -> AnyPath:
        """What tables, figures and page were made from, see `results.store.reported`."""
        return self.path / "report.json"

    @property
    def tables(self) -> AnyPath:
        """The folder of the report's tables."""
        return self.path / "tables"

    @property
    def figures(self) -> AnyPath:
        """The folder of the report's figures."""
        return self.path / "figures"

    def new_claim(self, lock: str) -> AnyPath:
        """A file for `results.store.lock`, which nobody else is given."""
        return self.path / f"lock-{lock}-{os.urandom(8).hex()}.json"

    def claims(self, lock: str) -> list[tuple[AnyPath, int]]:
        """The claims of a lock and the times of their last renewal (ns since 1970)."""
        names = [(path, written, _CLAIM.fullmatch(path.name)) for path, written in listing(self.path)]
        return [(path, written) for path, written, match in names if match and match["lock"] == lock]

    def has_trials(self) -> bool:
        """Whether its Parquet files can be made again: they were not sent alone."""
        return self.description.exists() and (self.path / "trials").is_dir()

    def has_contents(self) -> bool:
        """Whether the folder holds more than trials, locks and what a process has not finished writing."""
        names = [path.name for path, _ in listing(self.path)]
        return any(name != "trials" and not _CLAIM.fullmatch(name) and not _TEMPORARY.fullmatch(name) for name in names)

    def clear(self) -> None:
        """Delete the run but for run.json, by which it is one and which the next replaces; what is not of it stays,
        and claims of its locks."""
        for path, _ in listing(self.path):
            if path == self.description or not (path.name in OF_A_RUN or _TEMPORARY.fullmatch(path.name)):
                continue
            if isinstance(path, RemotePath):
                if path.is_dir():
                    path.delete_tree()
                else:
                    path.unlink(missing_ok=True)
            elif path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def trial(self, trial_id: str) -> TrialFolder:
        """Raises StoreError where that is no trial's id, as a foreign run.json may have it: it would lead elsewhere."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", trial_id):
            raise StoreError(f"{self.path}: {trial_id!r} is not the id of a trial")
        folder = self.path / "trials" / trial_id
        if isinstance(folder, Path) and folder.is_symlink():
            raise StoreError(f"{folder}: is a link, and a trial's files must be in the run's folder")
        return TrialFolder(folder)


OF_A_RUN = frozenset(
    [
        "tensorboard",  # Tune's
        "trials",
        *(
            getattr(RunFolder(Path()), name).name
            for name, member in vars(RunFolder).items()
            if isinstance(member, property)
        ),
    ]
)
"""Names of all that a run's folder may hold, claims and temporary files apart."""


def write_whole(path: AnyPath, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file, then put it in place: a reader sees all of it or nothing.

    In a store that is an upload; on a file system, a file in the same folder that is written to the disk, because a
    machine may lose its power, and then renamed. Its name tells who wrote it, see `remove_leftovers`.
    """
    if isinstance(path, RemotePath):
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder, path.name)
            write(temporary)
            path.write_bytes(temporary.read_bytes())
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{machine()}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def not_merged(path: AnyPath) -> FileNotFoundError:
    """What to raise where a Parquet file of a run is not there."""
    return FileNotFoundError(f"{path} does not exist: `bench run` or `bench report` writes it")


def refresh(folder: TrialFolder) -> None:
    """Have a shared file system (NFS) list the folder anew, where other machines wrote: it keeps a listing until this
    machine writes there."""
    for place in (folder.path, folder.shards):
        if isinstance(place, Path) and place.is_dir():
            marker = place / f".refresh.{machine()}.{os.getpid()}.{os.urandom(4).hex()}"
            with suppress(OSError):
                marker.touch()
                marker.unlink()


def remove_leftovers(folder: AnyPath) -> None:
    """Remove temporary files of `write_whole` whose writer is gone: on this machine its process is no more, or it is
    of another machine and an hour old. A store has none."""
    if isinstance(folder, RemotePath) or not folder.is_dir():
        return
    for path in folder.glob(".*"):
        writer = _TEMPORARY.fullmatch(path.name)
        if not writer:
            continue
        try:
            old = time.time() - path.stat().st_mtime > LEFT_OVER
        except FileNotFoundError:
            continue
        pid = int(writer["pid"])
        if old or (writer["machine"] == machine() and started(pid) is None and not is_hidden(pid)):
            path.unlink(missing_ok=True)


def set_aside(path: AnyPath) -> None:
    """Give a file that is not to be trusted a name under which nobody looks for it; it is not deleted."""
    target = path.with_suffix(".set-aside")
    while target.exists():
        target = path.with_suffix(f".{os.urandom(4).hex()}.set-aside")
    rename(path, target)


def rename(path: AnyPath, target: AnyPath) -> None:
    """Within one folder; what is called so already is replaced.

    Raises:
        FileNotFoundError: there is no such file.
    """
    path.replace(target)  # type: ignore[arg-type]  # both are of one kind


def listing(folder: AnyPath) -> list[tuple[AnyPath, int]]:
    """What a folder holds, each with the time of its writing (ns since 1970); nothing where there is no folder."""
    if isinstance(folder, RemotePath):
        return [*folder.listing()]
    found: list[tuple[AnyPath, int]] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    found.append((folder / entry.name, entry.stat(follow_symlinks=False).st_mtime_ns))
                except FileNotFoundError:
                    continue  # it went in between
    except FileNotFoundError:
        return []
    return found


def read_each(read: Callable[[Place], Content], paths: Sequence[Place]) -> Iterator[Content]:
    """What `read` gives for each path, in their order."""
    if not paths or isinstance(paths[0], Path):
        yield from map(read, paths)
        return
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield from pool.map(read, paths)


def write_text(path: AnyPath, text: str) -> None:
    """Write a text file whole, in UTF-8."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: AnyPath, value: object) -> None:
    """Write JSON values whole."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def refuse_devices(path: AnyPath) -> None:
    """Raise StoreError for a pipe or a device, which would be read for ever."""
    if isinstance(path, Path) and path.exists() and not path.is_file() and not path.is_dir():
        raise StoreError(f"{path}: is neither a file nor a folder")


def read_json(path: AnyPath) -> dict[str, Any]:
    """A JSON object from a file; StoreError, which names the file, where it holds anything else."""
    refuse_devices(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise StoreError(f"{path}: not JSON of ours: it is nested too deeply") from None
    except ValueError as error:
        raise StoreError(f"{path}: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise StoreError(f"{path}: must hold a JSON object")
    return value


def sha256_of(path: AnyPath) -> str:
    """SHA-256 of a file's contents, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
