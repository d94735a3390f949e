"""The command line: `bench run`, `status`, `report`, `trial`, `grids`, `methods`.

Exit status: 0 success, 1 some trial failed (the rest is kept), 2 wrong usage or input, 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from results.folder import RunFolder, read_json

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Certified robustness by randomized smoothing: train, certify, compare.",
)
console = Console()
errors = Console(stderr=True)

RunArgument = Annotated[Path, typer.Argument(help="Folder of a run, such as runs/smoke.", metavar="RUN")]


class UserError(Exception):
    """Wrong usage or input: one sentence for the user."""


@app.command()
def run(
    grid: Annotated[str, typer.Option(help="smoke, lite, thesis, paper, or a .toml file.")],
    data: Annotated[str | None, typer.Option(help="synthetic, cifar10, or a folder of images.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; runs/GRID where not given.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Workers of a gang; one per GPU, or two on CPUs.")] = None,
    cpus_per_worker: Annotated[float | None, typer.Option(min=0.1, help="CPUs of a worker.")] = None,
    gpus_per_worker: Annotated[float | None, typer.Option(min=0, help="GPUs of a worker.")] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Test images of a shard.")] = 16,
    address: Annotated[str | None, typer.Option(help="auto or HOST:PORT of a running Ray cluster.")] = None,
    methods: Annotated[str | None, typer.Option(help="Only these methods of the grid, comma-separated.")] = None,
    sigmas: Annotated[str | None, typer.Option(help="These values of σ instead, comma-separated.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Change a setting: certify.n=1000.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete what the run already has.")] = False,
) -> None:
    """Run a grid: train, certify, merge, report. The same command again finishes what is missing."""
    from bench.data import dataset_name, load_images, resolve_data
    from bench.display import shown
    from bench.grid import load_grid
    from bench.run import default_gang, prepare, run_grid
    from results.shards import evenly_spaced

    with _user_errors():
        loaded = load_grid(grid, set_ or [], data=data, methods=_names(methods), sigmas=_numbers("--sigmas", sigmas))
        loaded = loaded.model_copy(update={"data": resolve_data(loaded.data)})
        dataset = dataset_name(loaded.data)
        # Wrong or too little data is refused before anything starts.
        load_images(loaded.data, "train").evenly(loaded.train.images)
        evenly_spaced(len(load_images(loaded.data, "test")), loaded.certify.images)
        folder = RunFolder((out or Path("runs") / Path(grid).stem).expanduser().absolute())
        size = default_gang(workers, cpus_per_worker, gpus_per_worker)
        trials = prepare(loaded, dataset, folder, size, fresh=fresh)
        console.print(
            f"{len(trials)} trial{'s' * (len(trials) > 1)} of {escape(grid)} on {escape(dataset)}, "
            f"{size.workers} worker{'s' * (size.workers > 1)} × "
            f"{size.cpus_per_worker:g} CPU {size.gpus_per_worker:g} GPU, in {escape(str(folder.path))}",
            highlight=False,
            soft_wrap=True,
        )
        try:
            with shown(folder, size.workers, console):
                failed = run_grid(trials, folder, size, shard_size=shard_size, address=address)
        except KeyboardInterrupt:
            errors.print("Stopped. Everything finished is kept; the same command goes on from there.")
            raise typer.Exit(130) from None
        if failed:
            _print_failures(folder)
        if len(failed) < len(trials):
            _merge_and_report(folder)
    raise typer.Exit(1 if failed else 0)


@app.command()
def status(run: RunArgument) -> None:
    """What is done, running and left, from the files of a run alone."""
    from bench.display import render
    from bench.progress import read_progress

    with _user_errors():
        folder = RunFolder(run)
        gang = read_json(folder.description).get("gang", {"workers": 1})
        console.print(render(read_progress(folder), gang["workers"]))
        _print_failures(folder)


@app.command()
def report(run: RunArgument) -> None:
    """Merge the shards, then write tables and figures again. Needs no model, no data and no cluster."""
    with _user_errors():
        _merge_and_report(RunFolder(run))


@app.command()
def trial(
    settings: Annotated[
        Path, typer.Argument(help="Settings of one trial, as bench run leaves them.", metavar="TRIAL.json")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run that the trial becomes.")],
    shard_size: Annotated[int, typer.Option(min=1, help="Test images of a shard.")] = 16,
) -> None:
    """One trial in this process, without Ray; also under `accelerate launch`, one process per GPU."""
    from bench.single import run_single

    with _user_errors():
        folder = RunFolder(out.expanduser().absolute())
        if run_single(settings, folder, shard_size):
            _merge_and_report(folder)


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


def main() -> None:
    """Entry point of the `bench` command."""
    try:
        app()
    except UserError as error:
        errors.print(f"[red]error:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)


class _user_errors:  # noqa: N801  # reads as a statement
    """Turns the errors that users cause into one sentence; anything else is a bug and keeps its traceback."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, ValueError | FileNotFoundError | PermissionError | NotADirectoryError):
            raise UserError(_sentence(error)) from error
        cluster = sys.modules.get("cluster")
        if cluster and isinstance(error, cluster.ClusterError):
            raise UserError(str(error)) from error


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {(error.strerror or str(error)).lower()}"
    return str(error)


def _merge_and_report(folder: RunFolder) -> None:
    from results.formats import to_terminal
    from results.merge import merge_run
    from results.report import write_report

    unfinished = merge_run(folder)
    for table in write_report(folder):
        console.print(to_terminal(table), "")
    for trial_id in unfinished:
        console.print(f"not in the tables, because it is not finished: {trial_id}", highlight=False)
    for path in (folder.tables, folder.figures, folder.certificates):
        console.print(f"{path.name:<22} {path}", highlight=False, soft_wrap=True)


def _print_failures(folder: RunFolder) -> None:
    from bench.progress import read_progress

    for progress in read_progress(folder):
        if progress.stage == "failed":
            reason = f"{escape(progress.error)} (log: {escape(progress.log)})"
            errors.print(
                f"[red]failed:[/red] {progress.label} σ={progress.sigma:g}: {reason}",
                highlight=False,
                soft_wrap=True,
            )


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _numbers(option: str, text: str | None) -> list[float] | None:
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{option} {text!r}: must be numbers separated by commas, such as .25,.5") from None
