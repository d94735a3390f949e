"""What `bench certify` and `predict` are told of models, from the words of a command line to models that are open."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from bench.cli.base import UserError

if TYPE_CHECKING:
    from bench.models.sources import Source
    from results.store.settings import ComposedTrial, Composition, ExternalTrial

Kind = TypeVar("Kind", "ExternalTrial", "ComposedTrial")


@dataclass(frozen=True)
class Part:
    """A smoothed classifier as the command line names it."""

    option: str
    model: str
    sigma: float | None
    """None: that of its training."""
    weights: str = ""
    """SHA-256, once it is opened."""

    def of(self, source: Source, denoiser: str | None) -> Part:
        """The part with what is known of its model."""
        known = replace(self, weights=source.weights)
        if source.trial is None:
            return replace(known, model=f"{denoiser} > {self.model}") if denoiser else known
        return replace(known, model=source.trial.model, sigma=source.trial.sigma if self.sigma is None else self.sigma)

    def stated(self) -> dict[str, object]:
        """As settings have it."""
        return {"model": self.model, "sigma": 1.0 if self.sigma is None else self.sigma, "weights": self.weights}

    def needs_sigma(self) -> str:
        """The beginning of a sentence that says when σ is needed."""
        own = self.option == "--model"
        return "--sigma: must be given" if own else f"{self.option} {self.model}: @SIGMA must be given"


@dataclass(frozen=True)
class Asked:
    """What a command line says of a model, or of several that are composed, and of the images."""

    parts: list[Part]
    """The model; or the selector, if there is one, and the classifiers."""
    composition: Composition | None
    """None: of one model."""
    data: str | None
    """None: that of a training."""
    denoiser: str | None
    name: str
    """Row of the tables, where no other is given."""
    seed: int = 0
    """Of the noise, likewise."""

    @classmethod
    def of(
        cls,
        model: str | None,
        classifiers: list[str],
        selector: str | None,
        sigma: float | None,
        data: str | None,
        denoiser: str | None,
    ) -> Asked:
        """What the options say.

        Raises:
            UserError: it is not one model or several; or a σ is no number.
            BenchError: a σ is one of pixels up to 255.
        """
        from bench.settings.grid import of_pixels

        if model is not None:
            if classifiers or selector:
                raise UserError("--model: give it alone, or --classifier MODEL@SIGMA twice or more in its place")
            own = None if sigma is None else of_pixels(sigma)
            return cls([Part("--model", model, own)], None, data, denoiser, "model")
        if len(classifiers) < 2:
            raise UserError("give --model, or --classifier MODEL@SIGMA twice or more")
        if sigma is not None:
            raise UserError(f"--sigma {sigma:g}: give each --classifier its own, as in {classifiers[0]}@{sigma:g}")
        selectors = [_part("--selector", selector)] if selector else []
        parts = [*selectors, *(_part("--classifier", text) for text in classifiers)]
        composition: Composition = "dual" if selector else "multi-scale"
        return cls(parts, composition, data, denoiser, composition)

    def settings(self, name: str | None, seed: int | None, **others: object) -> ExternalTrial | ComposedTrial:
        """Settings of a trial, as far as they are known.

        Raises:
            UserError: one of them is not allowed.
        """
        from results.store.settings import ComposedTrial, ExternalTrial

        general = {"name": self.name if name is None else name, "seed": self.seed if seed is None else seed, **others}
        stated = [part.stated() for part in self.parts]
        if self.composition is None:
            return _validated(ExternalTrial, general | stated[0])
        called = ", ".join(dict.fromkeys(part.model for part in self.parts))
        composed = {"composition": self.composition, "parts": stated, "model": called}
        return _validated(ComposedTrial, general | composed)

    def refuse_unsaid(self) -> None:
        """Before a model is opened, which takes torch and the user's own code.

        Raises:
            UserError: σ or the data is not given, and a model's name says that it is of no training of this program.
            DataError: the data is not there.
        """
        from bench.data import refuse_missing
        from bench.models.shelf import is_on_shelf
        from bench.models.sources import is_factory

        for part in self.parts:
            if self.denoiser is not None and part.sigma is None:
                raise UserError(f"{part.needs_sigma()} with --denoiser, which it tells the noise to remove")
        foreign = [part for part in self.parts if is_on_shelf(part.model) or is_factory(part.model)]
        _refuse_unknown(foreign, data_known=self.data is not None or len(foreign) < len(self.parts))
        if self.data is not None:
            refuse_missing(self.data)

    def opened(self) -> Opened:
        """The models, and what is known of them now.

        Raises:
            SourceError, CheckpointError: as `bench.models.sources.open_model`.
            UserError: a σ or the data was not given, and no training says it.
        """
        from bench.models.sources import open_model

        sources = [open_model(part.model, self.denoiser, part.sigma) for part in self.parts]
        data = self.data
        if data is None:
            data = next((source.trial.data for source in sources if source.trial), None)
        parts = [part.of(source, self.denoiser) for part, source in zip(self.parts, sources, strict=True)]
        _refuse_unknown(parts, data_known=data is not None)
        assert data is not None
        known = replace(self, parts=parts)
        if self.composition is None:
            [source] = sources
            known = replace(known, name=source.name)
            if source.trial:
                known = replace(known, name=source.trial.name, seed=source.trial.seed)
        return Opened(known, sources, data)


@dataclass(frozen=True)
class Opened:
    """Models that a command line names, and their data."""

    asked: Asked
    """With what is known of the models."""
    sources: list[Source]
    data: str

    def as_one(
        self, name: str | None, seed: int | None, **others: object
    ) -> tuple[ExternalTrial | ComposedTrial, Source]:
        """The settings of a trial, and its model, be it of several.

        Raises:
            UserError: as `Asked.settings`.
        """
        from bench.models.sources import joined

        settings = self.asked.settings(name, seed, **others)
        if self.asked.composition is None:
            return settings, self.sources[0]
        return settings, joined(self.sources, settings.name, settings.weights)


def _refuse_unknown(parts: list[Part], *, data_known: bool) -> None:
    """Raise UserError where σ of models from elsewhere, or the data, is not known."""
    needed = [part.needs_sigma() for part in parts if part.sigma is None]
    if needed or not data_known:
        what = needed[0] if needed else "--data: must be given"
        raise UserError(f"{what} for a model that was not trained by this program")


def _part(option: str, text: str) -> Part:
    from bench.models.shelf import is_on_shelf
    from bench.settings.grid import of_pixels

    model, at, noise = text.rpartition("@")
    if not at and "/" in text and not is_on_shelf(text):  # RUN/TRIAL, at the σ of its training
        return Part(option, text, None)
    try:
        sigma = float(noise)
    except ValueError:
        without = text if not at or "=" in noise else model  # = is of an option of the model
        raise UserError(f"{option} {text}: must be MODEL@SIGMA, as in {without}@0.25") from None
    return Part(option, model, of_pixels(sigma))


def _validated(kind: type[Kind], given: dict[str, object]) -> Kind:
    from pydantic import ValidationError

    from results.store.record import explain

    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise UserError(explain(error, kind)) from None
