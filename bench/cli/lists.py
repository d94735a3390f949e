"""Commands that list what there is: `bench grids`, `methods`."""

from __future__ import annotations

from rich.table import Table

from bench.cli.base import app, console


@app.command()
def grids() -> None:
    """The grids that come with the program."""
    from bench.grid import SHIPPED, load_grid

    table = Table("grid", "trials", "what it is", box=None, pad_edge=False)
    for name in SHIPPED:
        loaded = load_grid(name)
        table.add_row(name, str(len(loaded.trials())), loaded.description)
    console.print(table)


@app.command()
def methods() -> None:
    """The training methods and their options."""
    from dataclasses import fields

    from methods import METHODS

    table = Table("method", "title", "options", "source", box=None, pad_edge=False)
    for name, method in METHODS.items():
        options = "\n".join(f"{field.name} = {field.default}" for field in fields(method))
        table.add_row(name, method.title, options, method.source)
    console.print(table)
