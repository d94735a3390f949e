"""A trial that this program can train: its settings (`results.store.settings`), and what follows from them."""

from __future__ import annotations

from dataclasses import fields
from functools import cached_property
from typing import Self

from pydantic import model_validator

from bench.settings.registries import are_known, check_network, code_of
from methods import METHODS, Method, get_method
from results.store.settings import NativeTrial, short_digest


class Trial(NativeTrial):
    """One method at one σ with one seed, whose method and network are known."""

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        if self.code and not are_known(self.method, self.model):
            raise ValueError(
                f"the method {self.method!r} or the network {self.model!r} is not of this program: give --plugin with "
                "the file or module that defines it"
            )
        check_network(self.model, self.width)
        objective = self.objective
        if objective.minibatches and self.train.batch < objective.copies:
            raise ValueError(f"train.batch = {self.train.batch}: must be at least copies = {objective.copies}")
        if objective.member_method and (self.seed + 1) * objective.members > 2**32:
            raise ValueError(
                f"seed = {self.seed}: must be below {2**32 // objective.members}: {objective.members} members have "
                "seeds of their own"
            )
        code = code_of(self.method, self.model)
        if self.code not in ("", code):
            raise ValueError(
                f"code = {self.code}: the method {self.method!r} or the network {self.model!r} has changed since, to "
                f"{code or 'one of this program'}: give --plugin with the file as it was, or run the trial anew"
            )
        object.__setattr__(self, "code", code)  # nobody has seen it yet
        return self

    def __hash__(self) -> int:
        return hash(self.trial_id)

    @cached_property
    def objective(self) -> Method:
        """The training objective, with the trial's options."""
        return get_method(self.method, **self.options)

    @property
    def images_per_step(self) -> int:
        """Images of one optimizer step, over all workers; each is seen in `copies` noise samples."""
        objective = self.objective
        return self.train.batch // objective.copies if objective.minibatches else self.train.batch

    @cached_property
    def members(self) -> tuple[Trial, ...]:
        """The trials whose models form this ensemble, in order; empty for a single model.

        Seeds are taken in blocks, so the first member of ensemble 0 is the ordinary trial with seed 0, and
        ensembles with different seeds share no member.
        """
        objective = self.objective
        method = objective.member_method
        if method is None:
            return ()
        known = {field.name for field in fields(METHODS.find(method))}
        options = {key: value for key, value in self.options.items() if key in known}
        shared = {"name": method, "method": method, "options": options, "code": code_of(method, self.model)}
        return tuple(
            self.model_copy(update=shared | {"seed": self.seed * objective.members + member})
            for member in range(objective.members)
        )

    @cached_property
    def teacher(self) -> Trial | None:
        """The trial whose votes on the training images this one learns from: the same settings at the σ that the method
        says, whatever σ this one has. One that the grid has already is the same trial."""
        objective = self.objective
        method = objective.teacher_method
        if method is None:
            return None
        plain: dict[str, object] = {"name": method, "method": method, "options": {}, "decomposition_ratio": None}
        return self.model_copy(update=plain | {"sigma": objective.teacher_sigma, "code": code_of(method, self.model)})

    @cached_property
    def needed(self) -> tuple[Trial, ...]:
        """The trials that must be trained before this one can be, in that order: members of an ensemble, a teacher, and
        what these need."""
        direct = [*self.members, *([self.teacher] if self.teacher else [])]
        return tuple(dict.fromkeys(needed for trial in direct for needed in (*trial.needed, trial)))

    @property
    def never_begun(self) -> Trial | None:
        """Of its members and itself, the first whose method begins only once the training has ended."""
        return next((part for part in (*self.members, self) if part.objective.begins >= part.train.epochs), None)

    @cached_property
    def training_id(self) -> str:
        """Hash of all that the weights depend on."""
        return short_digest(self._identity(without={"name", "certify"}))

    def _identity(self, without: set[str]) -> dict[str, object]:
        settings = super()._identity(without={*without, "options", *([] if self.code else ["code"])})
        objective = self.objective  # with its defaults, so that spelling one out changes nothing
        return settings | {"options": {key: _number(value) for key, value in vars(objective).items()}}


def _number(value: object) -> object:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
