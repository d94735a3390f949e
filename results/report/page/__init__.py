"""report.html: one file that shows a run in a browser, without a network.

Python puts numbers and words in as JSON and packed bytes; the scripts beside this file build the page from them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources

import pandas as pd

from results.report.page.charts import charts, methods
from results.report.page.content import Content
from results.report.page.images import packed_images
from results.report.page.settings import environment, grids, settings
from results.report.page.thumbnails import sprite_sheets
from results.report.page.words import caveats, summary, table_content
from results.report.subject import Subject
from results.report.table import ResultTable
from results.store.folder import AnyPath, write_text
from results.store.run import Run

SCRIPTS = (
    "dom",
    "tables",
    "scale",
    "plot",
    "chart",
    "scatter",
    "charts",
    "words",
    "images",
    "verdicts",
    "explorer",
    "progress",
    "main",
)
"""In the order in which they use each other."""
LIVE = "live"
"""The script of a page that is served while its run goes on, after the others."""
OCTETS = "application/octet-stream"
# < and & end a script element or begin a character of HTML; U+2028 and U+2029 end a line of JavaScript.
_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


@dataclass(frozen=True)
class Parts:
    """What the page shows, but for its scripts."""

    content: Content
    data: str
    """Elements with the packed certificates and the pictures."""


@dataclass(frozen=True)
class Picture:
    """A figure that the page shows as it is."""

    title: str
    words: str
    """What stands in small print under it, for who cannot see it."""
    png: bytes


def write_page(
    run: Run | Subject,
    tables: list[ResultTable],
    thumbnails: pd.DataFrame,
    path: AnyPath,
    pictures: Sequence[Picture] = (),
    *,
    places: bool = False,
) -> None:
    """Write the page to `path`, where an existing file is replaced. The others, and errors, as for `page_parts`."""
    write_text(path, page_of(page_parts(run, tables, thumbnails, pictures, places=places)))


def page_parts(
    run: Run | Subject,
    tables: list[ResultTable],
    thumbnails: pd.DataFrame,
    pictures: Sequence[Picture] = (),
    *,
    places: bool = False,
) -> Parts:
    """What the page shows.

    Args:
        run: may have no finished trial.
        tables: those to show, in order; one without rows is left out.
        thumbnails: columns `dataset`, `index`, `png`, each picture at most 64 pixels wide and high; may have no rows.
        pictures: figures without a chart of their own, in order.
        places: say also where on the machine data, grid and program were.

    Raises:
        ValueError: as `certified_groups`.
    """
    subject = Subject.of(run)
    run, groups = subject.run, subject.groups
    packed, images = packed_images(run, groups)
    sheets, tiles = sprite_sheets(thumbnails, images)
    files = {f"picture-{place}": picture.png for place, picture in enumerate(pictures)}
    content: Content = {
        "progress": None,
        "summary": summary(subject, tables),
        "tables": [table_content(table) for table in tables if table.rows],
        "methods": methods(run, groups),
        "charts": charts(run, groups, tables),
        "pictures": [{"title": picture.title, "words": picture.words} for picture in pictures],
        "images": images,
        "tiles": tiles,
        "settings": settings(groups, places=places),
        "grids": grids(run, places=places),
        "environment": environment(run, places=places),
        "caveats": caveats(subject),
    }
    blocks = {"certificates": packed, **sheets, **files}
    return Parts(
        content, "\n".join(_data(name, OCTETS, base64.b64encode(block).decode()) for name, block in blocks.items())
    )


def page_of(parts: Parts, *, live: bool = False) -> str:
    """The page as HTML.

    Args:
        live: for a server that gives it at the address where it was found: it asks there again and again, and shows
            what is new.
    """
    head, script = _file("theme.js"), "\n".join(_file(f"{name}.js") for name in [*SCRIPTS, *[LIVE] * live])
    filled = {
        "title": escape(parts.content["summary"]["title"]),
        "hashes": f"{_hash(head)} {_hash(script)}" + "; connect-src 'self'" * live,
        "style": _file("page.css"),
        "head": head,
        "data": f"{_data('content', 'application/json', _json(parts.content))}\n{parts.data}",
        "script": script,
    }
    # In one pass, so that a name in braces inside the data stays what it is.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: filled[match[1]], _file("page.html"))


def _json(content: Content) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(_ESCAPES)


def _data(name: str, kind: str, text: str) -> str:
    return f'<script type="{kind}" id="{name}">{text}</script>'


def _hash(script: str) -> str:
    """A script that the policy of the page lets run; any other, wherever it came from, it does not."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _file(name: str) -> str:
    return (resources.files(__name__) / name).read_text(encoding="utf-8")
