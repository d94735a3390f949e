"""Asynchronous successive halving: what it decides, from made-up results."""

from __future__ import annotations

import math
import random

import pytest

from bench.runner.halving import FAILED, Halving, Step, least_budget, rung_epochs

COSTS = [2.0, 2.0, 6.0]


def cost(step: Step) -> float:
    return COSTS[step.rung]


def finished(search: Halving, result: dict[Step, float], order: random.Random) -> Halving:
    """The search once all its steps are taken, which end in any order."""
    running: list[Step] = []
    while True:
        running += search.decide()
        assert len(running) <= search.ahead
        if not running:
            return search
        step = running.pop(order.randrange(len(running)))
        search.results[step] = result[step]


@pytest.fixture
def result(seed: int) -> dict[Step, float]:
    drawn = random.Random(seed)
    return {Step(number, rung): drawn.random() for number in range(200) for rung in range(3)}


def test_configurations_are_compared_after_a_third_of_the_epochs_and_a_ninth() -> None:
    assert rung_epochs(90) == [10, 30, 90]
    assert rung_epochs(10) == [2, 4, 10]
    assert rung_epochs(2) == [1, 2]
    assert rung_epochs(1) == [1]


def test_by_hand() -> None:
    """The order of Li et al.'s algorithm 2 with one worker, where each configuration is worse than the one before."""
    search = Halving(3, 30.0, cost)
    falling = {Step(number, rung): 1.0 - number / 100 for number in range(9) for rung in range(3)}
    done = finished(search, falling, random.Random(0))
    first, second, third = ([(number, 0) for number in part] for part in ((0, 1, 2), (3, 4, 5), (6, 7, 8)))
    assert done.steps == [*first, (0, 1), *second, (1, 1), *third, (2, 1), (0, 2)]
    assert done.spent == 30 == least_budget(3, cost)
    assert done.ended
    assert done.best() == (0, 2)


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_the_same_results_give_the_same_search_in_whatever_order_they_come(
    ahead: int, result: dict[Step, float]
) -> None:
    found = [finished(Halving(3, 120.0, cost, ahead), result, random.Random(order)) for order in range(20)]
    assert len({tuple(search.steps) for search in found}) == 1
    assert all(search.ended for search in found)


@pytest.mark.parametrize("ahead", [1, 3])
def test_a_larger_budget_goes_on_with_the_same_search(ahead: int, result: dict[Step, float]) -> None:
    small, large = (finished(Halving(3, budget, cost, ahead), result, random.Random(0)) for budget in (60.0, 120.0))
    assert large.steps[: len(small.steps)] == small.steps
    assert len(large.steps) > len(small.steps)


@pytest.mark.parametrize("ahead", [1, 4])
def test_no_budget_is_exceeded_and_every_step_stands_on_the_rung_below(ahead: int, result: dict[Step, float]) -> None:
    search = finished(Halving(3, 101.0, cost, ahead), result, random.Random(0))
    assert 101 - max(COSTS) < search.spent == sum(map(cost, search.steps)) <= 101
    assert len(set(search.steps)) == len(search.steps)
    for place, step in enumerate(search.steps):
        if not step.rung:
            continue
        rung = [before for before in search.steps[:place] if before.rung == step.rung - 1]
        better = [other for other in rung if result[other] > result[step._replace(rung=step.rung - 1)]]
        assert len(better) < len(rung) / 3


def test_what_failed_is_never_promoted_nor_chosen() -> None:
    result = {Step(number, rung): FAILED for number in range(50) for rung in range(3)}
    nothing = finished(Halving(3, 60.0, cost), result, random.Random(0))
    assert {step.rung for step in nothing.steps} == {0}
    assert nothing.best() is None
    result[Step(7, 0)] = 0.0
    assert finished(Halving(3, 60.0, cost), result, random.Random(0)).best() == (7, 0)


def test_a_higher_rung_is_chosen_before_a_larger_result_and_the_first_of_equals() -> None:
    search = Halving(2, math.inf, cost)
    search.results = {Step(0, 0): 0.9, Step(2, 1): 0.4, Step(1, 1): 0.4, Step(3, 1): 0.3}
    assert search.best() == (1, 1)


def test_a_search_ends_where_there_are_no_more_configurations(result: dict[Step, float]) -> None:
    for ahead in (1, 3):
        search = Halving(3, math.inf, lambda step: cost(step) if step.number < 9 else None, ahead)
        done = finished(search, result, random.Random(0))
        assert done.ended
        assert {step.number for step in done.steps} == set(range(9))
        assert any(step.rung == 2 for step in done.steps)
