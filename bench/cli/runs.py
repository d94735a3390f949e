"""Commands that run and watch trials: `bench run`, `status`, `watch`, `trial`."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from bench.cli.base import (
    AddressOption,
    BeaconOption,
    JsonOption,
    PluginOption,
    QuietOption,
    RunArgument,
    ShardSizeOption,
    UnauthenticatedOption,
    app,
    console,
    merge_and_report,
    print_failures,
    print_report,
    refuse_unreadable_words,
    user_errors,
)
from bench.cli.options import takes_run_options
from bench.cli.stopping import stopped_in_order
from bench.cli.terminal import Terminal
from bench.settings.options import RunOptions
from results.report.terminal import Heading, Sheet
from results.store.folder import RunFolder, location

if TYPE_CHECKING:
    from bench.settings.trial import Trial
    from cluster import GroupSize


@app.command()
@takes_run_options(grid_required=True)
def run(
    given: dict[str, Any],
    address: AddressOption = None,
    allow_unauthenticated: UnauthenticatedOption = False,
    quiet: QuietOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print how it ended, as JSON, alone.")] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only list the trials, their cost on this machine, and what they could detect."),
    ] = False,
) -> None:
    """Run a grid: train, certify, merge, report. The same command again finishes what is missing."""
    quiet = quiet or as_json
    if quiet:
        logging.getLogger("bench").setLevel(logging.ERROR)
    with stopped_in_order(), user_errors():
        refuse_unreadable_words()
        options = RunOptions.of(**given)
        _ = options.opened  # what can be refused at once is, before anything is imported that takes long
        if dry_run:
            _print_forecast(options, as_json=as_json)
            return
        from bench.runner.display import as_json as progress_as_json
        from bench.runner.grid import finish_grid
        from bench.runner.progress import read_progress

        finished = finish_grid(
            options,
            address=address,
            allow_unauthenticated=allow_unauthenticated,
            audience=_Terminal(options.grid, quiet=quiet, as_json=as_json),
        )
        if finished.report and not quiet:
            print_report(finished.folder, finished.report)
        if as_json:
            typer.echo(json.dumps(progress_as_json(read_progress(finished.folder)), indent=2))
    raise typer.Exit(1 if finished.failed else 0)


def _print_forecast(options: RunOptions, *, as_json: bool) -> None:
    from bench.runner.display import duration
    from bench.runner.expected import in_words, record_of
    from bench.runner.grid import trials_of

    trials = trials_of(options)[0]
    if not as_json:
        console.print("counting passes, and measuring their speed for some seconds …")
    from bench.audit.forecast import forecast  # with torch

    found = forecast(trials, options.workers, options.cpus_per_worker)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    headings = [
        Heading("method", least=12),
        *(Heading(text, right=True) for text in ("σ", "epochs")),
        *(Heading(f"{text}\n10⁶", f"{text}, million", right=True) for text in ("train", "attack", "survey", "certify")),
        *(Heading(text, right=True) for text in ("memory", "time")),
    ]
    rows = [
        [
            each["name"] + (f" seed {each['seed']}" if each["seed"] else ""),
            f"{each['sigma']:g}",
            str(each["epochs"] or "–"),
            *(_millions(each["passes"][kind]) for kind in ("train", "attack", "survey", "certify")),
            f"{each['memory_bytes'] / 1e9:.2f} GB" if each["memory_bytes"] else "–",
            duration(each["seconds"]),
        ]
        for each in found["trials"]
    ]
    console.print(Sheet(headings, rows, gap=1), "")
    for each in found["trials"]:
        if each["shared"]:
            which = f"{each['name']} seed {each['seed']} at σ = {each['sigma']:g}"
            console.print(f"trained once: {escape(which)}, {escape(', '.join(each['shared']))}", highlight=False)
    several = f"{found['devices']} × " if found["devices"] > 1 else ""
    compiled = ", less where compilation pays, which was not tried" if found["compiled"] else ""
    console.print(
        f"{len(rows)} trials on {several}{escape(found['device'])}: {escape(in_words(record_of(found)))}{compiled}. "
        "Passes of images through one network: train forward and backward; attack likewise, for the images; survey "
        "forward alone, by a model in training or a teacher; certify forward alone, at most.",
        highlight=False,
        soft_wrap=True,
    )
    _print_power(found["detectable"])


def _print_power(detectable: list[dict[str, Any]]) -> None:
    """Which differences the run could detect."""
    if not detectable:
        return
    from results.analysis.power import ASSUMED

    headings = [
        *(Heading(text, right=True) for text in ("σ", "images", "seeds", "ACR")),
        Heading(f"ACR, Holm\n{detectable[0]['pairs']} pairs", f"ACR, Holm, {detectable[0]['pairs']} pairs", right=True),
        Heading("certified\naccuracy", "certified accuracy", right=True),
    ]
    rows = [
        [
            f"{each['sigma']:g}",
            str(each["images"]),
            str(each["seeds"]),
            *(f"{each[key]:.4f}" for key in ("acr", "acr_corrected")),
            f"{100 * each['accuracy']:.1f} points",
        ]
        for each in detectable
    ]
    console.print("\nDifferences of two methods that are found with probability .8 at .05, two-sided", highlight=False)
    console.print(Sheet(headings, rows, gap=1))
    one = (
        ""
        if min(each["seeds"] for each in detectable) > 1
        else (" With one seed the difference is that of two trained models, and says nothing of other trainings.")
    )
    console.print(ASSUMED + one, style="italic", highlight=False, soft_wrap=True)


def _millions(count: int) -> str:
    return f"{count / 1e6:,.2f}".replace(",", " ") if count else "–"


class _Terminal(Terminal):
    """The `bench.runner.grid.RunAudience` before a screen."""

    def __init__(self, grid: str, *, quiet: bool, as_json: bool) -> None:
        super().__init__(quiet=quiet, as_json=as_json)
        self.grid = grid

    def asks_for_cost(self) -> bool:
        return not self.quiet

    def begins(self, trials: list[Trial], dataset: str, size: GroupSize | None, folder: RunFolder) -> None:
        how = "all finished"
        if size:
            how = f"{size.workers} worker{'s' * (size.workers > 1)} × "
            how += f"{size.cpus_per_worker:g} CPU {size.gpus_per_worker:g} GPU"
        what = f"{len(trials)} trial{'s' * (len(trials) > 1)} of {escape(self.grid)}"
        self.say_begun(what, dataset, how, folder)

    def expects(self, cost: str) -> None:
        console.print(f"{escape(cost)} (bench run --dry-run has each trial)", highlight=False)


@app.command()
def status(
    run: RunArgument,
    as_json: JsonOption = False,
) -> None:
    """What is done, running and left, from the files of a run alone."""
    from bench.runner.display import as_json as progress_as_json
    from bench.runner.display import render
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
def watch(
    run: RunArgument,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page; 0: any that is free.")] = 8420,
    host: Annotated[
        str, typer.Option(help="Address at which it is served; others than this machine's own take a token.")
    ] = "127.0.0.1",
    token: Annotated[
        str, typer.Option(envvar="BENCH_WATCH_TOKEN", help="That whoever opens the page must know.", show_default=False)
    ] = "",
) -> None:
    """The page of a run in a browser while it goes on: progress, curves of training, tables as they fill.

    It reads the run's files and writes none; Ctrl-C ends it, and nothing else.
    """
    with user_errors():
        folder = RunFolder(location(run))
        from bench.runner.watch import WatchServer

        with WatchServer(folder, host, port, token) as server:
            console.print(
                f"{server.url}  shows {escape(run)} while it goes on; Ctrl-C ends this", highlight=False, soft_wrap=True
            )
            server.serve()


@app.command()
def trial(
    settings: Annotated[
        str, typer.Argument(help="Settings of one trial, as bench run leaves them.", metavar="TRIAL.json")
    ],
    out: Annotated[str, typer.Option(help="Folder or URL of the run that the trial becomes.")],
    beacon: BeaconOption = None,
    shard_size: ShardSizeOption = 16,
    plugin: PluginOption = None,
) -> None:
    """One trial in this process, without Ray; also under `accelerate launch`, one process per GPU."""
    from bench.data import refuse_missing
    from bench.settings.grid import read_trial
    from bench.settings.plugins import load_plugins
    from results.store.description import check_room
    from results.store.lock import refuse_in_use

    with stopped_in_order(), user_errors():
        load_plugins(plugin or ())
        chosen = read_trial(location(settings), beacon)
        folder = RunFolder(location(out))
        check_room(folder)
        refuse_in_use(folder)
        refuse_missing(chosen.data)
        from bench.runner.single import run_single  # with torch

        if run_single(chosen, folder, shard_size):
            merge_and_report(folder)
