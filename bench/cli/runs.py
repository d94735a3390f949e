"""Commands that run and watch trials: `bench run`, `status`, `trial`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from bench.cli.base import (
    RunArgument,
    app,
    console,
    errors,
    merge_and_report,
    names,
    numbers,
    print_failures,
    user_errors,
)
from results.folder import RunFolder, read_json


@app.command()
def run(
    grid: Annotated[str, typer.Option(help="smoke, lite, thesis, paper, ablation, or a .toml file.")],
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
    full: Annotated[bool, typer.Option("--full", help="Estimate also where the selected class is wrong.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete what the run already has.")] = False,
) -> None:
    """Run a grid: train, certify, merge, report. The same command again finishes what is missing."""
    from bench.data import dataset_name, load_images, resolve_data
    from bench.display import shown
    from bench.grid import load_grid
    from bench.run import default_gang, prepare, run_grid
    from results.shards import evenly_spaced

    with user_errors():
        changes = [*(set_ or []), *(["certify.skip_misclassified=false"] if full else [])]
        loaded = load_grid(grid, changes, data=data, methods=names(methods), sigmas=numbers("--sigmas", sigmas))
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
            print_failures(folder)
        if len(failed) < len(trials):
            merge_and_report(folder)
    raise typer.Exit(1 if failed else 0)


@app.command()
def status(run: RunArgument) -> None:
    """What is done, running and left, from the files of a run alone."""
    from bench.display import render
    from bench.progress import read_progress

    with user_errors():
        folder = RunFolder(run)
        gang = read_json(folder.description).get("gang", {"workers": 1})
        console.print(render(read_progress(folder), gang["workers"]))
        print_failures(folder)


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

    with user_errors():
        folder = RunFolder(out.expanduser().absolute())
        if run_single(settings, folder, shard_size):
            merge_and_report(folder)
