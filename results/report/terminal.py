"""Tables and text on a terminal of any width and encoding."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Span, Text

from results.printable import plain, printable

_GROUPED = re.compile(r"(?<=\d)[ \u00a0](?=\d{3}(?!\d))")
_GLUE = "\ue000"
"""Stands for the space within 10 000 until lines are wrapped, where rich would break the number."""


def showable(text: Text, encoding: str) -> Text:
    """The text as the encoding can show it, with numbers that stay on one line until `unglued`."""

    def shown(part: str) -> str:
        return _GROUPED.sub(_GLUE, unglued(part, encoding))

    # a style begins and ends where what stands before it does
    spans = [
        Span(len(shown(text.plain[: span.start])), len(shown(text.plain[: span.end])), span.style)
        for span in text.spans
    ]
    copy = text.blank_copy(shown(text.plain))
    copy.spans = spans
    return copy


def unglued(text: str, encoding: str) -> str:
    """What `showable` text became, and any other, as the encoding can show it."""
    return plain(printable(text.replace(_GLUE, " ")), encoding)


@dataclass(frozen=True)
class Heading:
    """What stands above a column of a sheet."""

    text: str
    alone: str = ""
    """What stands before a value that has a line of its own; the heading's text where not given."""
    right: bool = False
    least: int = 0
    """The width from which on longer cells may go over several lines; 0: no cell is ever broken."""
    once: bool = False
    """Whether a cell is left empty below the same one."""


@dataclass(frozen=True)
class Sheet:
    """A table; where the terminal is too narrow for it, a block for every row with one value a line."""

    headings: Sequence[Heading]
    rows: Sequence[Sequence[str | Text]]
    gap: int = 2
    """Blanks between columns."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for part in self._parts(console, options):
            for segment in console.render(part, options):
                yield segment._replace(text=unglued(segment.text, console.encoding))

    def _parts(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        def cell(value: str | Text) -> Text:
            return showable(value if isinstance(value, Text) else Text(value), console.encoding)

        headings = [cell(heading.text) for heading in self.headings]
        rows = [[cell(value) for value in row] for row in self.rows]
        widths = self._widths(headings, rows, options.max_width)
        if widths:
            yield self._table(headings, rows, widths)
            return
        names = [cell(heading.alone or heading.text.replace("\n", " ")) for heading in self.headings]
        for number, row in enumerate(rows):
            yield from [Text()] if number else []
            yield from _block(names, row, options.max_width)

    def _widths(self, headings: list[Text], rows: list[list[Text]], available: int) -> list[int]:
        """Of the columns; none where the table does not fit."""
        wanted = [max(map(_width, column)) for column in zip(headings, *rows, strict=True)]
        widths = [
            min(want, max(heading.least, _width(above))) if heading.least else want
            for want, heading, above in zip(wanted, self.headings, headings, strict=True)
        ]
        left = available - sum(widths) - self.gap * (len(widths) - 1)
        if left < 0:
            return []
        # The room that is left goes to who wants least, first.
        growing = sorted(range(len(widths)), key=lambda place: wanted[place] - widths[place])
        for number, place in enumerate(growing):
            more = min(wanted[place] - widths[place], left // (len(growing) - number))
            widths[place] += more
            left -= more
        return widths

    def _table(self, headings: list[Text], rows: list[list[Text]], widths: list[int]) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, self.gap, 0, 0), show_header=any(headings))
        for above, heading, width in zip(headings, self.headings, widths, strict=True):
            justify = "right" if heading.right else "left"
            table.add_column(above, justify=justify, overflow="fold", width=width)  # type: ignore[arg-type]
        before: list[Text] = []
        for row in rows:
            table.add_row(
                *(
                    "" if heading.once and before and before[place] == row[place] else row[place]
                    for place, heading in enumerate(self.headings)
                )
            )
            before = row
        return table


def _width(text: Text) -> int:
    return max(map(cell_len, text.plain.split("\n")))


def _block(names: list[Text], row: list[Text], available: int) -> Iterator[RenderableType]:
    """A row, with its values beside their names or, where there is no room, below."""
    filled = [(name, value) for name, value in zip(names, row, strict=True) if value.plain.strip()]
    beside = max((width for name, _ in filled if (width := _width(name)) <= available // 2), default=0)
    for name, value in filled:
        lines = [line for line in value.split("\n") if line.plain.strip()]
        if not name:
            yield from lines
        elif _width(name) <= beside and beside + 2 + _width(value) <= available:
            for number, line in enumerate(lines):
                yield Text.assemble(f"{name.plain if not number else '':<{beside}}  ", line)
        else:
            yield name
            yield from (Padding(line, (0, 0, 0, 2)) for line in lines)
