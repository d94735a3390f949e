"""What every command shares: the application, its consoles, and how mistakes are told."""

from __future__ import annotations

import io
import logging
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment
from rich.text import Text
from typer.core import TyperGroup

from methods.registry import RegistryError
from results.errors import BenchError
from results.printable import NAMED, plain, sigma_text
from results.report.terminal import Heading, Sheet, showable, unglued
from results.report.update import Report, update_report
from results.store.folder import RunFolder, location, not_merged
from results.store.packages import PROGRAM

if TYPE_CHECKING:
    import pandas as pd

DEBUG = "--debug"
LONGEST = 600
"""Characters of an error's sentence."""


class PlainConsole(Console):
    """A console on which text cannot give orders to the terminal: what cannot be printed is shown as �.

    What the encoding lacks is named (sigma) before lines are wrapped.
    """

    @property  # type: ignore[misc]  # nobody sets it
    def size(self) -> ConsoleDimensions:
        """Rich takes every dumb terminal for one of 80 columns, and believes COLUMNS=0."""
        size = super().size
        if self.is_dumb_terminal or size.width < 1:
            return ConsoleDimensions(*shutil.get_terminal_size((80, 25)))
        return size

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich does it, in characters that the terminal has."""
        if isinstance(renderable, Text):
            renderable = showable(renderable, self.encoding)
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=unglued(segment.text, self.encoding))


class Group(TyperGroup):
    """Lists its commands with all of their first paragraphs, of which typer cuts the ends."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, str(self.commands[name].help).split("\n\n")[0]) for name in self.list_commands(ctx)]
            )


app = typer.Typer(
    cls=Group,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich cuts the names of options
    help="Certified robustness by randomized smoothing: train, certify, compare.",
)


def _show_version(asked: bool) -> None:
    if asked:
        from results.store.description import git_commit, version_of

        commit = git_commit()
        said = f"{PROGRAM} {version_of(PROGRAM) or 'not installed'}{f', commit {commit}' if commit else ''}"
        console.print(said, highlight=False, soft_wrap=True)
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[  # main takes it out of the command line, wherever it stands
        bool, typer.Option(DEBUG, help="Show where in the code an error arose. Also after a command.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print version and commit.")
    ] = False,
) -> None:
    """What all commands share."""


console = PlainConsole(emoji=False)  # MODULE:x:… is no emoji
errors = PlainConsole(stderr=True, emoji=False)

PluginOption = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin", help="A file or module with your own methods, networks or data; its code is run; repeatable."
    ),
]
BeaconOption = Annotated[
    str | None, typer.Option(help="A value published after the weights: with them it seeds the certification noise.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON alone.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Print errors alone.")]
AddressOption = Annotated[str | None, typer.Option(help="auto or HOST:PORT of a running Ray cluster.")]
UnauthenticatedOption = Annotated[
    bool, typer.Option("--allow-unauthenticated", help="Join a cluster that takes commands from anybody.")
]
ShardSizeOption = Annotated[int, typer.Option(min=1, help="Test images of a shard.")]
RunArgument = Annotated[str, typer.Argument(help="Folder or URL of a run, such as runs/smoke.", metavar="RUN")]


# typer brings a click of its own and exports little of it.
_Context: Any = typer.Context.__mro__[1]


class HelpFormatter(_Context.formatter_class):  # type: ignore[misc]
    """Help on a terminal of any width: where it is narrow, what an option does stands below its name, and no word is
    cut."""

    def __init__(self, **_: object) -> None:
        super().__init__(width=max(1, min(console.width, 100)))

    def write_dl(self, rows: Sequence[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Write names and their meanings, side by side or one below the other."""
        rows = [(name, plain(meaning, console.encoding)) for name, meaning in rows]
        if self.width >= 72:
            super().write_dl(rows, col_max, col_spacing)
            return
        for name, meaning in rows:
            self.write(f"  {name}\n")
            for line in textwrap.wrap(meaning, max(1, self.width - 4), break_long_words=False, break_on_hyphens=False):
                self.write(f"    {line}\n")

    def getvalue(self) -> str:
        """The help, in characters that the terminal has."""
        return plain(super().getvalue(), console.encoding)  # typer would write UTF-8 where the terminal takes ASCII


_Context.formatter_class = HelpFormatter


def prepare_output() -> None:
    """Nothing that is printed fails for its encoding, and no library talks of its caches."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=NAMED)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


def log_to_terminal() -> None:
    """What the program itself has to say, beside the warnings of others."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("bench").setLevel(logging.INFO)


class UserError(Exception):
    """Wrong usage or input: one sentence for the user."""


class user_errors:  # noqa: N801  # reads as a statement
    """Turns what users are told (`results.errors.BenchError`), and what the machine refuses, into one sentence.

    Anything else is a bug, be it a ValueError of NumPy or torch, and keeps its traceback.
    """

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, BenchError | RegistryError | OSError | UnicodeEncodeError):
            raise UserError(sentence_of(error)) from error
        if isinstance(error, MemoryError):
            raise UserError("there is not enough memory for this") from error
        if isinstance(error, RuntimeError) and "home directory" in str(error):  # of Path.expanduser
            raise UserError("this user has no home directory: set HOME to a folder that can be written") from error
        cluster = sys.modules.get("cluster")
        if cluster and isinstance(error, cluster.ClusterError):
            raise UserError(str(error)) from error


def refuse_unreadable_words() -> None:
    """Raise UnicodeEncodeError for bytes in the command or the folder that the locale cannot read: Ray takes none."""
    for word in (*sys.argv, str(Path.cwd())):
        word.encode()


def sentence_of(error: BaseException) -> str:
    """What a user is told of an error, in one sentence."""
    if isinstance(error, UnicodeEncodeError):
        around = error.object[max(0, error.start - 40) : error.end + 40].strip()
        encoding = sys.getfilesystemencoding()
        return f"{around}: is no name in the locale's encoding, {encoding}: set LC_ALL=C.UTF-8, or use another name"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename2 or error.filename}: {(error.strerror or str(error)).lower()}"
    return str(error) or type(error).__name__


def print_error(sentence: str) -> None:
    """One line, whatever the input that it quotes: long ones lose their middle."""
    line = " ".join(sentence.split())
    if len(line) > LONGEST:
        line = f"{line[: LONGEST // 2]} … {line[-LONGEST // 2 :]}"
    errors.print(f"[red]error:[/red] {escape(line)}", highlight=False, soft_wrap=True)


def merged_run(text: str) -> RunFolder:
    """The folder of a run that has its Parquet files; FileNotFoundError where it has not."""
    folder = RunFolder(location(text))
    if not folder.certificates.exists():
        raise not_merged(folder.certificates)
    return folder


def merge_and_report(folder: RunFolder, published: str | None = None, *, places: bool = False) -> None:
    """Merge what is finished, report it and show it."""
    print_report(folder, update_report(folder, published, places=places))


def print_report(folder: RunFolder, report: Report) -> None:
    """Show the tables, what is not in them, and where the files are."""
    from results.report.formats import to_terminal  # which takes a second to import

    settings: dict[str, None] = {}
    for table in report.tables:
        console.print(to_terminal(table), "")
        settings[" ".join(table.setting)] = None
    for setting in settings:
        console.print(Text(setting, "italic"), "")
    for warning in [warning for table in report.tables for warning in table.warnings]:
        print_warning(warning)
    for trial_id in report.unfinished:
        console.print(f"not in the tables, because it is not finished: {escape(trial_id)}", highlight=False)
    for path in (folder.tables, folder.figures, folder.certificates, folder.page):
        console.print(f"{path.name:<22} {escape(str(path))}", highlight=False, soft_wrap=True)
    console.print("Open report.html in a browser first: all of this is on that one page.")


def print_frame(frame: pd.DataFrame) -> None:
    """Show a table as it is."""
    headings = [Heading(column, least=24 * (column in ("trial", "trial_id", "outcome"))) for column in frame.columns]
    console.print(
        Sheet(headings, [[short(value) for value in row] for row in frame.itertuples(index=False, name=None)])
    )


def short(value: object) -> str:
    """As a table shows it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_warning(sentence: str) -> None:
    """One line that does not stop anything."""
    errors.print(f"[yellow]warning:[/yellow] {escape(sentence)}", highlight=False, soft_wrap=True)


def print_failures(folder: RunFolder, reasons: Mapping[str, str] | None = None) -> None:
    """Say which trials failed and why.

    Args:
        reasons: by trial, as far as they are known; else those that the files tell.
    """
    from bench.runner.progress import read_progress

    for progress in read_progress(folder).trials:
        error = (reasons or {}).get(progress.trial_id) or (progress.error if progress.stage == "failed" else "")
        if error:
            reason = f"{escape(error)} (log: {escape(progress.log)})"
            errors.print(
                f"[red]failed:[/red] {progress.label} σ={sigma_text(progress.sigma)}: {reason}",
                highlight=False,
                soft_wrap=True,
            )


def names(text: str | None) -> list[str] | None:
    """The names in a text with commas."""
    return None if text is None else [name.strip() for name in text.split(",")]
