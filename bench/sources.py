"""A model by the name that a user types: MODULE:FACTORY, or RUN/TRIAL."""

from __future__ import annotations

import hashlib
import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.checkpoint import load_model
from bench.settings import Trial
from results.folder import RunFolder, read_json


class SourceError(ValueError):
    """A model that cannot be had; the message is one sentence for the user."""


@dataclass(frozen=True)
class Source:
    model: nn.Module
    name: str
    """The factory's name or the trial's id."""
    weights: str
    """SHA-256."""
    trial: Trial | None
    """Settings under which this program trained the model, if it did."""
    training: dict[str, Any]
    """The record of that training; empty if there was none."""


def open_model(text: str) -> Source:
    """The model that `text` names, on the CPU, in evaluation mode.

    Args:
        text: MODULE:FACTORY, a function without arguments that returns a torch.nn.Module, in a module that Python
            finds from the current folder; or RUN/TRIAL, a trained trial of a run, by its id or a beginning of it that
            no other trial has.

    Raises:
        SourceError, CheckpointError: no such model, or no usable one.
    """
    if ":" in text and "/" not in text:
        return _from_factory(text)
    path = Path(text).expanduser()
    run = RunFolder(path.parent.parent if path.parent.name == "trials" else path.parent)
    if not run.description.exists():
        raise SourceError(f"{text}: must be MODULE:FACTORY, or RUN/TRIAL with a run that holds run.json")
    return from_trial(run, _trial_named(run, path.name))


def from_trial(run: RunFolder, trial_id: str) -> Source:
    """The model of a trained trial.

    Raises:
        SourceError: it is not trained, or not by this program.
        CheckpointError: its weights are not usable.
    """
    folder = run.trial(trial_id)
    if not folder.training.exists():
        raise SourceError(f"{folder.path}: its training is not finished")
    training, settings = read_json(folder.training), read_json(folder.settings)
    if "weights" in settings:  # a ForeignModel: where it came from is in the record
        source = open_model(training["source"])
        if source.weights != settings["weights"]:
            raise SourceError(f"{training['source']}: its weights are no longer those that {trial_id} certified")
        return source
    trial = Trial.model_validate_json(folder.settings.read_text(encoding="utf-8"))
    model = load_model(run, trial, int(training["num_classes"]))
    return Source(model, trial_id, str(training["checkpoint_sha256"]), trial, training)


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
        function = getattr(importlib.import_module(module), factory)
        model = function()
    except Exception as error:  # a user's own code may raise anything
        raise SourceError(f"{text}: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise SourceError(f"{text}: must return a torch.nn.Module, gave {type(model).__name__}")
    return Source(model.eval(), factory, _hash(model.state_dict()), None, {})


def _hash(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def count_classes(source: Source, images: Tensor, expected: int) -> int:
    """The number of logits, which must be the data's number of classes.

    Args:
        images: (count, channel, height, width), uint8; one is classified.

    Raises:
        SourceError: it is another, or the model cannot take such images.
    """
    try:
        with torch.inference_mode():
            logits = source.model(images[:1].float() / 255)
        found, nan = tuple(logits.shape), bool(logits.isnan().any())
    except Exception as error:  # a user's own code may raise anything
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise SourceError(f"{source.name} cannot take images {tuple(images.shape[1:])}: {reason[0]}") from error
    if found != (1, expected):
        raise SourceError(f"{source.name} gives logits {found} for one image, expected {(1, expected)}")
    if nan:
        raise SourceError(f"{source.name}: the model gave NaN")
    return expected
