"""What a user asks of a search beside the options of a run, and the configurations of a method that it draws."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, ValidationError

from bench.settings.grid import Grid, GridError, RowSettings
from bench.settings.trial import Trial
from methods import Among, Between
from results.store.record import Record, explain
from results.store.settings import Option, Seed

ATTEMPTS = 100
"""Draws in a row of which none is new and allowed, after which there are no more configurations."""


MOST = 1000
"""Configurations of a search; a budget for more would be better spent on longer trainings or several seeds."""


class TuneOptions(Record):
    """The options of a search. Their descriptions are their help on the command line."""

    budget: Annotated[
        float,
        Field(gt=0, description="Of each method and σ: passes of the training images, forward and backward."),
    ]
    held_out: Annotated[
        int, Field(ge=2, lt=2**32, description="Training images that are held out, evenly spaced, and certified.")
    ] = 500
    n: Annotated[int, Field(ge=1, lt=2**32, description="Noise samples of each of these.")] = 1000
    seed: Annotated[Seed, Field(description="Of the configurations that are drawn.")] = 0
    parallel: Annotated[
        int, Field(ge=1, le=10_000, description="Configurations of a method and σ that may train side by side.")
    ] = 1

    @classmethod
    def of(cls, **given: Any) -> TuneOptions:
        """The options as a user gives them.

        Raises:
            GridError: one is not allowed.
        """
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise GridError(f"--{explain(error, cls).replace('held_out', 'held-out')}") from None


class Space:
    """The configurations of a trial's method: those of the options that the method searches, by number. The first are
    the trial's own; the others are drawn, the same at every σ, none twice."""

    def __init__(self, trial: Trial, seed: int) -> None:
        self.values: Mapping[str, Between | Among] = trial.objective.search
        self._trial, self._seed = trial, seed
        self._found = [self._searched(trial)]
        self._draws = 0

    def options(self, number: int) -> dict[str, Option] | None:
        """Of the configuration of that number; None: there are not so many, or it would be one beyond `MOST`."""
        if number >= MOST:
            return None
        for _ in range(ATTEMPTS):
            if number < len(self._found):
                return self._found[number]
            self._draws += 1
            drawn = {name: values.at(self._share(name)) for name, values in self.values.items()}
            if drawn not in self._found and self._is_allowed(drawn):
                self._found.append(drawn)
        return self._found[number] if number < len(self._found) else None

    def _share(self, name: str) -> float:
        words = f"{self._seed} {self._trial.name} {name} {self._draws}"
        return int(hashlib.sha256(words.encode()).hexdigest()[:13], 16) / 16**13

    def _is_allowed(self, drawn: dict[str, Option]) -> bool:
        try:
            return with_options(self._trial, drawn).never_begun is None
        except ValidationError:
            return False

    def _searched(self, trial: Trial) -> dict[str, Option]:
        return {name: getattr(trial.objective, name) for name in self.values}


def with_options(trial: Trial, options: Mapping[str, Option]) -> Trial:
    """The trial with these options in place of its own.

    Raises:
        ValidationError: its method refuses them.
    """
    return Trial.model_validate(trial.model_dump() | {"options": {**trial.options, **options}})


def tuned_grid(grid: Grid, chosen: Mapping[str, Mapping[float, Mapping[str, Option]]]) -> Grid:
    """The grid with the options of its rows that were chosen, by row and σ."""
    rows = dict(grid.rows)
    for name, by_sigma in chosen.items():
        row = rows.get(name, RowSettings())
        options: dict[str, Option | dict[str, Option]] = dict(row.options)
        for option in dict.fromkeys(option for values in by_sigma.values() for option in values):
            own = options.get(option)
            kept = {str(float(sigma)): value for sigma, value in own.items()} if isinstance(own, dict) else {}
            options[option] = kept | {str(sigma): values[option] for sigma, values in by_sigma.items()}
        rows[name] = row.model_copy(update={"options": options})
    return grid.model_copy(update={"rows": rows})
