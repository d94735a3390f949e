"""Text and tables on terminals of any encoding and width."""

from __future__ import annotations

import ast
import io
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

import results
from results.printable import plain
from results.report.terminal import Heading, Sheet, showable, unglued

PACKAGES = [Path(results.__file__).parents[1] / name for name in ("bench", "methods", "cluster", "results")]


@pytest.mark.parametrize(
    ("encoding", "text", "shown"),
    [
        ("ascii", "σ = 0.25 × 2 ± 1", "sigma = 0.25 x 2 +- 1"),
        ("ascii", "σ² Φ⁻¹(λ) − η ≤ ε …", "sigma^2 Phi^-1(lambda) - eta <= epsilon ..."),
        ("ascii", "Horváth 75.1† ℓ · – 日", "Horvath 75.1+ l * - ?"),
        ("latin-1", "Φ⁻¹ ± × ² é σ", "Phi^-1 ± × ² é sigma"),
        ("utf-8", "Φ⁻¹ ± σ 日", "Φ⁻¹ ± σ 日"),
        ("utf-8", "a\udce9b", "a?b"),
    ],
)
def test_what_an_encoding_lacks_is_named(encoding: str, text: str, shown: str) -> None:
    assert plain(text, encoding) == shown


def test_every_character_that_the_program_prints_has_a_name() -> None:
    nameless = set()
    for path in (path for package in PACKAGES for path in package.rglob("*.py")):
        if path.name in ("printable.py", "terminal.py") or "page" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                node.value.value = None  # a docstring
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                nameless |= {character for character in node.value if "?" in plain(character, "ascii") != character}
    assert nameless <= set("�")


def test_styles_stay_with_their_words_and_numbers_on_one_line() -> None:
    text = Text.assemble("σ is ", ("bold", "bold"), " of 10 000")
    shown = showable(text, "ascii")
    [span] = shown.spans
    assert shown.plain[span.start : span.end] == "bold"
    lines = shown.wrap(Console(width=20), 20)
    assert [unglued(line.plain, "ascii").strip() for line in lines] == ["sigma is bold of", "10 000"]


def printed(sheet: Sheet, width: int, encoding: str = "utf-8") -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=file, width=width).print(sheet)
    file.seek(0)
    return file.read()


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_no_value_is_cut_at_any_width(encoding: str) -> None:
    values = ["0.361", "70.0\n±9.6\n75.8†", "0.000888", "16390", "2 of 10 000"]
    headings = [Heading("σ", once=True), Heading("method", least=11), *(Heading(f"p{n}") for n in range(5))]
    rows = [["0.25", name, *values] for name in ("Ours", "Consistency with a long name")]
    for width in range(20, 100):
        text = printed(Sheet(headings, rows, gap=1), width, encoding)
        assert max(map(len, text.splitlines())) <= width
        for part in (part for value in values for part in value.split("\n")):
            assert text.count(plain(part, encoding)) == 2
        assert plain("σ", encoding) in text
        assert "…" not in text


def test_a_block_has_a_value_on_every_line_and_the_name_it_has_alone() -> None:
    sheet = Sheet([Heading("σ"), Heading("0.25", "ACC 0.25"), Heading("rank")], [["0.5", "70.0\n\n±9.6", ""]])
    assert printed(sheet, 20) == "σ    0.25  rank\n0.5  70.0      \n               \n     ±9.6      \n"
    assert printed(sheet, 14) == "σ  0.5\nACC 0.25\n  70.0        \n  ±9.6        \n"
    wider = Sheet([*sheet.headings, Heading("a long note")], [[*sheet.rows[0], "some words"]])
    assert printed(wider, 24) == ("σ            0.5\nACC 0.25     70.0\n             ±9.6\na long note  some words\n")
