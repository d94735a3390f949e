"""The command line.

Exit status: 0 success, 1 something failed (the rest is kept), 2 wrong usage or input, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import sys

from rich.markup import escape

import bench.cli.lists
import bench.cli.models
import bench.cli.results
import bench.cli.runs  # noqa: F401  # they register their commands
from bench.cli.base import UserError, app, errors


def main() -> None:
    """Entry point of the `bench` command."""
    try:
        app()
    except UserError as error:
        errors.print(f"[red]error:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
