"""A table as Markdown, CSV, LaTeX (booktabs) and on the terminal."""

from __future__ import annotations

import csv
import io
import re

from rich.console import Group, RenderableType
from rich.text import Text

from results.report.table import Column, ResultTable, Row
from results.report.terminal import Heading, Sheet

DAGGER = "†"
NOTES = "Of the published numbers"
WARNING = "Warning:"
SHORTEST_TITLE = len("Consistency")
"""The room that titles of methods have on a terminal; longer ones go over several lines where it is narrow."""
_SUFFIXES = (
    "", "_sigma", "_lower", "_upper", "_seeds_sd", "_seeds", "_published", "_difference", "_difference_lower",
    "_difference_upper", "_published_outside",
)  # fmt: skip


def number(value: float | None, column: Column) -> str:
    """A value as readers see it; `column.absent` where there is none."""
    if value is None:
        return column.absent
    if column.decimals is not None:
        return f"{value:.{column.decimals}f}"
    return f"{value:.0f}" if value >= 99.95 else f"{value:#.3g}"


def to_markdown(table: ResultTable) -> str:
    """Measured, best in bold, sd over seeds, [interval], (published, difference)."""
    headings = ["σ", "method", *(_heading(column) for column in table.columns)]
    lines = [f"**{table.title}**", "", _pipes(headings), _pipes(["---:", "---", *["---:"] * len(table.columns)])]
    for row in table.rows:
        cells = []
        for column in table.columns:
            value = number(row.measured.get(column.key), column)
            parts = [f"**{value}**" if table.best(row, column) else value, spread(row, column)]
            parts.append(_parentheses(best_sigma(row, column)))
            parts += [_brackets(interval(row, column)), _parentheses(reference(row, column))]
            cells.append(" ".join(part for part in parts if part))
        lines.append(_pipes([row.sigma_text, _inert(row.title), *cells]))
    lines += ["", " ".join([*_legend(table), *map(_inert, [*table.setting, *table.caption])])]
    if table.notes:
        lines += ["", f"{NOTES}:", "", *(f"- {note}" for note in table.notes)]
    for warning in table.warnings:
        lines += ["", f"**{WARNING}** {_inert(warning)}"]
    return "\n".join(lines) + "\n"


def to_csv(table: ResultTable) -> str:
    """The `flat_columns` in full precision; what is not known is empty."""
    columns = flat_columns(table)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *zip(*columns.values(), strict=True)])
    return text.getvalue()


def flat_columns(table: ResultTable) -> dict[str, list[object]]:
    """`sigma`, `method`, and for each column of the table, by its key and a suffix: the measured value, the ends of its
    interval, standard deviation and values of the seeds (a text), the published value, measured minus published, the
    ends of the interval of that, and, if the setting is the published one, whether it leaves out 0; all but the first
    only where a row has it."""
    columns: dict[str, list[object]] = {
        "sigma": [row.sigma_text if row.sigmas else row.sigma for row in table.rows],
        "method": [row.method for row in table.rows],
    }
    for key in (column.key for column in table.columns):
        cells = [_flat_cell(row, key) for row in table.rows]
        for suffix in _SUFFIXES:
            values = [cell[suffix] for cell in cells]
            if suffix == "" or any(value is not None for value in values):
                columns[key + suffix] = values
    return columns


def to_latex(table: ResultTable) -> str:
    """A table environment that needs the package booktabs: intervals and published numbers small, in lines of their
    own below the measured ones."""
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escape(table.title)}. {_escape(' '.join([*_legend(table), *table.setting, *table.caption]))}}}",
    ]
    lines += [rf"\label{{tab:{table.name.replace('_', '-')}}}", rf"\begin{{tabular}}{{ll{'r' * len(table.columns)}}}"]
    headings = [r"$\sigma$", "method", *(_escape(_heading(column)) for column in table.columns)]
    lines += [r"\toprule", " & ".join(headings) + r" \\", r"\midrule"]
    for position, row in enumerate(table.rows):
        before = table.rows[position - 1]
        new = position == 0 or (before.sigma, before.sigmas) != (row.sigma, row.sigmas)
        if new and position:
            lines.append(r"\midrule")
        cells = []
        for column in table.columns:
            value = _escape(number(row.measured.get(column.key), column))
            bold = rf"\textbf{{{value}}}" if table.best(row, column) else value
            cells.append(f"{bold} {_escape(spread(row, column))}".strip())
        lines.append(" & ".join([row.sigma_text if new else "", _escape(row.title), *cells]) + r" \\")
        intervals = [_brackets(interval(row, column)) for column in table.columns]
        published = [_parentheses(reference(row, column)) for column in table.columns]
        best = [best_sigma(row, column) for column in table.columns]
        for below in (best, intervals, published):
            if any(below):
                small = [rf"{{\scriptsize {_escape(cell)}}}" if cell else "" for cell in below]
                lines.append(" & ".join(["", "", *small]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    if table.notes:
        lines += ["", r"\medskip\footnotesize", _escape(f"{NOTES}: {' '.join(table.notes)}")]
    for warning in table.warnings:
        lines += ["", r"\medskip\footnotesize", _escape(f"{WARNING} {warning}")]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def to_terminal(table: ResultTable) -> RenderableType:
    """Measured, below it the wider half of its interval, below that the published number, so that the table fits 80
    columns; differences, exact intervals, what else a table has, and the setting, the same for every table of a run,
    are in the files."""
    columns = [column for column in table.columns if column.on_terminal]
    headings = [Heading("σ", once=True), Heading("method", least=SHORTEST_TITLE)]
    headings += [
        Heading(_heading(column).replace(" ", "\n"), _heading(column, column.alone), right=True) for column in columns
    ]
    # Where a † stands in a column, the other lines keep its place free.
    marked = {column.key: any(row.is_outside(column.key) for row in table.rows) for column in columns}
    rows: list[list[str | Text]] = [
        [
            row.sigma_text,
            row.title,
            *(_terminal_cell(table, row, column, " " * marked[column.key]) for column in columns),
        ]
        for row in table.rows
    ]
    below = Text(" ".join([*_terminal_legend(table), *table.caption, *_terminal_notes(table)]), "italic")
    return Group(Text(table.title, "bold"), Sheet(headings, rows, gap=1), below)


def _terminal_cell(table: ResultTable, row: Row, column: Column, padding: str) -> Text:
    """The lines of a cell; `padding` is as wide as the mark that stands elsewhere in the column."""
    value = number(row.measured.get(column.key), column) + padding
    cell = Text(value, "bold green" if table.best(row, column) else "")
    if row.best_sigmas:
        best = row.best_sigmas.get(column.key)
        cell.append("\n" if best is None else f"\n{best:g}{padding}", "dim not bold")
    if row.intervals:
        cell.append(f"\n{_half_width(row, column)}{padding}", "dim not bold")
    if row.published:
        mark = DAGGER if row.is_outside(column.key) else padding
        cell.append(f"\n{as_printed(row.published.get(column.key), column)}{mark}", "dim not bold")
    return cell


def _terminal_legend(table: ResultTable) -> list[str]:
    below = ["its σ"] * any(row.best_sigmas for row in table.rows)
    below += ["± the wider half of its interval"] * any(row.intervals for row in table.rows)
    below += ["the published number"] * any(row.published for row in table.rows)
    legend = [f"Below each number: {', then '.join(below)}."] if below else []
    if any(row.seeds for row in table.rows):
        legend.append(f"Numbers are means over the {table.kind_of_seeds}, whose spread is in the files.")
    more = [column.heading for column in table.columns if not column.on_terminal]
    return [*legend, *([f"Only in the files: {', '.join(more)}."] if more else [])]


def _terminal_notes(table: ResultTable) -> list[str]:
    return ["What is odd about the published numbers stands under the table's file."] if table.notes else []


def as_printed(value: float | None, column: Column) -> str:
    """A published value with the digits of its source; empty where there is none."""
    return f"{value:g}" if value is not None and column.decimals is None else number(value, column)


def interval(row: Row, column: Column) -> str:
    """As "0.531, 0.553", lower and upper end; empty where there is none."""
    found = row.intervals.get(column.key)
    if not found:
        return ""
    return f"{number(found.lower, column)}, {number(found.upper, column)}"


def spread(row: Row, column: Column) -> str:
    """As "sd 0.004", the standard deviation over seeds; empty for one seed."""
    value = row.spread(column.key)
    return "" if value is None else f"sd {number(value, column)}"


def best_sigma(row: Row, column: Column) -> str:
    """As "σ = 0.5", of the best of several σ; empty where it is of no matter."""
    value = row.best_sigmas.get(column.key)
    return "" if value is None else f"σ = {value:g}"


def reference(row: Row, column: Column) -> str:
    """As "0.542, −0.184†": the published number, measured minus published, † where the test images do not explain it;
    empty where nothing is published."""
    if column.key not in row.published:
        return ""
    difference = row.difference(column.key)
    signed = ""
    if difference is not None:
        signed = f", {'−' if difference < 0 else '+'}{number(abs(difference), column)}"
    return as_printed(row.published[column.key], column) + signed + (DAGGER if row.is_outside(column.key) else "")


def _legend(table: ResultTable) -> list[str]:
    """What a cell of a file holds, in a sentence; nothing where it holds one number."""
    seeds = any(row.seeds for row in table.rows)
    parts = {
        f"mean over the {table.kind_of_seeds}" if seeds else "measured": True,
        "sd over the seeds": seeds,
        "(its σ)": any(row.best_sigmas for row in table.rows),
        "[interval]": any(row.intervals for row in table.rows),
        "(published, measured − published)": any(row.published for row in table.rows),
    }
    shown = [part for part, there in parts.items() if there]
    both = seeds and parts["[interval]"]
    apart = " The intervals do not cover the uncertainty that the seeds show." if both else ""
    return [f"Each cell: {' '.join(shown)}.{apart}"] if len(shown) > 1 else []


def _flat_cell(row: Row, key: str) -> dict[str, object]:
    found, apart = row.intervals.get(key), row.difference_intervals.get(key)
    values: tuple[object, ...] = (
        row.measured.get(key),
        row.best_sigmas.get(key),
        found.lower if found else None,
        found.upper if found else None,
        row.spread(key),
        " ".join(map(str, row.seeds[key])) if row.seeds.get(key) else None,
        row.published.get(key),
        row.difference(key),
        apart.lower if apart else None,
        apart.upper if apart else None,
        row.is_outside(key) if apart is not None and not row.apart else None,
    )
    return dict(zip(_SUFFIXES, values, strict=True))


def _half_width(row: Row, column: Column) -> str:
    found = row.intervals.get(column.key)
    if not found:
        return ""
    value = row.measured[column.key]
    return f"±{number(max(found.upper - value, value - found.lower), column)}"


def _heading(column: Column, alone: str = "") -> str:
    """The heading, or what stands `alone` in its place, with its unit."""
    heading = alone or column.heading
    return f"{heading} ({column.unit})" if column.unit else heading


def _brackets(text: str) -> str:
    return f"[{text}]" if text else ""


def _parentheses(text: str) -> str:
    return f"({text})" if text else ""


def _inert(text: str) -> str:
    """The text in Markdown, with nothing in it that is a link, HTML or the end of a cell."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", text)


def _pipes(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


LATEX = {"\\": r"\textbackslash{}", "σ": r"$\sigma$", "λ": r"$\lambda$", "η": r"$\eta$", "²": r"$^2$", "×": r"$\times$"}
LATEX |= {
    "Φ": r"$\Phi$",
    "⁻": "$^{-}$",
    "¹": "$^{1}$",
    "\u00a0": "~",
    "±": r"$\pm$",
    "†": r"$^\dagger$",
    "−": r"$-$",
    "–": "--",
    ">": r"$>$",
    "á": r"\'a",
}
LATEX |= {"^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}
LATEX |= {character: "\\" + character for character in "&%$#_{}"}


def _escape(text: str) -> str:
    return "".join(LATEX.get(character, character) for character in text)
