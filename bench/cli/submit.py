"""`bench submit`: a run as a job of a running cluster."""

from __future__ import annotations

import importlib
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli.base import UserError, app, console, errors, names, numbers, user_errors
from results.store.secrecy import masked

Arguments = Annotated[
    list[str] | None, typer.Argument(help="Options of `bench run`.", metavar="--grid GRID --out OUT ...")
]


@app.command(context_settings={"ignore_unknown_options": True})
def submit(
    arguments: Arguments = None,
    address: Annotated[str, typer.Option(help="Dashboard of the cluster.")] = "http://127.0.0.1:8265",
    allow_unauthenticated: Annotated[
        bool, typer.Option("--allow-unauthenticated", help="Also to a cluster that takes commands from anybody.")
    ] = False,
    follow: Annotated[str | None, typer.Option(help="Come back to a job.", metavar="JOB")] = None,
    stop: Annotated[str | None, typer.Option(help="Stop a job.", metavar="JOB")] = None,
) -> None:
    """`bench run` as a Ray job on a running cluster, with this program, its methods and the grid from here.

    The log is followed until the job ends; Ctrl-C leaves the job running.
    """
    given = arguments or []
    if (follow or stop) and (given or (follow and stop)):
        raise UserError("--follow and --stop take the name of a job and nothing else but --address")
    if not (follow or stop):
        grid = _check(given)
    try:
        from cluster.submit import jobs_at  # after the check, for ray takes a second to import
    except ImportError as error:
        raise UserError(f"submitting takes {error.name}: pip install 'smoothing-bench[cluster]'") from None

    from results.store.description import git_commit

    with user_errors(), jobs_at(address, allow_unauthenticated=allow_unauthenticated) as jobs:
        if stop:
            console.print(f"{stop} {'is told to stop' if jobs.stop(stop) else 'had ended already'}", highlight=False)
            return
        back = f"bench submit --address {shlex.quote(address)}{' --allow-unauthenticated' * allow_unauthenticated}"
        job = follow
        if not job:
            allowed = [] if jobs.authenticated else ["--allow-unauthenticated"]
            with tempfile.TemporaryDirectory(prefix="bench-submit-") as temporary:
                given = _pack(Path(temporary), grid, given)
                command = shlex.join(["-m", "bench", "run", *given, "--address", "auto", *allowed])
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


def _check(arguments: list[str]) -> str:
    """Refuse here what `bench run` would refuse there. Returns the grid."""
    from bench.settings.grid import load_grid

    if masked(arguments) != arguments:
        raise UserError("a job's command line is no place for credentials: they belong into the cluster's environment")

    run: Any = typer.main.get_command(app)
    with run.commands["run"].make_context("bench run", list(arguments), parent=None) as parsed:
        options = parsed.params
    if options["address"]:
        raise UserError("--address names the dashboard, as in http://127.0.0.1:8265; the run itself finds its cluster")
    with user_errors():
        changes = [*(options["set_"] or []), *(["certify.skip_misclassified=false"] if options["full"] else [])]
        sigmas = numbers("--sigmas", options["sigmas"])
        grid = load_grid(
            options["grid"], changes, data=options["data"], methods=names(options["methods"]), sigmas=sigmas
        )
        out = options["out"]
        if out is None or not ("://" in out or Path(out).is_absolute()):
            raise UserError(
                f"--out {out or 'is missing'}: must be an absolute path that every node has, or a URL such as "
                "s3://bucket/run, for a job's own folder is lost with it"
            )
        if grid.data not in ("synthetic", "cifar10") and "://" not in grid.data and not Path(grid.data).is_absolute():
            raise UserError(f"data {grid.data}: must be synthetic, cifar10, a URL, or an absolute path on every node")
    return str(options["grid"])


def _pack(folder: Path, grid: str, arguments: list[str]) -> list[str]:
    """Copy the program, and the grid where it is a file; the arguments that name it there."""
    from bench.settings.grid import SHIPPED

    for package in ("bench", "methods", "cluster", "results"):
        [source, *_] = importlib.import_module(package).__path__
        shutil.copytree(source, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    if grid in SHIPPED:
        return arguments
    copy = f"grids/{Path(grid).name}"
    (folder / "grids").mkdir()
    shutil.copy(grid, folder / copy)
    there = {grid: copy, f"--grid={grid}": f"--grid={copy}"}
    return [there.get(argument, argument) for argument in arguments]
