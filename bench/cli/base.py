"""What every command shares: the application, its consoles, and how mistakes are told."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from results.folder import RunFolder

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Certified robustness by randomized smoothing: train, certify, compare.",
)
console = Console(emoji=False)  # MODULE:x:… is no emoji
errors = Console(stderr=True, emoji=False)

RunArgument = Annotated[Path, typer.Argument(help="Folder of a run, such as runs/smoke.", metavar="RUN")]


class UserError(Exception):
    """Wrong usage or input: one sentence for the user."""


FILE_ERRORS = FileNotFoundError | FileExistsError | PermissionError | NotADirectoryError | IsADirectoryError


class user_errors:  # noqa: N801  # reads as a statement
    """Turns the errors that users cause into one sentence; anything else is a bug and keeps its traceback."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, ValueError | FILE_ERRORS):
            raise UserError(_sentence(error)) from error
        cluster = sys.modules.get("cluster")
        if cluster and isinstance(error, cluster.ClusterError):
            raise UserError(str(error)) from error


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {(error.strerror or str(error)).lower()}"
    return str(error)


def merge_and_report(folder: RunFolder, published: str | None = None) -> None:
    """Merge what is finished and show it. A folder without shards is reported from its Parquet files as they are."""
    from results.formats import to_terminal
    from results.merge import merge_run
    from results.report import write_report

    unfinished: list[str] = []
    has_shards = folder.description.exists() and (folder.path / "trials").is_dir()
    if has_shards or not folder.certificates.exists():
        unfinished = merge_run(folder)
    settings: dict[str, None] = {}
    for table in write_report(folder, published):
        console.print(to_terminal(table), "")
        settings[" ".join(table.setting)] = None
    for setting in settings:
        console.print(Text(setting, "italic"), "")
    for trial_id in unfinished:
        console.print(f"not in the tables, because it is not finished: {trial_id}", highlight=False)
    for path in (folder.tables, folder.figures, folder.certificates, folder.page):
        console.print(f"{path.name:<22} {path}", highlight=False, soft_wrap=True)


def print_failures(folder: RunFolder) -> None:
    from bench.progress import read_progress

    for progress in read_progress(folder):
        if progress.stage == "failed":
            reason = f"{escape(progress.error)} (log: {escape(progress.log)})"
            errors.print(
                f"[red]failed:[/red] {progress.label} σ={progress.sigma:g}: {reason}",
                highlight=False,
                soft_wrap=True,
            )


def names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def numbers(option: str, text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{option} {text!r}: must be numbers separated by commas, such as .25,.5") from None
