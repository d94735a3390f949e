"""What a report is about: a run, the rows of its tables, and how its numbers were measured."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from results.analysis.groups import Group, certified_groups
from results.report.caption import caption
from results.store.run import Run


@dataclass(frozen=True)
class Subject:
    """A run of which several tables are made, or tables, figures and a page: what all of them need is found once, when
    the first of them asks. They take it in the place of the run, which must not change meanwhile."""

    run: Run

    @classmethod
    def of(cls, given: Run | Subject) -> Subject:
        """That of a run; a subject is its own."""
        return given if isinstance(given, Subject) else cls(given)

    @cached_property
    def groups(self) -> list[Group]:
        """As `certified_groups` gives them, with its errors."""
        return certified_groups(self.run)

    @cached_property
    def caption(self) -> list[str]:
        """As `results.report.caption.caption` gives it."""
        return caption(self.run)
