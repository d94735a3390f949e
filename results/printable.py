"""Text and values of files that others wrote, for terminals, tables and messages."""

from __future__ import annotations

import re

# What a terminal obeys instead of showing: control characters, marks that turn the direction of writing, and halves of
# characters, which no encoding has.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with � for every character that gives an order instead of being shown; tabs and line ends stay."""
    return _UNPRINTABLE.sub("�", text)


def shortened(value: object) -> str:
    """A value as Python writes it, for a message."""
    if isinstance(value, int) and value.bit_length() > 256:
        return "a number of many digits"  # Python refuses to print thousands of them
    try:
        shown = repr(value)
    except ValueError:  # such a number within a list
        return "…"
    return shown if len(shown) <= 80 else f"{shown[:80]}…"
