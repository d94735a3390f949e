"""One command in this process, and what must hold however wrong its input is."""

from __future__ import annotations

import io
import os
import re
import sys
import traceback
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from bench import cli

UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


MERGED = {f"{name}.parquet" for name in ("certificates", "trials", "epochs", "spectra")}
"""What a good merge writes before the report of it is refused."""


Listing = dict[str, tuple[int, int]]
FOLDER = (-1, 0)
"""In a listing: a lock that comes and goes leaves a folder another time."""


class WorkBegins(BaseException):
    """Raised by what the harness puts where a command, its input accepted, would begin to work."""


class ViolationError(AssertionError):
    """An input that was not refused as it should be."""


@dataclass(frozen=True)
class Outcome:
    status: int
    message: str
    """What was printed to stderr."""


def begin_work(*_args: object, **_options: object) -> NoReturn:
    raise WorkBegins


def listing(folder: Path) -> Listing:
    """Size and time of writing of everything in a folder, by path; ten times as fast as pathlib would be."""
    found: Listing = {}
    folders = [str(folder)]
    for place in folders:
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                    found[entry.path] = FOLDER
                else:
                    status = entry.stat(follow_symlinks=False)
                    found[entry.path] = status.st_size, status.st_mtime_ns
    return found


def outcome_of(arguments: list[str], folder: Path) -> Outcome:
    """Run a command whose files are all in `folder`, which is there.

    Raises:
        ViolationError: an exception or warning; a refusal that is not one printable line, or after which a file of
            the folder is new, gone or changed, except for what was MERGED; or a temporary file left behind.
    """
    before = listing(folder)
    status, message, printed = _run(arguments)
    if status not in (0, 1, 2):
        raise ViolationError(f"{arguments}: ended with status {status}")
    if UNPRINTABLE.search(message) or UNPRINTABLE.search(printed):
        raise ViolationError(f"{arguments}: orders to the terminal in {message!r} {printed!r}")
    if "Traceback" in message:
        raise ViolationError(f"{arguments}: {message}")
    after = listing(folder)
    if any(Path(name).name.startswith(".") for name in after.keys() - before.keys()):
        raise ViolationError(f"{arguments}: a temporary file is left: {sorted(after.keys() - before.keys())}")
    if status == 2:
        if message and not (message.startswith("error: ") and message.count("\n") == 1 and len(message) < 800):
            raise ViolationError(f"{arguments}: not one sentence: {message!r}")
        if not message and "Usage:" not in printed:  # `bench` alone shows its help
            raise ViolationError(f"{arguments}: refused without a word")
        changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
        merged = {name for name in changed if Path(name).name in MERGED}
        if changed - merged:
            raise ViolationError(f"{arguments}: refused ({message.strip()}), but these changed: {sorted(changed)}")
    return Outcome(status, message)


def _run(arguments: list[str]) -> tuple[int, str, str]:
    """Exit status, and what the command wrote to stderr and stdout."""
    out, err = io.StringIO(), io.StringIO()
    argv, sys.argv = sys.argv, ["bench", *arguments]
    status = 0
    try:
        with redirect_stdout(out), redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("error")
            cli.main()
    except WorkBegins:
        pass
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        place = "".join(traceback.format_exception(error)[-6:])
        raise ViolationError(f"{arguments}: {type(error).__name__} instead of a sentence\n{place[-3000:]}") from error
    finally:
        sys.argv = argv
    return status, err.getvalue(), out.getvalue()


def pattern(message: str, folder: Path) -> str:
    """A message without what the input put into it."""
    text = message.replace(str(folder), "…")
    return re.sub(r"'[^']*'|\"[^\"]*\"|\d+(\.\d+)?(e[+-]?\d+)?|…[^ :]*", "#", text).strip()
