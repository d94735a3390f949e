"""The options of `bench.settings.options.RunOptions` as those of a command."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Collection
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from bench.settings.options import AS_ONE, RunOptions, option_of


def takes_run_options(
    *, grid_required: bool, without: Collection[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator: the command takes the options of a run, those that it goes `without` apart, before its own, and is
    handed those that were given as `given`, by name."""
    names = [name for name in RunOptions.model_fields if name not in without]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def called(**values: Any) -> None:
            given = {name: values.pop(name) for name in names}
            defaults = {name: field.default for name, field in RunOptions.model_fields.items()}
            given = {name: value for name, value in given.items() if value is not None and value != defaults[name]}
            command(given, **values)

        hints = get_type_hints(command, include_extras=True)
        own = [
            parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
            for name, parameter in inspect.signature(command).parameters.items()
            if name != "given"
        ]
        shared = [_parameter(name, required=name == "grid" and grid_required) for name in names]
        called.__name__, called.__doc__ = command.__name__, command.__doc__
        called.__signature__ = inspect.Signature([*shared, *own])  # type: ignore[attr-defined]  # typer reads it
        called.__annotations__ = {parameter.name: parameter.annotation for parameter in [*shared, *own]}
        return called

    return decorate


def _parameter(name: str, *, required: bool) -> inspect.Parameter:
    """A field as typer wants it: its bounds and its description are the option's."""
    field = RunOptions.model_fields[name]
    kind: Any = next((part for part in get_args(field.annotation) if part is not types.NoneType), field.annotation)
    if name in AS_ONE:
        kind = str
    elif get_origin(field.annotation) is list:
        kind = list[str]
    least = next((bound.ge for bound in field.metadata if hasattr(bound, "ge")), None)
    spellings = [option_of(name), *([option_of(name).removesuffix("s")] if name in AS_ONE else [])]  # of one, --method
    option = typer.Option(*spellings, help=field.description, min=least)
    if kind is bool:
        annotation: Any = Annotated[bool, option]
    elif required:
        annotation = Annotated[kind, option]
    else:
        annotation = Annotated[kind | None, option]
    default: Any = inspect.Parameter.empty if required else False if kind is bool else None
    if isinstance(field.default, int) and kind is int:
        default = field.default  # which the help then shows
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
