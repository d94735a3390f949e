"""A table as Markdown, CSV, LaTeX (booktabs) and on the terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from results.tables import Column, ResultTable, Row


def number(value: float | None, column: Column) -> str:
    """A value as readers see it; empty where there is none."""
    if value is None:
        return ""
    if column.decimals is not None:
        return f"{value:.{column.decimals}f}"
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def to_markdown(table: ResultTable) -> str:
    """Measured, best in bold, with the published value in parentheses."""
    headings = ["σ", "method", *(_heading(column) for column in table.columns)]
    lines = [f"**{table.title}**", "", _pipes(headings), _pipes(["---:", "---", *["---:"] * len(table.columns)])]
    for row in table.rows:
        cells = [_cell(table, row, column, "**{}**".format, " ({})".format) for column in table.columns]
        lines.append(_pipes([f"{row.sigma:.2f}", row.title, *cells]))
    lines += ["", " ".join(table.caption)]
    if table.notes:
        lines += ["", "Of the published numbers:", "", *(f"- {note}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def to_csv(table: ResultTable) -> str:
    """Full precision; a column for each measured value and one for each published one."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = [column.key for column in table.columns]
    writer.writerow(["sigma", "method", *keys, *(f"{key}_published" for key in keys)])
    for row in table.rows:
        values = [*(row.measured.get(key) for key in keys), *(row.published.get(key) for key in keys)]
        writer.writerow([row.sigma, row.method, *values])
    return text.getvalue()


def to_latex(table: ResultTable) -> str:
    """A table environment that needs the package booktabs; published values small and in parentheses."""
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escape(table.title)}. {_escape(' '.join(table.caption))}}}",
    ]
    lines += [rf"\label{{tab:{table.name.replace('_', '-')}}}", rf"\begin{{tabular}}{{ll{'r' * len(table.columns)}}}"]
    headings = [r"$\sigma$", "method", *(_escape(_heading(column)) for column in table.columns)]
    lines += [r"\toprule", " & ".join(headings) + r" \\", r"\midrule"]
    for position, row in enumerate(table.rows):
        new = position == 0 or table.rows[position - 1].sigma != row.sigma
        if new and position:
            lines.append(r"\midrule")
        cells = [
            _cell(table, row, column, r"\textbf{{{}}}".format, r" {{\scriptsize({})}}".format)
            for column in table.columns
        ]
        lines.append(" & ".join([f"{row.sigma:.2f}" if new else "", _escape(row.title), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def to_terminal(table: ResultTable) -> RenderableType:
    """Measured above, published below it and dim, so that the table fits 80 columns."""
    grid = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    grid.add_column("σ")
    grid.add_column("method")
    for column in table.columns:
        grid.add_column(_heading(column), justify="right", no_wrap=True)
    for position, row in enumerate(table.rows):
        new = position == 0 or table.rows[position - 1].sigma != row.sigma
        if new and position:
            grid.add_section()
        cells = []
        for column in table.columns:
            value = number(row.measured.get(column.key), column)
            cell = Text(value, "bold green" if table.best(row, column) else "")
            if any(other.published for other in table.rows):
                cell.append(f"\n{_parenthesised(row, column)}", "dim not bold")
            cells.append(cell)
        grid.add_row(f"{row.sigma:.2f}" if new else "", Text(row.title), *cells)
    return Group(Text(table.title, "bold"), grid, Text(" ".join(table.caption), "italic"))


def as_printed(value: float | None, column: Column) -> str:
    """A published value with the digits of its source; empty where there is none."""
    return f"{value:g}" if value is not None and column.decimals is None else number(value, column)


def _heading(column: Column) -> str:
    return f"{column.heading} ({column.unit})" if column.unit else column.heading


def _parenthesised(row: Row, column: Column) -> str:
    value = as_printed(row.published.get(column.key), column)
    return f"({value})" if value else ""


def _cell(
    table: ResultTable, row: Row, column: Column, bold: Callable[[str], str], published: Callable[[str], str]
) -> str:
    text = number(row.measured.get(column.key), column)
    if table.best(row, column):
        text = bold(text)
    reference = as_printed(row.published.get(column.key), column)
    return text + (published(reference) if reference else "")


def _pipes(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


LATEX = {"\\": r"\textbackslash{}", "σ": r"$\sigma$", "λ": r"$\lambda$", "η": r"$\eta$", "²": r"$^2$", "×": r"$\times$"}
LATEX |= {character: "\\" + character for character in "&%$#_{}"}


def _escape(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)
