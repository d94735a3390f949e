"""A search for the options of methods: its trials, run on a cluster; its files; the grid that comes of it.

Every rung of a configuration is a trial of its own in the folder of the search, on images held out of the training set:
what is finished there is found again, by the settings of the trial.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
from pydantic import ValidationError

from bench.data import count_channels, count_images, dataset_name, held_out_of, resolve_data
from bench.machine.resources import refuse_parts_of_gpus, stall_seconds, usable_cores
from bench.runner.grid import Audience
from bench.runner.halving import FAILED, Halving, Step, least_budget, rung_epochs
from bench.runner.stages import unfinished
from bench.runner.task import trial_task
from bench.runner.trial_work import RungWork
from bench.settings.grid import GridError
from bench.settings.options import RunOptions
from bench.settings.plugins import Plugin
from bench.settings.registries import check_network
from bench.settings.trial import Trial
from bench.settings.tuning import Space, TuneOptions, tuned_grid, with_options
from results.store.description import RunError, add_trials, check_room
from results.store.folder import RunFolder, refresh, write_text
from results.store.merge import merge_shards
from results.store.record import explain
from results.store.records import DivergedRecord, GroupRecord, RunRecord, StateRecord, TrainingRecord
from results.store.rows import SearchRow, table_of
from results.store.schema import SEARCH, with_identity, write_table
from results.store.settings import CertifySettings, Option
from results.toml import to_toml

if TYPE_CHECKING:
    from cluster import GroupSize, Job

LONGEST_NAME = 40
"""Of a row, in the name of its configurations."""

Cost = Callable[[Trial], float]
"""What the training of a trial costs, from its first epoch on, in the unit of the budget; as
`bench.audit.search_cost.training_cost`."""


@dataclass(frozen=True)
class Found:
    """What came of a step."""

    acr: float | None
    """None: the training could not go on."""
    error: float | None = None
    """Standard error of ACR over the images."""
    train_seconds: float = 0.0
    """From the first epoch on."""
    certify_seconds: float = 0.0
    reason: str | None = None


class Search:
    """The search for the options of one row of the grid at one σ."""

    def __init__(self, trial: Trial, options: TuneOptions, cost: Cost) -> None:
        """Args:
        trial: the row's own at this σ, on the data of the search.
        """
        self.trial = trial
        self.space = Space(trial, options.seed)
        self.epochs = rung_epochs(trial.train.epochs)
        self.found: dict[Step, Found] = {}
        self._cost = cost
        self._costs: dict[Step, float | None] = {}
        self.halving = Halving(len(self.epochs), options.budget, self.cost, options.parallel)

    def at(self, step: Step) -> Trial:
        """The trial of a step."""
        options = self.space.options(step.number)
        assert options is not None
        epochs = self.epochs[step.rung]
        return with_options(self.trial, options).model_copy(
            update={
                "name": f"{self.trial.name[:LONGEST_NAME]}-{step.number}-{epochs}",
                "train": self.trial.train.model_copy(update={"epochs": epochs}),
            }
        )

    def below(self, step: Step) -> Trial | None:
        """The trial from whose last epoch that of a step goes on. None on the first rung, and where there is a teacher:
        it is trained as long as its student, and so another on every rung."""
        if step.rung == 0 or self.trial.teacher:
            return None
        return self.at(step._replace(rung=step.rung - 1))

    def cost(self, step: Step) -> float | None:
        """Of a step; None: there is no such configuration."""
        if step not in self._costs:
            some = self.space.options(step.number) is not None
            self._costs[step] = self._cost_of(step) if some else None
        return self._costs[step]

    def _cost_of(self, step: Step) -> float:
        below = self.below(step)
        return self._cost(self.at(step)) - (self._cost(below) if below else 0.0)

    def note(self, step: Step, found: Found) -> None:
        """A step is done."""
        self.found[step] = found
        self.halving.results[step] = FAILED if found.acr is None else found.acr

    def chosen(self) -> dict[str, Option]:
        """The best options so far; those of the grid where no training came to an end."""
        best = self.halving.best()
        options = self.space.options(best.number if best else 0)
        assert options is not None
        return options

    def plan(self) -> Halving:
        """The search with results that are made up: about so many steps, and so much of the budget, it will take."""
        planned = Halving(len(self.epochs), self.halving.budget, self.cost, self.halving.ahead)
        while steps := planned.decide():
            for step in steps:
                planned.results[step] = made_up(step.number)
        return planned

    def rows(self) -> list[SearchRow]:
        """Of search.parquet: the steps that are done, in their order."""
        best = self.halving.best()
        return [
            self._row(order, step, self.found[step], chosen=step == best)
            for order, step in enumerate(self.halving.steps)
            if step in self.found
        ]

    def _row(self, order: int, step: Step, found: Found, *, chosen: bool) -> SearchRow:
        below = step._replace(rung=step.rung - 1)
        earlier = self.found[below].train_seconds if self.below(step) else 0.0
        outcome = "promoted" if step._replace(rung=step.rung + 1) in self.halving.steps else "stopped"
        if found.acr is None:
            outcome = "failed"
        elif step.rung == len(self.epochs) - 1:
            outcome = "finished"
        return SearchRow(
            method=self.trial.name,
            sigma=self.trial.sigma,
            order=order,
            configuration=step.number,
            options=json.dumps(self.space.options(step.number)),
            rung=step.rung,
            epochs=self.epochs[step.rung],
            cost=self.cost(step) or 0.0,
            outcome=outcome,  # type: ignore[arg-type]  # one of the words above
            chosen=chosen,
            acr=found.acr,
            acr_error=found.error,
            seconds=max(0.0, found.train_seconds - earlier) + found.certify_seconds,
            reason=found.reason,
            trial_id=self.at(step).trial_id,
        )


def made_up(number: int) -> float:
    """A number in [0, 1) for each configuration, in no order."""
    return number * (math.sqrt(5) - 1) / 2 % 1


@dataclass(frozen=True)
class Tuned:
    """How a search ended."""

    folder: RunFolder
    searches: list[Search]
    failed: dict[str, str]
    """Trials that failed for what happened around them, each with the reason: the same command tries them again."""


class TuneAudience(Audience, Protocol):
    """Who is told how a search goes."""

    def plans(self, searches: list[Search]) -> None:
        """These are wanted; nothing has started yet."""


def searches_of(options: RunOptions, tune: TuneOptions, cost: Cost) -> list[Search]:
    """The searches of a grid: one for each of its rows whose method has something to search, at each σ, with the first
    seed.

    Raises:
        BenchError: as `RunOptions.opened`; workers cannot have such parts of GPUs; the data is wrong or too little;
            nothing is to be searched; the budget is too small for one training to come to its end.
    """
    refuse_parts_of_gpus(options.workers, options.gpus_per_worker)
    grid = options.opened[0]
    data = held_out_of(resolve_data(grid.data), tune.held_out)
    check_network(grid.model, grid.width, count_channels(data))
    left = count_images(data, "train")
    held = grid.model_copy(
        update={"data": data, "seeds": grid.seeds[:1], "certify": _certification(grid.certify, tune)}
    )
    found = []
    for trial in held.trials(dataset_name(data)):
        if trial.objective.search:
            images = trial.train.images
            train = trial.train.model_copy(update={"images": None if images and images >= left else images})
            found.append(Search(trial.model_copy(update={"train": train}), tune, cost))
    if not found:
        raise GridError(f"{', '.join(grid.methods)}: must have a method that says which of its options are searched")
    least, search = max(
        ((least_budget(len(search.epochs), search.cost), search) for search in found), key=lambda pair: pair[0]
    )
    if tune.budget < least:
        raise GridError(
            f"--budget = {tune.budget:g}: must be at least {math.ceil(least)}, with which one configuration of "
            f"{search.trial.name} at σ = {search.trial.sigma:g} is trained to its end"
        )
    return found


def _certification(own: CertifySettings, tune: TuneOptions) -> CertifySettings:
    changed = {"n": tune.n, "images": None, "skip_misclassified": True}
    try:
        return CertifySettings.model_validate(own.model_dump() | changed)
    except ValidationError as error:
        raise GridError(f"--n: {explain(error, CertifySettings)}") from None


def folder_of(options: RunOptions) -> RunFolder:
    """Of the search: as `RunOptions.folder`, but beside the run of the same grid."""
    folder = options.folder
    return folder if options.out else RunFolder(folder.path.with_name(f"{folder.path.name}-tuning"))


def tune_grid(
    options: RunOptions,
    tune: TuneOptions,
    searches: list[Search],
    *,
    address: str | None,
    allow_unauthenticated: bool,
    audience: TuneAudience,
) -> Tuned:
    """Do what is left of the searches, and write search.parquet and, once all have ended, tuned.toml.

    Raises:
        BenchError, OSError, ClusterError: wrong options, data, folder or cluster, in one sentence each.
    """
    from results.store.lock import RunLock, end_command

    grid, plugins = options.opened
    stall_seconds()
    folder = folder_of(options)
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        stack.enter_context(RunLock(folder, on_lost=end_command))
        check_room(folder, fresh=options.fresh)
        if not options.fresh:
            _refuse_run(folder)
        audience.plans(searches)

        def join() -> GroupSize:
            from bench.runner.jobs import group_of
            from cluster import connected

            joining = connected(address, allow_unauthenticated=allow_unauthenticated, cores=usable_cores())
            stack.enter_context(joining)
            return group_of(options, folder, len(searches) * tune.parallel, trains=True)

        size = join() if options.fresh else None  # before anything is deleted
        add_trials(folder, [], fresh=options.fresh, grid=grid.model_dump())
        going = _Going(searches, folder, options.shard_size, plugins, _description(tune))
        jobs = going.begin()
        if jobs:
            from bench.runner.jobs import ended_elsewhere
            from cluster import run_jobs

            size = size or join()
            add_trials(folder, [], group=GroupRecord(**asdict(size)), trained_by=size.workers)
        audience.begins([search.trial for search in searches], searches[0].trial.dataset, size, folder)
        if size:
            with audience.watching(folder):
                failed = run_jobs(jobs, RungWork(), size, stalled_after=stall_seconds(), more=going.ended)
                failed = dict.fromkeys(going.unseen, ended_elsewhere(folder)) | failed
        if failed:
            audience.fails(folder, failed)
        going.write()
        if all(search.halving.ended for search in searches):
            chosen: dict[str, dict[float, dict[str, Option]]] = {}
            for search in searches:
                chosen.setdefault(search.trial.name, {})[search.trial.sigma] = search.chosen()
            write_text(folder.tuned, _head(tune, searches) + to_toml(tuned_grid(grid, chosen).model_dump()))
    return Tuned(folder, searches, failed)


def _refuse_run(folder: RunFolder) -> None:
    if folder.description.exists() and RunRecord.read(folder.description).trials and not folder.search.exists():
        raise RunError(f"{folder.path} holds a run, not a search: give --out another folder")


def _description(tune: TuneOptions) -> dict[str, str]:
    return {name: str(value) for name, value in tune.model_dump().items()}


def _head(tune: TuneOptions, searches: Sequence[Search]) -> str:
    methods = ", ".join(dict.fromkeys(search.trial.name for search in searches))
    return (
        f"# Options of {methods} by bench tune: the best ACR on {tune.held_out} images held out of the training set\n"
        f"# (n = {tune.n}), with a budget of {tune.budget:g} each; search.parquet beside this file has every trial.\n"
    )


@dataclass
class _Going:
    """Searches while their trials run: what is decided becomes jobs, what is done leads to what is decided next."""

    searches: list[Search]
    run: RunFolder
    shard_size: int
    plugins: Sequence[Plugin]
    description: dict[str, str]
    awaited: dict[str, list[tuple[Search, Step]]] = field(default_factory=dict)
    """Steps that wait for the end of a job, by its name."""
    submitted: set[str] = field(default_factory=set)
    unseen: set[str] = field(default_factory=set)
    """Trials whose jobs ended, and of which nothing is here: they failed, or wrote elsewhere."""

    def begin(self) -> list[Job]:
        """The first jobs; what the folder has already is taken from there."""
        self.write()  # so that the folder is known for one of a search before it has a trial
        jobs = [job for search in self.searches for job in self._go_on(search)]
        self.write()
        return jobs

    def ended(self, name: str) -> list[Job]:
        """The jobs that follow the end of one."""
        jobs: list[Job] = []
        for search, step in self.awaited.pop(name, []):
            trial = search.at(step)
            for part in (*trial.needed, trial):
                refresh(self.run.trial(part.trial_id))
            if self._look(search, step):
                jobs += self._go_on(search)
            else:
                self.unseen.add(name)
        self.write()
        return jobs

    def write(self) -> None:
        """Write search.parquet, of what is known now."""
        rows = [row for search in self.searches for row in search.rows()]
        write_table(self.run.search, table_of(rows, with_identity(SEARCH, **self.description)))

    def _go_on(self, search: Search) -> list[Job]:
        jobs: list[Job] = []
        while steps := search.halving.decide():
            for step in steps:
                if not self._look(search, step):
                    jobs += self._jobs(search, step)
        return jobs

    def _look(self, search: Search, step: Step) -> bool:
        """Whether a step is done, as its files say; then what came of it is noted."""
        trial = search.at(step)
        folder = self.run.trial(trial.trial_id)
        if folder.diverged.exists():
            search.note(step, Found(None, reason=DivergedRecord.read(folder.diverged).reason))
            return True
        if unfinished([trial], self.run):
            return False
        training = TrainingRecord.read(folder.training)
        rows = merge_shards(folder, trial.trial_id, trial, training)
        radii = rows["radius"].to_numpy() * rows["correct"].to_numpy(zero_copy_only=False)
        error = float(np.std(radii, ddof=1)) / math.sqrt(len(radii))
        seconds = training.train_seconds or 0.0, float(rows["seconds"].to_numpy().sum())
        search.note(step, Found(float(radii.mean()), error, *seconds))
        return True

    def _jobs(self, search: Search, step: Step) -> list[Job]:
        """Those of a step's trial and of what it needs, as far as nobody has them."""
        from cluster import Job  # Ray takes seconds to import, and what is finished needs none

        trial, below = search.at(step), search.below(step)
        add_trials(self.run, [trial])
        self.awaited.setdefault(trial.trial_id, []).append((search, step))
        before: dict[str, Trial] = {}
        if below:
            parts = zip([*trial.needed, trial], [*below.needed, below], strict=True)
            before = {part.trial_id: earlier for part, earlier in parts}
        left = unfinished([trial], self.run)
        task_of = partial(trial_task, run=self.run, shard_size=self.shard_size, plugins=self.plugins)
        jobs = []
        for name, (part, certify) in left.items():
            if name in self.submitted:
                continue
            self.submitted.add(name)
            StateRecord(state="waiting").write(self.run.trial(name).state)
            task = task_of(part, certify=certify, before=before.get(name))
            after = [each.trial_id for each in part.needed if each.trial_id in left or each.trial_id in self.submitted]
            jobs.append(Job(name, {**task}, task["log"], after))
        return sorted(jobs, key=lambda job: len(job.after))
