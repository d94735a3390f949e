"""Which rows of a run are a sweep: the same method and settings, but for one option of the objective.

They are found by what their trials were told to do, whatever the grid calls them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from results.analysis.groups import Group

Options = Mapping[str, Any]
_OF_A_ROW = {"name", "sigma", "seed", "options", "data"}
"""Settings in which the trials of a sweep may differ, besides the option; `data` says where the images are."""
_LARGEST = 1e300  # NaN is not below it either


@dataclass(frozen=True)
class Sweep:
    """Rows of one method at one σ that differ in one option."""

    method: str
    """That trains them."""
    option: str
    sigma: float
    base: float
    """The option's value in the row from which all the method's sweeps at this σ set out."""
    rows: tuple[tuple[float, Group], ...]
    """The option's value and the row that has it, rising; the base among them."""


def find_sweeps(groups: Iterable[Group]) -> list[Sweep]:
    """The sweeps among the rows of a run, by method, option and σ, the first two in the order of the rows.

    Of a method at a σ, the base is the row from which most others differ in exactly one option, the first where several
    are; those others are its sweeps. An option counts where both rows spell it and it is a number. Of several recipes
    (training, network, data, certification), that with most such rows is taken.
    """
    recipes: dict[str, dict[str, dict[float, list[tuple[Options, Group]]]]] = {}
    for group in groups:
        settings = _settings_of(group)
        if settings is None:
            continue
        method, recipe = str(settings["method"]), _text({k: v for k, v in settings.items() if k not in _OF_A_ROW})
        at_sigma = recipes.setdefault(method, {}).setdefault(recipe, {}).setdefault(group.sigma, [])
        at_sigma.append((settings["options"], group))
    found = []
    for method, by_recipe in recipes.items():
        sweeps = [
            [sweep for sigma, rows in sorted(at.items()) for sweep in _at_sigma(method, sigma, rows)]
            for at in by_recipe.values()
        ]
        best = max(sweeps, key=lambda each: sum(len(sweep.rows) - 1 for sweep in each))
        options = list(dict.fromkeys(sweep.option for sweep in best))
        found += sorted(best, key=lambda sweep: (options.index(sweep.option), sweep.sigma))
    return found


def _at_sigma(method: str, sigma: float, rows: list[tuple[Options, Group]]) -> list[Sweep]:
    """The sweeps from the base that has most."""
    from_each = [_from(base, own, method, sigma, rows) for base, own in rows]
    return max(from_each, key=lambda sweeps: sum(len(sweep.rows) - 1 for sweep in sweeps))


def _from(base: Options, own: Group, method: str, sigma: float, rows: list[tuple[Options, Group]]) -> list[Sweep]:
    values: dict[str, dict[float, Group]] = {}
    for options, group in rows:
        option = _only_difference(base, options)
        if option is not None:
            values.setdefault(option, {float(base[option]): own}).setdefault(float(options[option]), group)
    return [
        Sweep(method, option, sigma, float(base[option]), tuple(sorted(by_value.items(), key=lambda item: item[0])))
        for option, by_value in values.items()
    ]


def _only_difference(one: Options, other: Options) -> str | None:
    """The option in which two rows differ, if it is one, both have it, and it is a number."""
    if one.keys() != other.keys():
        return None
    different = [name for name in one if one[name] != other[name]]
    if len(different) != 1 or not (_is_number(one[different[0]]) and _is_number(other[different[0]])):
        return None
    return different[0]


def _settings_of(group: Group) -> dict[str, Any] | None:
    """What the group's trials were told to do; None where they were not trained here, or not all told the same."""
    found = [json.loads(text) for text in group.trials["settings"]]
    first = found[0]
    if not isinstance(first.get("method"), str) or not isinstance(first.get("options"), dict):
        return None
    different = {_text({**settings, "seed": 0}) for settings in found}
    return first if len(different) == 1 else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def _text(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)
