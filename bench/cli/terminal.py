"""A run or a search before a screen."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from rich.markup import escape

from bench.cli.base import console, print_failures

if TYPE_CHECKING:
    from results.store.folder import RunFolder


class Terminal:
    """What every `bench.runner.grid.Audience` before a screen does."""

    def __init__(self, *, quiet: bool, as_json: bool) -> None:
        self.quiet, self.as_json = quiet, as_json

    def say_begun(self, what: str, dataset: str, how: str, folder: RunFolder) -> None:
        """One line, before the trials run, of `what` as markup."""
        if not self.quiet:
            place = escape(str(folder.path))
            console.print(f"{what} on {escape(dataset)}, {how}, in {place}", highlight=False, soft_wrap=True)

    def watching(self, folder: RunFolder) -> AbstractContextManager[None]:
        """A block in which the trials run, and are shown."""
        from bench.runner.display import shown

        return shown(folder, console, quiet=self.quiet)

    def fails(self, folder: RunFolder, failed: dict[str, str]) -> None:
        """Say which have failed."""
        if not self.as_json:
            print_failures(folder, failed)
