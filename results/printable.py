"""Text and values of files that others wrote, for terminals, tables and messages."""

from __future__ import annotations

import codecs
import os
import re
import unicodedata

# What a terminal obeys instead of showing: control characters, marks that turn the direction of writing, and halves of
# characters, which no encoding has.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with � for every character that gives an order instead of being shown; tabs and line ends stay."""
    return _UNPRINTABLE.sub("�", text)


NAMED = "bench.named"
"""Error handler of encodings: a character that an encoding lacks becomes its name, as in `plain`."""
_ASCII = {
    "×": "x", "±": "+-", "†": "+", "·": "*", "–": "-", "—": "-", "−": "-", "…": "...", "≤": "<=", "≥": ">=", "≠": "!=",
    "≈": "~", "→": "->", "√": "sqrt", "∞": "inf", "ℓ": "l", "λ": "lambda", "‖": "||", "á": "a", "\u00a0": " ",
    "ᵀ": "^T", "₁": "_1", "₂": "_2", "∂": "d",
}  # fmt: skip
_GREEK = re.compile(r"GREEK (SMALL|CAPITAL) LETTER (\w+)")
_RAISED = re.compile("[²³¹⁰ⁱ⁴-⁾ⁿ]+")


def plain(text: str, encoding: str) -> str:
    """The text in characters that the encoding has: in ASCII σ² becomes sigma^2, and what has no such name ?."""
    return text.encode(encoding, NAMED).decode(encoding)


def _named(error: UnicodeError) -> tuple[str, int]:
    """Names of the characters from `error.start` on, and the place from which encoding goes on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    names, place = [], error.start
    while place < error.end:
        if raised := _RAISED.match(error.object, place):
            names.append("^" + unicodedata.normalize("NFKC", raised[0]).replace("−", "-"))
            place = raised.end()
        else:
            names.append(_name(error.object[place]))
            place += 1
    return "".join(names), place


def _name(character: str) -> str:
    greek = _GREEK.fullmatch(unicodedata.name(character, ""))
    if character in _ASCII or not greek:
        return _ASCII.get(character, "?")
    return greek[2].lower() if greek[1] == "SMALL" else greek[2].title()


codecs.register_error(NAMED, _named)


PER_INPUT = 0.0
"""What σ is in a run's files where every input has one of its own (`results.bounds.composition`)."""


def sigma_text(sigma: float, digits: str = "g") -> str:
    """A σ in a column of that name, or that every input has its own."""
    return f"{sigma:{digits}}" if sigma else "per input"


def named_sigma(sigma: float) -> str:
    """As `sigma_text`, where nothing else says that it is a σ."""
    return f"σ = {sigma:g}" if sigma else "σ per input"


def as_utf8(name: str) -> str:
    """A name of a file or a word of the command line as files tell it, whatever encoding the locale took it for."""
    return os.fsencode(name).decode("utf-8", "replace")


def shortened(value: object) -> str:
    """A value as Python writes it, for a message."""
    if isinstance(value, int) and value.bit_length() > 256:
        return "a number of many digits"  # Python refuses to print thousands of them
    try:
        shown = repr(value)
    except ValueError:  # such a number within a list
        return "…"
    return shown if len(shown) <= 80 else f"{shown[:80]}…"
