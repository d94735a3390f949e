"""A path in an object store (s3://, gs://, …), with those members of pathlib.Path that a run's files need."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from results.errors import StoreError
from results.store.secrecy import is_secret

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, FileSelector

READ_ATTEMPTS = 20
"""Of a file that is written anew while it is read."""
WAITS = (0.02, 0.1, 0.5, 1.0)
"""Seconds before a store that gave no answer is asked again: one that is busy may have one by then."""


class StorageError(OSError):
    """A store that cannot be used (no such bucket, no permission, no answer); one sentence, which names the URL."""


@dataclass(frozen=True)
class RemotePath:
    """A file or folder in an object store. Folders are not made: they are there as long as a file is in them.

    Missing files raise FileNotFoundError, anything else that goes wrong StorageError. Credentials, and the endpoint of
    a server that is not Amazon's, come from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, …); the endpoint may
    also stand in the URL (s3://bucket/run?endpoint_override=host:9000&scheme=http).
    """

    store: str
    """Scheme and bucket: s3://bucket."""
    key: PurePosixPath
    """Absolute within the bucket."""
    query: str = ""

    @classmethod
    def from_url(cls, url: str) -> RemotePath:
        """Raises StoreError: not the URL of a folder in a store, or one with credentials in it."""
        try:
            parts = urlsplit(url)
            keys, password = parse_qs(parts.query), parts.password
        except ValueError as error:
            raise StoreError(f"{url}: cannot be opened: {error}") from None
        if password is not None or any(is_secret(key) for key in keys):
            raise StoreError(
                f"{parts.scheme}://…{parts.path}: a URL must not hold credentials, which belong into the environment"
            )
        key = PurePosixPath("/", unquote(parts.path))
        if parts.fragment or ".." in key.parts or any(ord(character) < 32 for character in str(key)):
            raise StoreError(f"{url}: a URL must not have a part .. or #, or control characters")
        path = cls(f"{parts.scheme}://{parts.netloc}", key, parts.query)
        path._filesystem()  # a scheme or an option that is not known is told here
        return path

    def __str__(self) -> str:
        return self.store + quote(str(self.key)).rstrip("/") + (f"?{self.query}" if self.query else "")

    def __truediv__(self, part: str) -> RemotePath:
        return replace(self, key=self.key / part)

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.name

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return self.key.stem

    @property
    def suffix(self) -> str:
        """From the name's last dot on."""
        return self.key.suffix

    @property
    def parent(self) -> RemotePath:
        """The folder that holds it."""
        return replace(self, key=self.key.parent)

    def with_name(self, name: str) -> RemotePath:
        """Beside this one, under another name."""
        return replace(self, key=self.key.with_name(name))

    def with_suffix(self, suffix: str) -> RemotePath:
        """Beside this one, with another suffix."""
        return replace(self, key=self.key.with_suffix(suffix))

    def __lt__(self, other: RemotePath) -> bool:
        return str(self) < str(other)

    def absolute(self) -> RemotePath:
        """Itself: a URL is absolute."""
        return self

    def exists(self) -> bool:
        """Whether there is a file, or a folder with a file in it."""
        return bool(self._info().type.name != "NotFound")

    def is_dir(self) -> bool:
        """Whether it is a folder with a file in it."""
        return bool(self._info().type.name == "Directory")

    def iterdir(self) -> Iterator[RemotePath]:
        """What the folder holds."""
        for path, _ in self.listing():
            yield path

    def listing(self) -> list[tuple[RemotePath, int]]:
        """What the folder holds, in one listing, with the times of writing (ns since 1970; 0: a folder); nothing where
        there is no folder."""
        filesystem, root = self._filesystem()
        with _told(self):
            found = filesystem.get_file_info(_selector(self._in(root)))
        return [(self / info.base_name, info.mtime_ns or 0) for info in found]

    def walk(self) -> list[tuple[RemotePath, int, int | None]]:
        """All files below the folder, each with its size in bytes and the time of its writing (ns since 1970), if the
        store tells; in one listing."""
        filesystem, root = self._filesystem()
        with _told(self):
            found = filesystem.get_file_info(_selector(self._in(root), recursive=True))
        start = len(self._in(root)) + 1
        return [(self / info.path[start:], info.size, info.mtime_ns) for info in found if info.type.name == "File"]

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """Paths below this one; * stands for any part of a name."""
        first, _, rest = pattern.partition("/")
        children = self.iterdir() if "*" in first else iter([self / first])
        for child in children:
            if fnmatchcase(child.name, first):
                if rest:
                    yield from child.glob(rest)
                elif "*" in first or child.exists():
                    yield child

    def open(self, mode: str = "rb") -> io.BytesIO:
        """The file, read at once."""
        assert mode == "rb"
        return io.BytesIO(self.read_bytes())

    def read_bytes(self) -> bytes:
        """The whole file as it was at one instant."""
        waits = iter(WAITS)
        for _ in range(READ_ATTEMPTS):
            try:
                content, unchanged = self._read()
            except StorageError:
                wait = next(waits, None)
                if wait is None:
                    raise
                time.sleep(wait)
            else:
                if unchanged:
                    return content
        raise StorageError(f"{self}: changes faster than it can be read")

    def _read(self) -> tuple[bytes, bool]:
        """What the file held, and whether it was the same before and afterwards: pyarrow asks for the size first and
        reads no more than that, of whatever is there by then. A size alone may be that of one before the last."""
        filesystem, root = self._filesystem()
        with _told(self):
            with filesystem.open_input_file(self._in(root)) as file:
                before, content = file.metadata(), file.read()
            with filesystem.open_input_file(self._in(root)) as file:
                return content, (file.metadata(), file.size()) == (before, len(content))

    def read_text(self, encoding: str = "utf-8") -> str:
        """The file's contents as text; raises UnicodeDecodeError where it is none."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes) -> None:
        """Replaces the file; a reader sees all of it or nothing, also when this process is killed."""
        filesystem, root = self._filesystem()
        with _told(self), filesystem.open_output_stream(self._in(root)) as file:
            file.write(content)

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Delete the file; raises FileNotFoundError where there is none, unless that may be."""
        filesystem, root = self._filesystem()
        try:
            with _told(self):
                filesystem.delete_file(self._in(root))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def replace(self, target: RemotePath) -> None:
        """Copy, then delete: a reader may see both for a moment."""
        filesystem, root = self._filesystem()
        with _told(self):
            filesystem.copy_file(self._in(root), target._in(root))
        self.unlink(missing_ok=True)

    def delete_tree(self) -> None:
        """Delete the folder and all in it."""
        filesystem, root = self._filesystem()
        with _told(self):
            filesystem.delete_dir(self._in(root))

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a store has no folders."""

    def _in(self, root: str) -> str:
        return (root + str(self.key)).rstrip("/")

    def _filesystem(self) -> tuple[Any, str]:
        import pyarrow as pa

        try:
            return _connected(self.store, self.query)
        except (OSError, pa.ArrowException, ValueError) as error:
            raise StoreError(f"{self}: cannot be opened: {_reason(error)}") from None

    def _info(self) -> FileInfo:
        filesystem, root = self._filesystem()
        with _told(self):
            return filesystem.get_file_info(self._in(root))


@lru_cache(maxsize=8)
def _connected(store: str, query: str) -> tuple[Any, str]:
    """The file system of a store, and what stands before a key in its paths."""
    from pyarrow.fs import FileSystem  # takes long to import, and most runs are not in a store

    if store.startswith("s3:"):
        query = "&".join(filter(None, [query, "allow_delayed_open=true"]))  # small files in one request
    filesystem, path = FileSystem.from_uri(f"{store}/x" + (f"?{query}" if query else ""))
    return filesystem, path.removesuffix("/x")


def _selector(folder: str, *, recursive: bool = False) -> FileSelector:
    from pyarrow.fs import FileSelector

    return FileSelector(folder, allow_not_found=True, recursive=recursive)


@contextmanager
def _told(path: RemotePath) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(2, "No such file or directory", str(path)) from None
    except (OSError, pa.ArrowException) as error:
        if "NO_SUCH_KEY" in str(error):  # where pyarrow does not ask whether the file is there
            raise FileNotFoundError(2, "No such file or directory", str(path)) from None
        raise StorageError(f"{path}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """pyarrow's message without the number of the request, in one line."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return first.split(" (Request ID:")[0]


AnyPath = Path | RemotePath


def location(text: str | AnyPath) -> AnyPath:
    """Where a user's path or URL is: s3://bucket/folder and the like in a store, anything else on this machine.

    Raises:
        StoreError: a URL that cannot be opened, or one with credentials in it; or ~ of a user whose home is not known.
    """
    if isinstance(text, RemotePath):
        return text
    if str(text).startswith("file://"):
        return Path(unquote(urlsplit(str(text)).path)).absolute()
    if "://" in str(text):
        return RemotePath.from_url(str(text))
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:  # also where HOME is not set and the user is not among the machine's
        raise StoreError(f"{text}: there is no such home here: give the whole path, or set HOME for ~/") from None
