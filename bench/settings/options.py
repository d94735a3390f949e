"""What a user asks of a run beside its grid: `bench run`, `bench submit` and `bench.run_grid` take the same."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationError

from bench.settings.grid import Grid, GridError, load_grid
from bench.settings.plugins import load_plugins
from results.store.folder import RunFolder, location
from results.store.record import Record, explain
from results.store.remote import RemotePath

if TYPE_CHECKING:
    from bench.settings.plugins import Plugin

AS_ONE = ("methods", "sigmas")
"""Lists that are one word of a command line, with commas."""


class RunOptions(Record):
    """The options of a run. Their descriptions are their help on the command line."""

    grid: Annotated[
        str, Field(description="smoke, lite, thesis, paper, ablation, contribution3, sensitivity, or a .toml file.")
    ]
    data: Annotated[
        str | None,
        Field(
            description="A data set by name (synthetic, cifar10, cifar100, svhn, mnist, fashion_mnist, a plugin's), a "
            "folder of images, or a URL; the grid's where not given."
        ),
    ] = None
    out: Annotated[str | None, Field(description="Folder or URL (s3://…) of the run; runs/GRID if not given.")] = None
    workers: Annotated[
        int | None,
        Field(
            ge=1,
            description="Workers of each trial; by default as before, else its share of the GPUs, at most those of one "
            "node, or two on CPUs.",
        ),
    ] = None
    cpus_per_worker: Annotated[
        float | None, Field(ge=0.1, description="CPUs of a worker; its share of the node's where not given.")
    ] = None
    gpus_per_worker: Annotated[
        float | None,
        Field(ge=0, description="GPUs of a worker, at most 1; a part for trials of one worker. By default 1, if any."),
    ] = None
    shard_size: Annotated[int, Field(ge=1, description="Test images of a shard.")] = 16
    methods: Annotated[list[str] | None, Field(description="These methods or rows instead, comma-separated.")] = None
    sigmas: Annotated[
        list[float] | None,
        Field(description="These values of σ instead, comma-separated; pixels in [0, 1] (.25, not 64)."),
    ] = None
    set: Annotated[list[str], Field(description="Change a setting: certify.n=1000; repeatable.")] = []
    beacon: Annotated[
        str | None,
        Field(description="A value published after the weights: with them it seeds the certification noise."),
    ] = None
    full: Annotated[bool, Field(description="Estimate also where the selected class is not the label.")] = False
    fresh: Annotated[bool, Field(description="Delete the run that is there, and start over.")] = False
    tensorboard: Annotated[bool, Field(description="Keep Tune's files in RUN/tensorboard.")] = False
    plugins: Annotated[
        list[str],
        Field(description="A file or module with methods, networks or data of your own; its code is run; repeatable."),
    ] = []

    @classmethod
    def of(cls, **given: Any) -> RunOptions:
        """The options as a user gives them: lists of names or numbers may be one text with commas.

        Raises:
            GridError: an unknown option, or a value that is not allowed.
        """
        given = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
        for name in AS_ONE:
            if isinstance(given.get(name), str):
                given[name] = [part.strip() for part in given[name].split(",")]
        try:
            given["sigmas"] = given.get("sigmas") and [float(sigma) for sigma in given["sigmas"]]
        except ValueError:
            text = ",".join(map(str, given["sigmas"]))
            raise GridError(f"--sigmas {text!r}: must be numbers separated by commas, such as .25,.5") from None
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise GridError(explain(error, cls)) from None

    @property
    def folder(self) -> RunFolder:
        """Of the run.

        Raises:
            GridError: TensorBoard's files are wanted in a store.
        """
        folder = RunFolder(location(self.out or Path("runs") / Path(self.grid).stem))
        if self.tensorboard and isinstance(folder.path, RemotePath):
            raise GridError(f"--tensorboard: must have a run in a folder, not at {folder.path}")
        return folder

    @cached_property
    def opened(self) -> tuple[Grid, list[Plugin]]:
        """The grid with its changes, once the plugins are loaded that it may need.

        Raises:
            PluginError, GridError: as `load_plugins` and `load_grid`.
        """
        plugins = load_plugins(self.plugins)
        changes = [*self.set, *(["certify.skip_misclassified=false"] if self.full else [])]
        if self.beacon is not None:
            changes.append(f"certify.beacon={json.dumps(self.beacon)}")
        grid = load_grid(self.grid, changes, data=self.data, methods=self.methods, sigmas=self.sigmas)
        return grid, plugins

    def arguments(self) -> list[str]:
        """The command line of `bench run` that stands for these options."""
        return [word for name in type(self).model_fields for word in self._words(name)]

    def _words(self, name: str) -> Iterable[str]:
        value, option = getattr(self, name), option_of(name)
        if value == type(self).model_fields[name].default:
            return []
        if value is True:
            return [option]
        values = [",".join(map(str, value))] if name in AS_ONE else value if isinstance(value, list) else [value]
        return [f"{option}={each}" for each in values]


def option_of(name: str) -> str:
    """How a field is spelt on the command line: one --plugin for each of the plugins."""
    return "--plugin" if name == "plugins" else f"--{name.replace('_', '-')}"
