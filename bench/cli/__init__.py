"""The command line.

Exit status: 0 success, 1 something failed (the rest is kept), 2 wrong usage or input, 129 stopped by SIGHUP, 130 by
Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import sys
import traceback
from functools import cache
from typing import Any

import typer

# Each registers its commands, and `bench --help` lists them in this order.
# isort: off
import bench.cli.doctor
import bench.cli.lists
import bench.cli.certify
import bench.cli.check
import bench.cli.perf
import bench.cli.results
import bench.cli.runs
import bench.cli.submit
import bench.cli.tune  # noqa: F401

# isort: on
from bench.cli.base import DEBUG, UserError, app, prepare_output, print_error

# typer brings a click of its own and exports of its exceptions this one alone.
_ClickException: Any = typer.BadParameter.__mro__[2]


@cache
def _commands() -> Any:
    """All of them; typer's own call would build them anew each time."""
    return typer.main.get_command(app)


def main() -> None:
    """Entry point of the `bench` command."""
    prepare_output()
    debug = DEBUG in sys.argv
    sys.argv = [word for word in sys.argv if word != DEBUG]
    try:
        sys.exit(_commands()(standalone_mode=False))
    except UserError as error:
        if debug:
            traceback.print_exception(error.__cause__ or error)  # with that of a model's or plugin's own code
        print_error(str(error))
    except _ClickException as error:
        message = error.format_message()
        if message.startswith("Usage: "):  # a group of commands without one of them: the message is its help
            print(message)
        else:
            context = getattr(error, "ctx", None)
            command = context.command_path if context else "bench"
            print_error(f"{message.strip().rstrip('.')}; see `{command} --help`")
    sys.exit(2)
