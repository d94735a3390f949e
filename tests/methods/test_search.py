"""What methods say of the values over which their options are searched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pytest
from torch import Tensor

from bench.settings.grid import load_grid
from methods import METHODS, Among, Between, Method, RegistryError, TrainingStep, get_method, register_method

LAST = 1 - 2**-53


def test_numbers_by_factors_have_as_many_draws_below_their_middle_as_above() -> None:
    weights = Between(1.0, 100.0, log=True)
    assert [weights.at(share) for share in (0.0, 0.25, 0.5, LAST)] == [1.0, 3.16, 10.0, 100.0]
    assert Between(0.2, 0.6).at(0.5) == 0.4


@pytest.mark.parametrize("log", [False, True])
def test_whole_numbers_stay_whole_and_reach_both_ends(log: bool) -> None:
    drawn = [Between(1, 4, log=log).at(share / 1000) for share in range(1000)]
    assert {type(value) for value in drawn} == {int}
    counts = {value: drawn.count(value) for value in sorted(drawn)}
    assert list(counts) == [1, 2, 3, 4]
    if not log:
        assert set(counts.values()) == {250}
    else:
        assert counts[1] > counts[2] > counts[3] > counts[4]


def test_one_of_several_is_as_likely_as_the_next() -> None:
    drawn = [Among(("a", "b", "c")).at(share / 300) for share in range(300)]
    assert [drawn.count(value) for value in "abc"] == [100] * 3
    assert Among((True, False)).at(LAST) is False


@pytest.mark.parametrize(("low", "high", "log"), [(1, 1, False), (2.0, 1.0, False), (0.0, 1.0, True)])
def test_a_range_that_is_none_is_refused(low: float, high: float, log: bool) -> None:
    with pytest.raises(ValueError, match="must rise"):
        Between(low, high, log=log)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_takes_all_values_over_which_it_is_searched(name: str) -> None:
    for option, values in METHODS[name].search.items():
        for share in (0.0, 0.3, 0.6, LAST):
            get_method(name, **{option: values.at(share)})
        ends = values.values if isinstance(values, Among) else (values.low, values.high)
        assert {type(end) for end in ends} == {type(getattr(get_method(name), option))}


@pytest.mark.parametrize("grid", ["lite", "thesis", "paper"])
def test_the_published_recipes_are_among_what_is_searched(grid: str) -> None:
    for trial in load_grid(grid).trials():
        for option, values in trial.objective.search.items():
            value = getattr(trial.objective, option)
            if isinstance(values, Among):
                assert value in values.values
            else:
                assert values.low <= value <= values.high, (trial.trial_id, option)


def test_a_search_of_what_is_no_option_or_of_another_type_is_refused_where_the_method_is_registered() -> None:
    def register(space: Mapping[str, Between | Among]) -> None:
        @register_method("searched")
        @dataclass(frozen=True, kw_only=True)
        class Searched(Method):
            title: ClassVar[str] = "Searched"
            source: ClassVar[str] = "a test"
            search: ClassVar[Mapping[str, Between | Among]] = space
            strength: float = 1.0

            def training_loss(self, step: TrainingStep) -> Tensor:
                return step.train(step.noise).mean()

    with pytest.raises(RegistryError, match="options of its own, each Between or Among values: 'weight' is none"):
        register({"weight": Between(1.0, 2.0)})
    with pytest.raises(RegistryError, match=r"must search strength among values of the type of its default, 1\.0"):
        register({"strength": Between(1, 2)})
