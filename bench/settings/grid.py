"""A grid file -> the trials of a run. Everything a file can get wrong is refused here, before anything starts."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, Field, ValidationError, field_validator

from bench.settings.trial import Trial
from methods import METHODS, get_method
from results.errors import BenchError
from results.printable import shortened
from results.store.folder import AnyPath, read_json, refuse_devices
from results.store.record import Record, explain, nearest, validated
from results.store.settings import DEFAULT_WIDTH, CertifySettings, Option, PositiveInt, TrainSettings

Item = TypeVar("Item", str, int, float)
SHIPPED = ("smoke", "lite", "thesis", "paper", "ablation", "contribution3", "sensitivity")
MOST_SIGMA = 10.0
"""Of pixels in [0, 1], that somebody may mean; records may have more."""


class GridError(BenchError):
    """A grid that cannot be run; the message is one sentence for the user."""


def of_pixels(sigma: float) -> float:
    """σ as a user gives it.

    Raises:
        BenchError: it is one of pixels up to 255.
    """
    if sigma > MOST_SIGMA:
        raise BenchError(f"sigma = {sigma:g}: pixels are in [0, 1]: {sigma:g} of 255 is {sigma / 255:.2g}")
    return sigma


class RowSettings(Record):
    """What one row of the tables changes: options of the objective, decomposition, training settings."""

    method: str | None = None
    """The objective; the row's own name where not given."""
    decomposition: bool | None = None
    """Whether the classifier sits behind the linear decomposition; the method's own choice where not given."""
    decomposition_ratio: Annotated[float, Field(gt=0)] | None = None
    train: dict[str, Any] = {}
    options: dict[str, Option | dict[str, Option]] = {}
    """Options of the objective; a table keyed by σ gives each σ its own value."""

    @field_validator("options", mode="before")
    @classmethod
    def _one_value_or_one_per_sigma(cls, options: object) -> object:
        for name, value in options.items() if isinstance(options, dict) else ():
            values = value.values() if isinstance(value, dict) else [value]
            if not all(isinstance(each, Option) for each in values):
                raise ValueError(
                    f"{name} = {shortened(value)}: must be one value, or one per σ with the σ in quotes: "
                    '{ "0.25" = 20.0, "0.5" = 10.0 }'
                )
        return options


class Grid(Record):
    """Methods × σ × seeds, and the settings they share."""

    description: str = ""
    methods: list[str] = Field(min_length=1)
    sigmas: list[Annotated[float, Field(gt=0), AfterValidator(of_pixels)]] = Field(min_length=1)
    seeds: list[int] = Field(default=[0], min_length=1)
    data: str = "synthetic"
    model: str = "resnet110"
    width: PositiveInt = DEFAULT_WIDTH
    decomposition_ratio: Annotated[float, Field(gt=0)] = 0.2
    train: TrainSettings = TrainSettings()
    certify: CertifySettings = CertifySettings()
    rows: dict[str, RowSettings] = {}

    def trials(self, dataset: str = "") -> list[Trial]:
        """Every method × σ × seed, in the order of the file. `dataset` names the data in tables.

        Raises:
            GridError: an unknown method or option, or a value that the objective or the trial refuses.
        """
        trials = [
            self._trial(name, sigma, seed, dataset)
            for sigma in _distinct("sigmas", self.sigmas)
            for name in _distinct("methods", self.methods)
            for seed in _distinct("seeds", self.seeds)
        ]
        for name, row in self.rows.items():
            if name not in self.methods and name not in METHODS and row.method is None:
                raise GridError(f"rows.{name} is neither in methods nor a known method{nearest(name, METHODS)}")
        return trials

    def _trial(self, name: str, sigma: float, seed: int, dataset: str) -> Trial:
        row = self.rows.get(name, RowSettings())
        method = row.method or name
        try:
            objective = get_method(method)
        except ValueError as error:
            raise GridError(f"methods: {error}") from None
        # An ensemble's members are the trials of the member's own row; what its own row says comes on top.
        member = self.rows.get(objective.member_method or "", RowSettings())
        options = {key: _at_sigma(name, key, value, sigma) for key, value in (member.options | row.options).items()}
        choices = (row.decomposition, member.decomposition, objective.decomposition)
        decomposed = next(choice for choice in choices if choice is not None)
        ratio = row.decomposition_ratio or member.decomposition_ratio or self.decomposition_ratio
        train = self.train.model_dump() | member.train | row.train
        try:
            trial = Trial(
                name=name,
                method=method,
                options=options,
                sigma=sigma,
                seed=seed,
                data=self.data,
                dataset=dataset,
                model=self.model,
                width=self.width,
                decomposition_ratio=ratio if decomposed else None,
                train=TrainSettings.model_validate(train),
                certify=self.certify,
            )
        except ValidationError as error:
            raise GridError(f"rows.{name}: {explain(error, TrainSettings)}") from None
        if part := trial.never_begun:
            raise GridError(
                f"rows.{name}: {part.method} begins in epoch {part.objective.begins}, and train.epochs = "
                f"{trial.train.epochs} end before: change its options (rows.{name}.options), or train for longer"
            )
        return trial


def load_grid(
    source: str,
    changes: Iterable[str] = (),
    *,
    data: str | None = None,
    methods: list[str] | None = None,
    sigmas: list[float] | None = None,
) -> Grid:
    """A shipped grid by name, or a TOML file by path, with `--set` changes such as "certify.n=1000".

    Args:
        data, methods, sigmas: in place of the file's own.

    Raises:
        GridError: one sentence that names the file, the key, the value and what is allowed.
    """
    text = _read(source)
    raw = _parse(source, text)
    for change in changes:
        _apply(raw, change)
    instead = {"data": data, "methods": methods, "sigmas": sigmas}
    raw |= {key: value for key, value in instead.items() if value is not None}
    try:
        grid = Grid.model_validate(raw)
        grid.trials()
    except ValidationError as error:
        raise GridError(f"{source}: {explain(error, Grid)}") from None
    except GridError as error:
        raise GridError(f"{source}: {error}") from None
    return grid


def read_trial(path: AnyPath, beacon: str | None = None) -> Trial:
    """A trial from its JSON file.

    Args:
        beacon: in place of the file's own.

    Raises:
        FileNotFoundError: there is none.
        StoreError: not the settings of a trial; names the file, the key and the value.
    """
    values = read_json(path)
    if beacon is not None:
        certify = values.get("certify")
        values["certify"] = {**certify, "beacon": beacon} if isinstance(certify, dict) else {"beacon": beacon}
    return validated(Trial, values, path)


def _read(source: str) -> str:
    if source in SHIPPED:
        return (resources.files("bench") / "grids" / f"{source}.toml").read_text(encoding="utf-8")
    path = Path(source)
    if path.suffix != ".toml" and not path.exists():
        beside = f"{source}.toml"
        hint = f": did you mean {beside!r}?" if Path(beside).is_file() else nearest(source, SHIPPED)
        raise GridError(f"unknown grid {source!r}{hint or '; known: ' + ', '.join(SHIPPED) + ', or a .toml file'}")
    refuse_devices(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise GridError(f"{source}: cannot be read: {reason}") from None


def _parse(source: str, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise GridError(f"{source}: not a grid: it is nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError, or a number of thousands of digits
        raise GridError(f"{source}: not TOML: {error}") from None


def _apply(raw: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    if not equals or not key.strip():
        raise GridError(f"--set {change!r}: must be KEY=VALUE, such as certify.n=1000")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word is a string
    except (ValueError, RecursionError):
        raise GridError(f"--set {change!r}: is neither a word nor a value of TOML") from None
    *tables, last = key.strip().split(".")
    table = raw
    for name in tables:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise GridError(f"--set {change!r}: {name} is a value, not a table")
    table[last] = value


def _at_sigma(name: str, key: str, value: Option | Mapping[str, Option], sigma: float) -> Option:
    if not isinstance(value, Mapping):
        return value
    try:
        by_sigma = {float(text): choice for text, choice in value.items()}
    except ValueError:
        raise GridError(f"rows.{name}.options.{key}: the keys must be values of sigma, got {list(value)}") from None
    if sigma not in by_sigma:
        known = ", ".join(f"{known:g}" for known in by_sigma)
        raise GridError(f"rows.{name}.options.{key} has no value for sigma = {sigma:g}, only for {known}")
    return by_sigma[sigma]


def _distinct(key: str, values: list[Item]) -> list[Item]:
    if len(set(values)) < len(values):
        raise GridError(f"{key} = {values}: each may stand only once")
    return values
