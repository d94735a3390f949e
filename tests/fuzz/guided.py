"""The same property with inputs that atheris finds by coverage: python -m tests.fuzz.guided grid|log [-runs=N].

atheris (https://github.com/google/atheris) is no dependency of this program: install it to run this file.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=["bench.settings.grid", "bench.settings.trial", "methods", "results.store.logs", "tomllib"]
):
    from tests.fuzz.command import outcome_of
    from tests.fuzz.workshop import Workshop, without_work


def main() -> None:
    kind = sys.argv.pop(1)
    folder = Path(tempfile.mkdtemp())
    shop = Workshop(folder)
    commands = {
        "grid": (folder / "grid.toml", ["run", "--data", "synthetic", "--grid"]),
        "log": (folder / "log.tsv", ["import", "--method", "a", "--sigma", ".5", "--out", str(folder / "new")]),
    }
    path, words = commands[kind]
    seeds = Path(tempfile.mkdtemp())
    texts = shop.grid_texts if kind == "grid" else [(folder / "log").read_text()]
    for number, text in enumerate(texts):
        (seeds / str(number)).write_text(text)

    def once(content: bytes) -> None:
        shop.restore()
        path.write_bytes(content)
        outcome_of([*words, str(path)], folder)

    atheris.Setup([*sys.argv, str(seeds)], once)
    with without_work(shop):
        atheris.Fuzz()


if __name__ == "__main__":
    main()
