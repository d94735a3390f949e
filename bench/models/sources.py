"""A model by the name that a user types: MODULE:FACTORY, or RUN/TRIAL.

A wrong name is refused before torch is imported.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.settings.grid import read_trial
from bench.settings.trial import Trial
from results.errors import BenchError
from results.store.folder import AnyPath, RunFolder, location
from results.store.records import TrainingRecord
from results.store.settings import (
    CertifiedTrial,
    ComposedTrial,
    ExternalTrial,
    ImportedTrial,
    NativeTrial,
    read_trial_settings,
)

if TYPE_CHECKING:
    from torch import nn


class SourceError(BenchError):
    """A model that cannot be had; the message is one sentence for the user."""


@dataclass(frozen=True)
class Source:
    """A model, and where it is from."""

    model: nn.Module
    """On the CPU, in evaluation mode."""
    where: str
    """What finds it again from any folder: MODULE:FACTORY, or RUN/TRIAL with an absolute path."""
    name: str
    """The factory's name or the trial's id."""
    weights: str
    """SHA-256."""
    trial: Trial | None
    """Settings under which this program trained the model, if it did."""
    training: TrainingRecord | None
    """The record of that training, if there was one."""
    parts: tuple[Source, ...] = ()
    """Of a composed classifier, in the order of `ComposedTrial.parts`; `model` has them as its modules."""


def open_model(text: str) -> Source:
    """The model that `text` names.

    Args:
        text: MODULE:FACTORY, a function without arguments that returns a torch.nn.Module, in a module that Python
            finds from the current folder; or RUN/TRIAL, a trained trial of a run, by its id or a beginning of it that
            no other trial has.

    Raises:
        SourceError, CheckpointError: no such model, or no usable one.
    """
    if ":" in text and "/" not in text:
        return _from_factory(text)
    path = location(text)
    run = RunFolder(path.parent.parent if path.parent.name == "trials" else path.parent)
    if not run.description.exists():
        raise SourceError(f"{text}: must be MODULE:FACTORY, or RUN/TRIAL with a run that holds run.json")
    return from_trial(run, _trial_named(run, path.name))


def joined(parts: Sequence[Source], name: str, weights: str) -> Source:
    """Models that a composed classifier consists of, as one source.

    Args:
        weights: as `ComposedTrial.weights`.
    """
    from torch import nn

    model = nn.ModuleList(part.model for part in parts)
    return Source(model, ", ".join(part.where for part in parts), name, weights, None, None, tuple(parts))


def from_trial(run: RunFolder, trial_id: str, factories: Collection[str] = ()) -> Source:
    """The model of a trained trial, its weights unchanged since.

    Args:
        factories: MODULE:FACTORY, as the user named them. A run says which of them its rows are of, but to run code
            because a file says so would let whoever made the file run theirs.

    Raises:
        SourceError: it is not trained, its model is to be had no longer, or it is of a factory that was not named.
        CheckpointError: its weights are not usable.
    """
    folder = run.trial(trial_id)
    if not folder.training.exists():
        raise SourceError(f"{folder.path}: its training is not finished")
    training, settings = TrainingRecord.read(folder.training), read_settings(run, trial_id)
    if isinstance(settings, ExternalTrial):
        source = _named_source(training.source or "", folder.training, factories)
        if source.weights != settings.weights:
            raise SourceError(f"{training.source}: its weights are no longer those that {trial_id} certified")
        return source
    if isinstance(settings, ComposedTrial):
        parts = [_named_source(text, folder.training, factories) for text in training.sources]
        for part, own in zip(parts, settings.parts, strict=True):
            if part.weights != own.weights:
                raise SourceError(f"{part.where}: its weights are no longer those that {trial_id} certified")
        return joined(parts, trial_id, settings.weights)
    assert isinstance(settings, Trial)
    from bench.models.checkpoint import load_verified

    assert training.num_classes is not None
    model = load_verified(run, settings, training.num_classes)
    where = str(run.path.absolute() / trial_id)
    return Source(model, where, trial_id, training.checkpoint_sha256, settings, training)


def _named_source(text: str, record: AnyPath, factories: Collection[str]) -> Source:
    """The model that a record names."""
    if ":" in text and "/" not in text:
        if text not in factories:
            raise SourceError(f"{record}: names code, {text}: give --model {text} to have it run")
        return _from_factory(text)
    place = location(text)
    run = RunFolder(place.parent)
    if not run.description.exists() or not isinstance(read_settings(run, place.name), Trial):
        raise SourceError(f"{record}: source = {text!r}: must be MODULE:FACTORY, or RUN/TRIAL of a trained trial")
    return from_trial(run, place.name)


def read_settings(run: RunFolder, trial_id: str) -> CertifiedTrial:
    """The settings of a trial of a run.

    Raises:
        StoreError: they are not settings of a trial that has a model.
        SourceError: they are of another version of this program.
    """
    path = run.trial(trial_id).settings
    settings = read_trial_settings(path)
    if isinstance(settings, ImportedTrial):
        raise SourceError(f"{path}: is of an imported log, which has no model")
    if isinstance(settings, NativeTrial):
        settings = read_trial(path)
    if settings.trial_id != trial_id:
        raise SourceError(f"{path}: was written by another version of this program, which names it otherwise")
    return settings


def _trial_named(run: RunFolder, name: str) -> str:
    ids = sorted(path.parent.name for path in run.path.glob("trials/*/trial.json"))
    found = [trial_id for trial_id in ids if trial_id.startswith(name)]
    if name in ids:
        return name
    if len(found) != 1:
        problem = f"several trials begin with {name!r}" if found else f"no trial begins with {name!r}; these are there"
        raise SourceError(f"{run.path}: {problem}: {', '.join(found or ids) or 'none'}")
    return found[0]


def _from_factory(text: str) -> Source:
    from torch import nn

    from bench.models.checkpoint import digest_of
    from bench.models.external import ModelError, frozen, guarded, reason_of

    module, _, factory = text.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        made = getattr(importlib.import_module(module), factory)
        model = made if isinstance(made, nn.Module) else made()
    except (Exception, SystemExit) as error:  # a user's own code may raise anything
        raise SourceError(f"{text}: {reason_of(error)}") from error
    if not isinstance(model, nn.Module):
        raise SourceError(f"{text}: must return a torch.nn.Module, gave {type(model).__name__}")
    try:
        with guarded("cannot be read"):
            model = frozen(model.cpu())
            weights = digest_of(model.state_dict())
    except ModelError as error:
        raise SourceError(f"{text}: {error}") from error
    return Source(model, text, factory, weights, None, None)
