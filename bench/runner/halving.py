"""Asynchronous successive halving (ASHA; Li et al. 2020, algorithm 2): which configuration is trained next, how far.

Every decision follows from the results of the steps before it in the order in which they were decided, never from the
order in which they end: the same results give the same search, on any machine and after any interruption.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

REDUCTION = 3
"""η: one in three of a rung goes on to the next, where it is trained three times as long."""
RUNGS = 3
FAILED = -math.inf
"""The result of a training that could not go on."""


class Step(NamedTuple):
    """A configuration on a rung."""

    number: int
    """Of the configuration, from 0."""
    rung: int
    """From 0."""


def rung_epochs(epochs: int) -> list[int]:
    """The epochs after which configurations are compared, of a training of so many; rising, the last are all."""
    return sorted({math.ceil(epochs / REDUCTION**above) for above in range(RUNGS)})


@dataclass
class Halving:
    """A search; `results` is filled by whoever takes the steps."""

    rungs: int
    budget: float
    cost: Callable[[Step], float | None]
    """Of a step, beyond the rung below, in the unit of the budget; None: there is no such configuration."""
    ahead: int = 1
    """Steps that may be taken side by side: each is decided without the results of the `ahead` − 1 before it."""
    steps: list[Step] = field(default_factory=list)
    """That are decided, in order."""
    results: dict[Step, float] = field(default_factory=dict)
    """ACR of each, or `FAILED`."""
    spent: float = 0.0
    over: bool = False
    """Whether no more steps will be decided."""

    def decide(self) -> list[Step]:
        """The steps that can be decided with the results there are; they now are among `steps`."""
        before = len(self.steps)
        while not self.over and (step := self._next()):
            cost = self.cost(step)
            if cost is None or self.spent + cost > self.budget:
                self.over = True
            else:
                self.steps.append(step)
                self.spent += cost
        return self.steps[before:]

    def _next(self) -> Step | None:
        """The next step; None where it depends on results that are not there yet, or there is none."""
        for known in range(max(0, len(self.steps) - self.ahead + 1), len(self.steps) + 1):
            seen = self.steps[:known]
            if any(step not in self.results for step in seen):
                return None
            if step := self._promoted(seen) or self._new():
                return step
        self.over = True
        return None

    def _promoted(self, seen: list[Step]) -> Step | None:
        """The best of a rung's best third that has not gone on, of the highest rung that has one."""
        for rung in reversed(range(self.rungs - 1)):
            ranked = sorted((step for step in seen if step.rung == rung), key=self._rank)
            for step in ranked[: len(ranked) // REDUCTION]:
                above = Step(step.number, rung + 1)
                if above not in self.steps and self.results[step] != FAILED:
                    return above
        return None

    def _new(self) -> Step | None:
        step = Step(sum(step.rung == 0 for step in self.steps), 0)
        return None if self.cost(step) is None else step

    def _rank(self, step: Step) -> tuple[float, int]:
        return -self.results[step], step.number

    @property
    def ended(self) -> bool:
        """Whether all is decided and done."""
        return self.over and all(step in self.results for step in self.steps)

    def best(self) -> Step | None:
        """Of the highest rung that any training reached, the configuration of the largest ACR, the first of several;
        None where none could be trained."""
        reached = [step for step in self.results if self.results[step] != FAILED]
        return min(reached, key=lambda step: (-step.rung, *self._rank(step)), default=None)


def least_budget(rungs: int, cost: Callable[[Step], float | None]) -> float:
    """What a search costs until one configuration is trained to its end, where each is worse than the one before."""
    search = Halving(rungs, math.inf, cost)
    while not search.over and not any(step.rung == rungs - 1 for step in search.steps):
        for step in search.decide():
            search.results[step] = -step.number
    return search.spent
