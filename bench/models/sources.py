"""A model by the name that a user types: MODULE:FACTORY, RUN/TRIAL, or one off the shelf (`bench.models.shelf`).

A wrong name is refused before torch is imported.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.machine.reasons import reason_of
from bench.models.shelf import (
    SHELVES,
    ShelfName,
    factory_name,
    is_denoiser_on_shelf,
    is_on_shelf,
    shelf_name,
    split_options,
)
from bench.models.shelf import SourceError as SourceError  # of this module's own users
from bench.settings.grid import read_trial
from bench.settings.trial import Trial
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

BEHIND = " > "
"""Between denoiser and classifier, in a record."""


@dataclass(frozen=True)
class Source:
    """A model, and where it is from."""

    model: nn.Module
    """On the CPU, in evaluation mode."""
    where: str
    """What finds it again from any folder: MODULE:FACTORY, or RUN/TRIAL or SCHEME:FILE with an absolute path."""
    name: str
    """The factory's name, the trial's id, or the last part of a name off the shelf."""
    weights: str
    """SHA-256."""
    trial: Trial | None
    """Settings under which this program trained the model, if it did."""
    training: TrainingRecord | None
    """The record of that training, if there was one."""
    num_classes: int | None = None
    """Number of logits, where it is known before the model is asked."""
    parts: tuple[Source, ...] = ()
    """Of a composed classifier, in the order of `ComposedTrial.parts`; `model` has them as its modules."""


def load_model(text: str, sigma: float | None = None, *, denoiser: str | None = None) -> nn.Module:
    """The model that `text` names, on the CPU, in evaluation mode, from images (batch, channel, height, width) in
    [0, 1] to logits; whatever resizing and normalisation it needs happen inside, behind the noise.

        from bench import Smoothed, load_model
        smoothed = Smoothed(load_model("timm:vit_base_patch16_224", sigma=0.5))

    Args:
        text, denoiser: as `open_model` takes them; every `--model` and `--denoiser` takes the same.
        sigma: noise to certify it with, which `Smoothed` then takes from it; that of its training where not given.

    Raises:
        SourceError, CheckpointError: as `open_model`.
    """
    from torch import nn

    from bench.models.external import copied

    source = open_model(text, denoiser, sigma)
    model: Any = source.model
    if hasattr(model, "smoothing_sigma"):  # a module of the user's own that was loaded before, maybe for another sigma
        model = copied(model)
    model.smoothing_sigma = source.trial.sigma if sigma is None and source.trial else sigma
    model.num_logits = source.num_classes
    assert isinstance(model, nn.Module)
    return model


def open_model(text: str, denoiser: str | None = None, sigma: float | None = None) -> Source:
    """The model that `text` names, behind a denoiser if one is given.

    Args:
        text: MODULE:FACTORY, a function without arguments that returns a torch.nn.Module, in a module that Python
            finds from the current folder; or RUN/TRIAL, a trained trial of a run, by its id or a beginning of it that
            no other trial has; or one off the shelf: timm:NAME, torchvision:NAME, hf:NAME_OR_FOLDER, onnx:FILE.
        denoiser: ddpm:NAME_OR_FOLDER, or MODULE:FACTORY of a network from noisy images to clean ones (or to their
            noise: MODULE:FACTORY@predicts=noise), or of a diffusion model (MODULE:FACTORY@schedule=linear or cosine).
        sigma: of the noise, which decides the denoiser's time step.

    Raises:
        SourceError, CheckpointError: no such model, or no usable one.
    """
    if denoiser is not None:
        if sigma is None:
            raise SourceError(f"{denoiser}: a denoiser needs to be told sigma, the noise that it is to remove")
        _ = shelf_name(denoiser) if is_denoiser_on_shelf(denoiser) else factory_name(denoiser)
        return _behind(denoiser, sigma, open_model(text))
    if is_denoiser_on_shelf(text):
        raise SourceError(f"{text}: is a denoiser, which stands before a model: give it as --denoiser")
    if is_on_shelf(text):
        return _from_shelf(shelf_name(text))
    if is_factory(text):
        return _from_factory(text)
    return from_trial(*named_trial(text), sigma=sigma)


def is_factory(text: str) -> bool:
    """Whether a text that names nothing off the shelf has the form of MODULE:FACTORY; else it is RUN/TRIAL."""
    return ":" in text and "/" not in text


def named_trial(text: str) -> tuple[RunFolder, str]:
    """The run and the id of the trial that RUN/TRIAL names.

    Raises:
        SourceError: there is no such run, or not one such trial in it.
    """
    path = location(text)
    run = RunFolder(path.parent.parent if path.parent.name == "trials" else path.parent)
    if not run.description.exists():
        shelves = ", ".join(f"{scheme}:NAME" for scheme in SHELVES)
        raise SourceError(
            f"{text}: must be MODULE:FACTORY, the module from the current folder or installed and named without .py; "
            f"or RUN/TRIAL with a run that holds run.json; or one of {shelves}"
        )
    return run, _trial_named(run, path.name)


def joined(parts: Sequence[Source], name: str, weights: str) -> Source:
    """Models that a composed classifier consists of, as one source.

    Args:
        weights: as `ComposedTrial.weights`.
    """
    from torch import nn

    model = nn.ModuleList(part.model for part in parts)
    return Source(model, ", ".join(part.where for part in parts), name, weights, None, None, parts=tuple(parts))


def from_trial(run: RunFolder, trial_id: str, factories: Collection[str] = (), *, sigma: float | None = None) -> Source:
    """The model of a trained trial, its weights unchanged since.

    Args:
        factories: MODULE:FACTORY, as the user named them. A run says which of them its rows are of, but to run code
            because a file says so would let whoever made the file run theirs.
        sigma: of the noise, which decides a denoiser's time step; the trial's where not given.

    Raises:
        SourceError: it is not trained, its model is to be had no longer, or it is of a factory that was not named.
        CheckpointError: its weights are not usable.
    """
    folder = run.trial(trial_id)
    if not folder.training.exists():
        raise SourceError(f"{folder.path}: its training is not finished")
    training, settings = TrainingRecord.read(folder.training), read_settings(run, trial_id)
    if isinstance(settings, ExternalTrial):
        source = _named_source(training.source or "", folder.training, factories, sigma or settings.sigma)
        if source.weights != settings.weights:
            raise SourceError(f"{training.source}: its weights are no longer those that {trial_id} certified")
        return source
    if isinstance(settings, ComposedTrial):
        parts = [
            _named_source(text, folder.training, factories, own.sigma)
            for text, own in zip(training.sources, settings.parts, strict=True)
        ]
        for part, own in zip(parts, settings.parts, strict=True):
            if part.weights != own.weights:
                raise SourceError(f"{part.where}: its weights are no longer those that {trial_id} certified")
        return joined(parts, trial_id, settings.weights)
    assert isinstance(settings, Trial)
    from bench.models.checkpoint import load_verified

    assert training.num_classes is not None
    model = load_verified(run, settings, training.num_classes)
    where = str(run.path.absolute() / trial_id)
    return Source(model, where, trial_id, training.checkpoint_sha256, settings, training, training.num_classes)


def _named_source(text: str, record: AnyPath, factories: Collection[str], sigma: float) -> Source:
    """The model that a record names. What is off the shelf brings no code of its own."""
    denoiser, behind, classifier = text.partition(BEHIND)
    if behind:
        if is_denoiser_on_shelf(denoiser):
            denoiser = _moved(denoiser, factories)
        elif not {denoiser, factory_name(denoiser)[0]} & set(factories):
            raise SourceError(f"{record}: names code, {denoiser}: give --model {denoiser} to have it run")
        return _behind(denoiser, sigma, _named_source(classifier, record, factories, sigma))
    if is_on_shelf(text):
        return _from_shelf(shelf_name(_moved(text, factories)))
    if is_factory(text):
        if text not in factories:
            raise SourceError(f"{record}: names code, {text}: give --model {text} to have it run")
        return _from_factory(text)
    place = location(text)
    run = RunFolder(place.parent)
    if not run.description.exists() or not isinstance(read_settings(run, place.name), Trial):
        raise SourceError(f"{record}: source = {text!r}: must be MODULE:FACTORY, or RUN/TRIAL of a trained trial")
    return from_trial(run, place.name)


def _moved(text: str, given: Collection[str]) -> str:
    """A file or folder under the name that the user gives it now: of the same last part, or, where the recorded one is
    not there, of its kind; with the options that were recorded, unless others are given. Its weights are compared in
    any case."""
    scheme, _, rest = text.partition(":")
    path = split_options(rest)[0]
    place = Path(path)
    if not place.is_absolute():
        return text
    given = [other if split_options(other)[1] else f"{other}{rest[len(path) :]}" for other in given]
    others = {
        Path(split_options(other.partition(":")[2])[0]).name: other for other in given if other.startswith(f"{scheme}:")
    }
    if place.name in others:
        return others[place.name]
    return text if place.exists() else next(iter(others.values()), text)


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
    module, _, factory = text.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        made = getattr(importlib.import_module(module), factory)
    except (Exception, SystemExit) as error:  # a user's own code may raise anything
        none = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
        hint = ": it must be in the current folder or installed, and named without .py" if none else ""
        raise SourceError(f"{text}: {reason_of(error)}{hint}") from error
    from torch import nn

    from bench.models.checkpoint import digest_of
    from bench.models.external import ModelError, frozen, guarded

    try:
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


def _from_shelf(name: ShelfName) -> Source:
    """A model of another package, with what has to happen to images behind the noise."""
    from bench.models.checkpoint import digest_of
    from bench.models.external import frozen
    from bench.models.packages import from_timm, from_torchvision, from_transformers
    from bench.models.preprocessing import Preprocessed

    weights = None
    try:
        if name.scheme == "onnx":
            from bench.models.onnx_files import from_onnx

            found, weights = from_onnx(name)
        else:
            found = {"timm": from_timm, "torchvision": from_torchvision, "hf": from_transformers}[name.scheme](name)
    except SourceError:
        raise
    except Exception as error:  # a package, or what it downloads, may raise anything
        raise SourceError(f"{name}: {reason_of(error)}") from error
    expected = found.expected
    if "normalise" in name.options:
        stated = expected.normalisation
        channels = expected.channels or (stated.channels if stated else None)
        expected = replace(expected, normalisation=name.normalisation, channels=channels)
    model = frozen(Preprocessed(found.network, expected, found.class_names))
    digest = weights or digest_of(found.network.state_dict())
    return Source(model, str(name), name.title, digest, None, None, found.num_classes)


def _behind(text: str, sigma: float, classifier: Source) -> Source:
    """A classifier behind the denoiser that `text` names."""
    from bench.models.denoisers import Denoised

    denoiser, where, weights = _denoiser(text, sigma)
    trained = classifier.training.classes if classifier.training else None
    names: Sequence[str] = trained or getattr(classifier.model, "class_names", [])
    model = Denoised(denoiser, classifier.model, names)
    return Source(
        model.eval(),
        where + BEHIND + classifier.where,
        f"{classifier.name[:55]}-denoised",
        hashlib.sha256(f"{weights} {classifier.weights}".encode()).hexdigest(),
        None,
        None,
        classifier.num_classes,
    )


def _denoiser(text: str, sigma: float) -> tuple[nn.Module, str, str]:
    """A denoiser for noise of σ; what finds it again; and the SHA-256 of its weights."""
    from bench.models.checkpoint import digest_of
    from bench.models.denoisers import OneShot, Plain, from_diffusers, schedule
    from bench.models.external import frozen

    if is_denoiser_on_shelf(text):
        name = shelf_name(text)
        try:
            found = from_diffusers(name)
        except SourceError:
            raise
        except Exception as error:  # a package, or what it downloads, may raise anything
            raise SourceError(f"{name}: {reason_of(error)}") from error
        network = OneShot(frozen(found.network), found.alphas, sigma, found.predicts)
        return network.eval(), str(name), digest_of(found.network.state_dict())
    factory, options = factory_name(text)
    source = _from_factory(factory)
    if "schedule" in options:
        shot = OneShot(source.model, schedule(options["schedule"]), sigma, options.get("predicts", "noise"))
        return shot.eval(), text, source.weights
    return Plain(source.model, options.get("predicts", "image")).eval(), text, source.weights
