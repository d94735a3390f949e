"""`bench submit`: a run as a job of a running cluster."""

from __future__ import annotations

import importlib
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli.base import UserError, app, console, errors, user_errors
from bench.cli.options import takes_run_options
from bench.settings.options import RunOptions
from bench.settings.registries import DATASETS
from results.store.secrecy import masked


@app.command()
@takes_run_options(grid_required=False, without=("out",))
def submit(
    given: dict[str, Any],
    out: Annotated[
        str | None,
        typer.Option(
            help="Absolute path that every node has, or a URL (s3://…), of the run; --follow and --stop take none."
        ),
    ] = None,
    address: Annotated[str, typer.Option(help="Dashboard of the cluster.")] = "http://127.0.0.1:8265",
    allow_unauthenticated: Annotated[
        bool, typer.Option("--allow-unauthenticated", help="Also to a cluster that takes commands from anybody.")
    ] = False,
    follow: Annotated[str | None, typer.Option(help="Come back to a job.", metavar="JOB")] = None,
    stop: Annotated[str | None, typer.Option(help="Stop a job.", metavar="JOB")] = None,
) -> None:
    """`bench run` as a Ray job on a running cluster, with this program, the grid and plugins from here.

    The log is followed until the job ends; Ctrl-C leaves the job running.
    """
    given |= {"out": out} if out is not None else {}
    if (follow or stop) and (given or (follow and stop)):
        raise UserError("--follow and --stop take the name of a job and nothing else but --address")
    if "://" not in address:
        raise UserError("--address names the dashboard, as in http://127.0.0.1:8265; the run itself finds its cluster")
    with user_errors():
        options = None if follow or stop else _checked(given)
    try:
        from cluster.submit import jobs_at  # after the check, for ray takes a second to import
    except ImportError as error:
        raise UserError(f"submitting takes {error.name}: pip install 'ray[default]'") from None

    from results.store.description import git_commit

    with user_errors(), jobs_at(address, allow_unauthenticated=allow_unauthenticated) as jobs:
        if stop:
            console.print(f"{stop} {'is told to stop' if jobs.stop(stop) else 'had ended already'}", highlight=False)
            return
        back = f"bench submit --address {shlex.quote(address)}{' --allow-unauthenticated' * allow_unauthenticated}"
        job = follow or ""
        if options:
            allowed = [] if jobs.authenticated else ["--allow-unauthenticated"]
            with tempfile.TemporaryDirectory(prefix="bench-submit-") as temporary:
                there = _pack(Path(temporary), options)
                command = shlex.join(["-m", "bench", "run", *there.arguments(), "--address", "auto", *allowed])
                job = jobs.submit(Path(temporary), command, {"BENCH_GIT_COMMIT": git_commit() or ""})
            errors.print(f"Job {job}. To come back to it: {back} --follow {job}", highlight=False, soft_wrap=True)
        try:
            succeeded = jobs.follow(job, lambda text: console.out(text, end="", highlight=False))
        except KeyboardInterrupt:
            errors.print(
                f"The job goes on. To come back to it: {back} --follow {job}\nTo stop it: {back} --stop {job}",
                highlight=False,
                soft_wrap=True,
            )
            raise typer.Exit(130) from None
    if not succeeded:
        errors.print(f"[red]failed:[/red] job {job}", highlight=False)
    raise typer.Exit(0 if succeeded else 1)


def _checked(given: dict[str, Any]) -> RunOptions:
    """The options; refuses here what `bench run` would refuse there."""
    if "grid" not in given:
        raise UserError("Missing option '--grid'; see `bench submit --help`")
    options = RunOptions.of(**given)
    arguments = options.arguments()
    if masked(arguments) != arguments:
        raise UserError("a job's command line is no place for credentials: they belong into the cluster's environment")
    grid, _ = options.opened
    out = options.out
    if out is None or not ("://" in out or Path(out).is_absolute()):
        raise UserError(
            f"--out {out or 'is missing'}: must be an absolute path that every node has, or a URL such as "
            "s3://bucket/run, for a job's own folder is lost with it"
        )
    if grid.data not in DATASETS and "://" not in grid.data and not Path(grid.data).is_absolute():
        known = ", ".join(DATASETS)
        raise UserError(f"data {grid.data}: must be {known}, a URL, or an absolute path on every node")
    return options


def _pack(folder: Path, options: RunOptions) -> RunOptions:
    """Copy the program, the grid and plugins where they are files; the options that name them there."""
    from bench.settings.grid import SHIPPED
    from bench.settings.plugins import is_file

    for package in ("bench", "methods", "cluster", "results"):
        [source, *_] = importlib.import_module(package).__path__
        shutil.copytree(source, folder / package, ignore=shutil.ignore_patterns("__pycache__"))

    def copied(file: str, place: str) -> str:
        (folder / place).mkdir(parents=True)
        return str(Path(shutil.copy(Path(file).expanduser(), folder / place)).relative_to(folder))

    grid = options.grid if options.grid in SHIPPED else copied(options.grid, "grids")
    # Each in a folder of its own, for two may have one name.
    plugins = [
        copied(plugin, f"plugins/{number}") if is_file(plugin) else plugin
        for number, plugin in enumerate(options.plugins)
    ]
    return options.model_copy(update={"grid": grid, "plugins": plugins})
