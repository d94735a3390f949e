"""Commands that list what there is: `bench grids`, `methods`."""

from __future__ import annotations

from bench.cli.base import PluginOption, app, console, print_warning, user_errors
from results.report.terminal import Heading, Sheet


@app.command()
def grids(
    plugin: PluginOption = None,
) -> None:
    """The grids that come with the program."""
    from bench.settings.grid import SHIPPED, load_grid
    from bench.settings.plugins import load_plugins

    with user_errors():
        load_plugins(plugin or ())
    loaded = {name: load_grid(name) for name in SHIPPED}
    rows = [[name, str(len(grid.trials())), grid.description] for name, grid in loaded.items()]
    console.print(Sheet([Heading("grid"), Heading("trials", right=True), Heading("what it is", least=24)], rows))


@app.command()
def methods(
    plugin: PluginOption = None,
) -> None:
    """The training methods and their options."""
    from dataclasses import fields

    from bench.settings.plugins import load_plugins
    from methods import METHODS, RegistryError

    with user_errors():
        load_plugins(plugin or ())
    rows = []
    for name in METHODS:
        try:
            method = METHODS.find(name)
        except RegistryError as error:  # an installed package that is broken
            print_warning(str(error))
            continue
        options = "\n".join(f"{field.name} = {field.default}" for field in fields(method))
        rows.append([name, method.title, options, method.source])
    headings = [Heading("method"), Heading("title", least=12), Heading("options"), Heading("source", least=12)]
    console.print(Sheet(headings, rows))
