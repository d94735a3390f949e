"""Commands that run and watch trials: `bench run`, `status`, `trial`."""

from __future__ import annotations

import json
import logging
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from bench.cli.base import (
    RunArgument,
    UserError,
    app,
    console,
    merge_and_report,
    names,
    numbers,
    print_failures,
    user_errors,
)
from bench.cli.stopping import stopped_in_order
from results.store.folder import RunFolder, location
from results.store.remote import RemotePath

if TYPE_CHECKING:
    from bench.settings.grid import Grid
    from bench.settings.trial import Trial
    from cluster import GroupSize


@app.command()
def run(
    grid: Annotated[str, typer.Option(help="smoke, lite, thesis, paper, ablation, or a .toml file.")],
    data: Annotated[str | None, typer.Option(help="synthetic, cifar10, or a folder of images.")] = None,
    out: Annotated[str | None, typer.Option(help="Folder or URL (s3://…) of the run; runs/GRID if not given.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Workers of a trial; one per GPU, or two on CPUs.")] = None,
    cpus_per_worker: Annotated[float | None, typer.Option(min=0.1, help="CPUs of a worker.")] = None,
    gpus_per_worker: Annotated[float | None, typer.Option(min=0, help="GPUs of a worker.")] = None,
    shard_size: Annotated[int, typer.Option(min=1, help="Test images of a shard.")] = 16,
    address: Annotated[str | None, typer.Option(help="auto or HOST:PORT of a running Ray cluster.")] = None,
    allow_unauthenticated: Annotated[
        bool, typer.Option("--allow-unauthenticated", help="Join a cluster that takes commands from anybody.")
    ] = False,
    methods: Annotated[str | None, typer.Option(help="Only these methods of the grid, comma-separated.")] = None,
    sigmas: Annotated[str | None, typer.Option(help="These values of σ instead, comma-separated.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Change a setting: certify.n=1000.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Estimate also where the selected class is wrong.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete what the run already has.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Keep Tune's files in RUN/tensorboard.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print errors alone.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print how it ended, as JSON, alone.")] = False,
) -> None:
    """Run a grid: train, certify, merge, report. The same command again finishes what is missing."""
    from bench.machine.resources import refuse_parts_of_gpus, stall_seconds, usable_cores
    from bench.settings.grid import load_grid

    quiet = quiet or as_json
    if quiet:
        logging.getLogger("bench").setLevel(logging.ERROR)
    with stopped_in_order(), user_errors():
        for word in (*sys.argv, str(Path.cwd())):
            word.encode()  # Ray takes no bytes that the locale cannot read
        changes = [*(set_ or []), *(["certify.skip_misclassified=false"] if full else [])]
        loaded = load_grid(grid, changes, data=data, methods=names(methods), sigmas=numbers("--sigmas", sigmas))
        refuse_parts_of_gpus(workers, gpus_per_worker)
        stall_seconds()
        folder = RunFolder(location(out or Path("runs") / Path(grid).stem))
        if tensorboard and isinstance(folder.path, RemotePath):
            raise UserError(f"--tensorboard: must have a run in a folder, not at {folder.path}")
        loaded, dataset = _with_data(loaded)

        from bench.cli.display import as_json as progress_as_json
        from bench.cli.display import shown
        from bench.data.thumbnails import keep_thumbnails
        from bench.runner.progress import read_progress
        from bench.runner.stages import unfinished
        from results.store.description import add_trials, make_room
        from results.store.lock import RunLock, end_command

        failed: dict[str, str] = {}
        with ExitStack() as stack:
            stack.enter_context(RunLock(folder, on_lost=end_command))
            make_room(folder, fresh=fresh)
            trials = loaded.trials(dataset)
            left = unfinished(trials, folder)
            size: GroupSize | None = None
            if left:
                # Ray takes seconds to import and to start, and what was refused or found done so far needs none.
                from bench.runner.grid import default_group, run_grid
                from cluster import connected, node_resources

                joining = connected(address, allow_unauthenticated=allow_unauthenticated, cores=usable_cores())
                stack.enter_context(joining)
                size = default_group(workers, cpus_per_worker, gpus_per_worker, node_resources())
            details: dict[str, Any] = {"group": asdict(size)} if size else {}  # or as it was
            add_trials(folder, trials, grid=loaded.model_dump(), **details)
            if left or not folder.thumbnails.exists():
                keep_thumbnails(folder, trials)
            if not quiet:
                _announce(trials, grid, dataset, size, folder)
            if size:
                with shown(folder, console, quiet=quiet):
                    failed = run_grid(left, folder, size, shard_size=shard_size, tensorboard=tensorboard)
            if failed and not as_json:
                print_failures(folder, failed)
            if any(trial.trial_id not in failed for trial in trials):
                merge_and_report(folder, quiet=quiet, again=bool(left))
        if as_json:
            typer.echo(json.dumps(progress_as_json(read_progress(folder)), indent=2))
    raise typer.Exit(1 if failed else 0)


def _with_data(grid: Grid) -> tuple[Grid, str]:
    """The grid with its data where every worker finds it, and the name of the data.

    Raises:
        DataError, ValueError: the data is wrong or too little, which is refused before anything starts.
    """
    from bench.data import count_images, dataset_name, resolve_data
    from results.store.shards import evenly_spaced

    data = resolve_data(grid.data)
    dataset = dataset_name(data)
    evenly_spaced(count_images(data, "train"), grid.train.images)
    evenly_spaced(count_images(data, "test"), grid.certify.images)
    return grid.model_copy(update={"data": data}), dataset


def _announce(trials: list[Trial], grid: str, dataset: str, size: GroupSize | None, folder: RunFolder) -> None:
    how = "all finished"
    if size:
        how = f"{size.workers} worker{'s' * (size.workers > 1)} × "
        how += f"{size.cpus_per_worker:g} CPU {size.gpus_per_worker:g} GPU"
    console.print(
        f"{len(trials)} trial{'s' * (len(trials) > 1)} of {escape(grid)} on {escape(dataset)}, "
        f"{how}, in {escape(str(folder.path))}",
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def status(
    run: RunArgument,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON alone.")] = False,
) -> None:
    """What is done, running and left, from the files of a run alone."""
    from bench.cli.display import as_json as progress_as_json
    from bench.cli.display import render
    from bench.runner.progress import read_progress

    with user_errors():
        folder = RunFolder(location(run))
        progress = read_progress(folder)
        if as_json:
            typer.echo(json.dumps(progress_as_json(progress), indent=2))
            return
        console.print(render(progress))
        if progress.holder:
            console.print(f"run by {escape(str(progress.holder))}", highlight=False, soft_wrap=True)
        elif progress.count("done", "failed") < len(progress.trials):
            console.print("nobody runs it now: the same command goes on from there")
        print_failures(folder)


@app.command()
def trial(
    settings: Annotated[
        str, typer.Argument(help="Settings of one trial, as bench run leaves them.", metavar="TRIAL.json")
    ],
    out: Annotated[str, typer.Option(help="Folder or URL of the run that the trial becomes.")],
    shard_size: Annotated[int, typer.Option(min=1, help="Test images of a shard.")] = 16,
) -> None:
    """One trial in this process, without Ray; also under `accelerate launch`, one process per GPU."""
    from bench.settings.grid import read_trial

    with stopped_in_order(), user_errors():
        chosen = read_trial(location(settings))
        folder = RunFolder(location(out))
        from bench.runner.single import run_single  # with torch

        if run_single(chosen, folder, shard_size):
            merge_and_report(folder)
