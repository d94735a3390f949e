"""Commands that list what there is: `bench grids`, `methods`."""

from __future__ import annotations

from bench.cli.base import app, console
from results.report.terminal import Heading, Sheet


@app.command()
def grids() -> None:
    """The grids that come with the program."""
    from bench.settings.grid import SHIPPED, load_grid

    loaded = {name: load_grid(name) for name in SHIPPED}
    rows = [[name, str(len(grid.trials())), grid.description] for name, grid in loaded.items()]
    console.print(Sheet([Heading("grid"), Heading("trials", right=True), Heading("what it is", least=24)], rows))


@app.command()
def methods() -> None:
    """The training methods and their options."""
    from dataclasses import fields

    from methods import METHODS

    rows = []
    for name, method in METHODS.items():
        options = "\n".join(f"{field.name} = {field.default}" for field in fields(method))
        rows.append([name, method.title, options, method.source])
    headings = [Heading("method"), Heading("title", least=12), Heading("options"), Heading("source", least=12)]
    console.print(Sheet(headings, rows))
