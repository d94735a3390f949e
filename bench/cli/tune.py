"""`bench tune`: the options of methods, by images held out of the training set."""

from __future__ import annotations

import json
import logging
import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from bench.cli.base import (
    AddressOption,
    QuietOption,
    UnauthenticatedOption,
    app,
    console,
    refuse_unreadable_words,
    user_errors,
)
from bench.cli.options import takes_run_options
from bench.cli.stopping import stopped_in_order
from bench.cli.terminal import Terminal
from bench.settings.options import RunOptions
from bench.settings.tuning import TuneOptions
from results.report.terminal import Heading, Sheet

if TYPE_CHECKING:
    from bench.runner.tuning import Search, Tuned
    from bench.settings.trial import Trial
    from cluster import GroupSize
    from results.store.folder import RunFolder


def _help(name: str) -> str:
    return str(TuneOptions.model_fields[name].description)


@app.command()
@takes_run_options(grid_required=True, without=("out", "full", "tensorboard", "beacon"))
def tune(
    given: dict[str, Any],
    budget: Annotated[float, typer.Option(help=_help("budget"))],
    held_out: Annotated[int, typer.Option(help=_help("held_out"))] = 500,
    n: Annotated[int, typer.Option("--n", help=_help("n"))] = 1000,
    seed: Annotated[int, typer.Option(help=_help("seed"))] = 0,
    parallel: Annotated[int, typer.Option(help=_help("parallel"))] = 1,
    out: Annotated[
        str | None, typer.Option(help="Folder or URL (s3://…) of the search; runs/GRID-tuning if not given.")
    ] = None,
    address: AddressOption = None,
    allow_unauthenticated: UnauthenticatedOption = False,
    quiet: QuietOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was chosen, as JSON, alone.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list the searches and what they will cost on this machine.")
    ] = False,
) -> None:
    """Search the options of methods on images held out of the training set. The same command again goes on."""
    quiet = quiet or as_json
    if quiet:
        logging.getLogger("bench").setLevel(logging.ERROR)
    failed = False
    with stopped_in_order(), user_errors():
        refuse_unreadable_words()
        asked = TuneOptions.of(budget=budget, held_out=held_out, n=n, seed=seed, parallel=parallel)
        options = RunOptions.of(**given, **({"out": out} if out else {}))
        _ = options.opened  # what can be refused at once is, before torch is imported
        from bench.runner.tuning import folder_of, searches_of, tune_grid
        from results.store.description import check_room
        from results.store.lock import refuse_in_use

        if not dry_run:
            check_room(folder_of(options), fresh=options.fresh)  # before data is downloaded
            refuse_in_use(folder_of(options))
        searches = searches_of(options, asked, _training_cost)
        methods = options.opened[0].methods
        if dry_run:
            _print_forecast(searches, methods, as_json=as_json)
        else:
            tuned = tune_grid(
                options,
                asked,
                searches,
                address=address,
                allow_unauthenticated=allow_unauthenticated,
                audience=_Terminal(methods, quiet=quiet, as_json=as_json),
            )
            failed = bool(tuned.failed)
            _print_chosen(tuned, options.plugins, quiet=quiet, as_json=as_json)
    raise typer.Exit(1 if failed else 0)


def _training_cost(trial: Trial) -> float:
    from bench.audit.search_cost import training_cost  # with torch

    return training_cost(trial)


def _print_forecast(searches: list[Search], methods: list[str], *, as_json: bool) -> None:
    from bench.audit.search_cost import SearchForecast
    from bench.runner.display import duration

    if not as_json:
        console.print("counting passes, and measuring their speed for some seconds …")
    machine, found = SearchForecast(), []
    for search in searches:
        plan = search.plan()
        on_rung = [sum(step.rung == rung for step in plan.steps) for rung in range(len(search.epochs))]
        found.append(
            {
                "method": search.trial.name,
                "sigma": search.trial.sigma,
                "searched": {name: str(values) for name, values in search.space.values.items()},
                "epochs": search.epochs,
                "configurations": on_rung,
                "cost": plan.spent,
                "seconds": machine.seconds([search.at(step) for step in plan.steps], plan.spent),
            }
        )
    total = sum(each["seconds"] for each in found)  # type: ignore[misc]  # the values are of several types
    if as_json:
        typer.echo(json.dumps({"searches": found, "seconds": total}, indent=2))
        return
    headings = [
        Heading("method", least=11),
        Heading("σ", right=True),
        Heading("searched", least=24),
        *(Heading(text, right=True) for text in ("epochs", "configurations", "time")),
    ]
    rows = [
        [
            str(each["method"]),
            f"{each['sigma']:g}",
            "\n".join(f"{name}: {values}" for name, values in search.space.values.items()),
            "\n".join(map(str, search.epochs)),
            "\n".join(map(str, each["configurations"])),  # type: ignore[call-overload]
            duration(each["seconds"]),  # type: ignore[arg-type]
        ]
        for search, each in zip(searches, found, strict=True)
    ]
    console.print(Sheet(headings, rows), "")
    if others := [name for name in methods if name not in {search.trial.name for search in searches}]:
        console.print(f"nothing to search: {escape(', '.join(others))}", highlight=False, soft_wrap=True)
    console.print(
        f"{len(found)} search{'es' * (len(found) > 1)} with a budget of {searches[0].halving.budget:g} passes of the "
        f"training images each, together about {duration(total)} on this machine: certified with "
        f"n = {searches[0].trial.certify.n} after so many epochs, the best third goes on. What is finished already is "
        "not done again.",
        highlight=False,
        soft_wrap=True,
    )


def _print_chosen(tuned: Tuned, plugins: list[str], *, quiet: bool, as_json: bool) -> None:
    rows = []
    for search in tuned.searches:
        best = search.halving.best()
        own = max((step for step in search.found if step.number == 0), default=None)
        found = search.found[best] if best else None
        rows.append(
            {
                "method": search.trial.name,
                "sigma": search.trial.sigma,
                "options": search.chosen(),
                "acr": found.acr if found else None,
                "acr_error": found.error if found else None,
                "epochs": search.epochs[best.rung] if best else 0,
                "own_acr": search.found[own].acr if own else None,
                "own_epochs": search.epochs[own.rung] if own else 0,
                "trainings": len(search.found),
                "ended": search.halving.ended,
            }
        )
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    if quiet:
        return
    headings = [
        Heading("method", least=11),
        Heading("σ", right=True),
        Heading("best options", least=20),
        *(Heading(text, right=True) for text in ("epochs", "ACR", "of the grid", "trainings")),
    ]
    sheet = [
        [
            str(row["method"]),
            f"{row['sigma']:g}",
            "\n".join(f"{name} = {value}" for name, value in row["options"].items()),  # type: ignore[attr-defined]
            str(row["epochs"]),
            _number(row["acr"], row["acr_error"]),
            _number(row["own_acr"]) + (f" ({row['own_epochs']})" if row["own_epochs"] != row["epochs"] else ""),
            str(row["trainings"]),
        ]
        for row in rows
    ]
    console.print(Sheet(headings, sheet), "")
    console.print(
        "ACR on the images that were held out of the training set, ± its standard error over them; the best of many is "
        "likely too good: `bench run` with the new grid tells. Of the grid: of the options it had (after how many "
        "epochs, if fewer).",
        highlight=False,
        soft_wrap=True,
    )
    for search in tuned.searches:
        if not any(step.rung == len(search.epochs) - 1 for step in search.found):
            which = f"{escape(search.trial.name)} at σ = {search.trial.sigma:g}"
            console.print(f"{which}: no training came to its end", highlight=False, soft_wrap=True)
    folder = tuned.folder
    lines = [f"{folder.search.name:<22} {folder.search}"]
    if all(row["ended"] for row in rows):
        lines += [f"{folder.tuned.name:<22} {folder.tuned}", f"next: {_next_command(folder, plugins)}"]
    for line in lines:
        console.print(escape(line), highlight=False, soft_wrap=True)


def _next_command(folder: RunFolder, plugins: list[str]) -> str:
    """With a folder of its own: `bench run` would take the name of the file, which all searches share."""
    name = folder.path.name.removesuffix("-tuning") or "search"  # the root of a bucket has none
    words = ["bench", "run", "--grid", str(folder.tuned), "--out", str(folder.path.parent / f"{name}-tuned")]
    return shlex.join([*words, *(word for plugin in plugins for word in ("--plugin", plugin))])


def _number(value: Any, error: Any = None) -> str:
    return "failed" if value is None else f"{value:.3f}" + (f" ± {error:.3f}" if error is not None else "")


class _Terminal(Terminal):
    """The `bench.runner.tuning.TuneAudience` before a screen."""

    def __init__(self, methods: list[str], *, quiet: bool, as_json: bool) -> None:
        super().__init__(quiet=quiet, as_json=as_json)
        self.methods = methods

    def plans(self, searches: list[Search]) -> None:
        if not self.quiet:
            _print_forecast(searches, self.methods, as_json=False)

    def begins(self, trials: list[Trial], dataset: str, size: GroupSize | None, folder: RunFolder) -> None:
        how = f"{size.workers} × {size.cpus_per_worker:g} CPU {size.gpus_per_worker:g} GPU each" if size else "done"
        self.say_begun(f"{len(trials)} search{'es' * (len(trials) > 1)}", dataset, how, folder)
