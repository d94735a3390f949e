"""A grid, run from its beginning to its report.

from bench import run_grid
run = run_grid("smoke", out="runs/smoke", set=["certify.n=200"], quiet=True)
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from bench.machine.resources import refuse_parts_of_gpus, stall_seconds, usable_cores
from bench.runner.stages import everything, unfinished
from bench.settings.options import RunOptions
from bench.settings.registries import check_network
from results.report.update import Report, update_report
from results.store.folder import RunFolder

if TYPE_CHECKING:
    from bench.settings.grid import Grid
    from bench.settings.trial import Trial
    from cluster import GroupSize
    from results.store.records import ForecastRecord
    from results.store.run import Run

logger = logging.getLogger("bench")


class RunFailedError(RuntimeError):
    """Trials of a run failed; the others are finished, merged and reported. The message has the first reason."""


class Audience(Protocol):
    """Who is told how trials go."""

    def begins(self, trials: list[Trial], dataset: str, size: GroupSize | None, folder: RunFolder) -> None:
        """The trials are known, and the resources of each; None where nothing is left to do."""

    def watching(self, folder: RunFolder) -> AbstractContextManager[None]:
        """A block in which the trials run."""

    def fails(self, folder: RunFolder, failed: dict[str, str]) -> None:
        """Trials have failed, by id with the reason of each."""


class RunAudience(Audience, Protocol):
    """Who is told how a run goes."""

    def asks_for_cost(self) -> bool:
        """Whether it wants to know what a run on this machine will cost, which takes seconds to find out."""

    def expects(self, cost: str) -> None:
        """What is left is expected to cost so much, in words."""


@dataclass(frozen=True)
class Finished:
    """How a run ended."""

    folder: RunFolder
    failed: dict[str, str]
    """The reason by the id of the trial."""
    report: Report | None
    """None where no trial of the grid succeeded."""


def run_grid(
    grid: str, *, address: str | None = None, allow_unauthenticated: bool = False, quiet: bool = False, **options: Any
) -> Run:
    """Train and certify a grid, finishing what is missing, then merge and report.

    Args:
        grid: the name of one that comes with the program, or a .toml file.
        address: "auto" or HOST:PORT of a running Ray cluster; one of this machine is started where not given.
        allow_unauthenticated: join a cluster also where it takes commands from anybody.
        quiet: say neither what it will cost nor how far it is nor where to look.
        options: fields of `bench.settings.options.RunOptions`, such as out="runs/mine", sigmas=[0.5],
            set=["certify.n=200"], plugins=["mine.py"].

    Returns:
        The run as `results.read_run` reads it; other trials of its folder included.

    Raises:
        BenchError, OSError, ClusterError: wrong options, grid, data, folder or cluster, in one sentence each.
        RunFailedError: a trial failed; the rest is there all the same.
    """
    from results.store.run import read_run

    finished = finish_grid(
        RunOptions.of(grid=grid, **options),
        address=address,
        allow_unauthenticated=allow_unauthenticated,
        audience=_Notebook(quiet=quiet),
    )
    if finished.failed:
        name, reason = next(iter(finished.failed.items()))
        more = f", and {len(finished.failed) - 1} more" if len(finished.failed) > 1 else ""
        raise RunFailedError(f"{name}: {reason}{more} (log: {finished.folder.trial(name).log})")
    if not quiet:
        print(f"{finished.folder.page}: open it in a browser first, all of this is on that one page")
    return read_run(finished.folder.path)


def finish_grid(
    options: RunOptions, *, address: str | None, allow_unauthenticated: bool, audience: RunAudience
) -> Finished:
    """As `run_grid`; raises nothing where trials fail."""
    _, plugins = options.opened
    stall_seconds()
    folder = options.folder

    from bench.data.thumbnails import keep_thumbnails
    from results.store.description import RunError, add_trials, check_room
    from results.store.lock import RunLock, end_command, refuse_in_use
    from results.store.records import GroupRecord

    check_room(folder, fresh=options.fresh)  # before data is downloaded
    refuse_in_use(folder)
    trials, loaded, dataset = trials_of(options)

    failed: dict[str, str] = {}
    with ExitStack() as stack:
        stack.enter_context(RunLock(folder, on_lost=end_command))
        check_room(folder, fresh=options.fresh)
        if folder.search.exists() and not options.fresh:
            raise RunError(f"{folder.path} holds a search, not a run: give --out another folder")
        left = everything(trials, {}) if options.fresh else unfinished(trials, folder)
        trains = options.fresh or not all(folder.trial(name).training.exists() for name in left)

        def join() -> tuple[GroupSize, ForecastRecord | None]:
            # Ray takes seconds to import and to start, and what was refused or found done so far needs none.
            from bench.runner.expected import asking
            from bench.runner.jobs import group_of
            from cluster import connected

            # What is measured of this machine tells nothing of a cluster.
            wanted = address is None and audience.asks_for_cost()
            with asking(options) if wanted else nullcontext() as answer:
                joining = connected(address, allow_unauthenticated=allow_unauthenticated, cores=usable_cores())
                stack.enter_context(joining)
                forecast = answer() if answer else None
            return group_of(options, folder, len(left), trains=trains), forecast

        size, forecast = join() if left else (None, None)
        details: dict[str, Any] = {}  # or as it was
        if size:
            details = {"group": GroupRecord(**asdict(size))} | ({"trained_by": size.workers} if trains else {})
        add_trials(folder, trials, fresh=options.fresh, grid=loaded.model_dump(), **details)
        if left or not folder.thumbnails.exists():
            keep_thumbnails(folder, trials)
        audience.begins(trials, dataset, size, folder)
        if size:
            from bench.runner.expected import in_words
            from bench.runner.jobs import run_trials

            folder.forecast.unlink(missing_ok=True)  # of an earlier command
            if forecast:
                forecast.write(folder.forecast)
                audience.expects(in_words(forecast, left))
            with audience.watching(folder):
                failed = run_trials(
                    left,
                    folder,
                    size,
                    shard_size=options.shard_size,
                    tensorboard=options.tensorboard,
                    plugins=plugins,
                )
        if failed:
            audience.fails(folder, failed)
        some = any(trial.trial_id not in failed for trial in trials)
        return Finished(folder, failed, update_report(folder, again=bool(left)) if some else None)


def trials_of(options: RunOptions) -> tuple[list[Trial], Grid, str]:
    """The trials of a run, its grid with the data where every worker finds it, and the name of the data.

    Raises:
        BenchError: as `RunOptions.opened`; workers cannot have such parts of GPUs; or the data is wrong or too little.
    """
    from bench.data import count_channels, count_images, dataset_name, resolve_data
    from results.store.shards import evenly_spaced

    refuse_parts_of_gpus(options.workers, options.gpus_per_worker)
    grid = options.opened[0]
    data = resolve_data(grid.data)
    dataset = dataset_name(data)
    check_network(grid.model, grid.width, count_channels(data))
    evenly_spaced(count_images(data, "test"), grid.certify.images)
    grid = grid.model_copy(update={"data": data})
    trials = grid.trials(dataset)
    for trial in trials:  # a row may have a number of its own
        evenly_spaced(count_images(data, "train"), trial.train.images)
    _warn_of_late_decays(options.grid, trials)
    return trials, grid, dataset


def _warn_of_late_decays(grid: str, trials: Iterable[Trial]) -> None:
    late: dict[tuple[int, str], list[str]] = {}
    for trial in trials:
        if missed := [epoch for epoch in trial.train.decay_epochs if epoch >= trial.train.epochs]:
            late.setdefault((trial.train.epochs, str(missed)), []).append(trial.name)
    for (epochs, never), names in late.items():
        rows = ", ".join(dict.fromkeys(names))
        logger.warning("%s: decay_epochs = %s: not reached in %d epochs, of %s", grid, never, epochs, rows)


class _Notebook:
    """An audience that sees the progress alone, as `bench run` shows it."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet

    def asks_for_cost(self) -> bool:
        return not self.quiet

    def begins(self, trials: list[Trial], dataset: str, size: GroupSize | None, folder: RunFolder) -> None:
        pass

    def expects(self, cost: str) -> None:
        print(cost)

    def watching(self, folder: RunFolder) -> AbstractContextManager[None]:
        from rich.console import Console

        from bench.runner.display import shown

        return shown(folder, Console(force_jupyter=False), quiet=self.quiet)  # lines of text, as print writes them

    def fails(self, folder: RunFolder, failed: dict[str, str]) -> None:
        pass  # the error that follows tells
