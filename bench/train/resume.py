"""What a training leaves after every epoch, and how it goes on from there; a damaged file costs one epoch at most."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from bench.models.checkpoint import CheckpointError, load_sealed, restore_classifier, save_sealed
from bench.models.classifier import Classifier
from bench.settings.trial import Trial
from results.store.folder import AnyPath, RunFolder, TrialFolder, rename, set_aside
from results.store.records import TrainedOn
from results.store.rows import EpochRow, SpectrumRow, table_of
from results.store.schema import EPOCHS, SPECTRA, write_table


@dataclass
class Progress:
    """What a checkpoint knows besides tensors."""

    seconds: float = 0.0
    """Wall clock of the finished epochs, and of what came before them."""
    teacher_seconds: float = 0.0
    """Of those, what a teacher's training and votes took."""
    memory_bytes: int = 0
    """Peak over the finished epochs, summed over the workers."""
    joules: float | None = 0.0
    """Of the accelerators in the finished epochs; None where a driver reports nothing."""
    epochs: list[EpochRow] = field(default_factory=list)
    """Finished epochs, as rows of epochs.parquet."""
    trained_on: TrainedOn | None = None
    """In the last finished epoch; None before the first."""


@dataclass
class State:
    """A training between two epochs."""

    model: Classifier
    momentum: dict[str, Tensor]
    """By the name of the parameter."""
    variances: Tensor | None
    """(components,), float64: principal variances of the training images, where there is a decomposition."""
    progress: Progress
    memory: dict[str, Tensor] = field(default_factory=dict)
    """What the method remembers of every training image, (images, …) each."""


def save_checkpoint(
    trial: Trial, folder: TrialFolder, state: State, model: nn.Module, optimizer: torch.optim.SGD
) -> None:
    """Write the checkpoint after an epoch; the one before stays as the previous one.

    Args:
        state: the training now, but for model and momentum, which are the next two's.
    """
    progress, variances = state.progress, state.variances
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        momentum = optimizer.state[parameter].get("momentum_buffer")
        if momentum is not None:
            tensors[f"momentum.{name}"] = momentum
    if variances is not None:
        tensors["variances"] = variances
    tensors |= {f"memory.{name}": values for name, values in state.memory.items()}
    with suppress(FileNotFoundError):  # after the first epoch, or where the last one was set aside
        rename(folder.checkpoint, folder.previous_checkpoint)
    save_sealed(folder.checkpoint, tensors, {"training_id": trial.training_id, "progress": _dumped(progress)})
    write_epochs(folder, progress)


def carry_over(before: Trial, trial: Trial, run: RunFolder) -> None:
    """Let a training that has not begun go on from where another ended, of the same settings but for fewer epochs.
    Where no checkpoint of that one is usable, it begins at its own start, with the same weights in the end."""
    folder, source = run.trial(trial.trial_id), run.trial(before.trial_id)
    if folder.checkpoint.exists() or folder.previous_checkpoint.exists():
        return
    for path in (source.checkpoint, source.previous_checkpoint):
        try:
            tensors, metadata = load_sealed(path, before.training_id)
            progress = _loaded(metadata["progress"])
        except (FileNotFoundError, CheckpointError):
            continue
        named = {"trial_id": trial.trial_id, "method": trial.name}
        progress.epochs = [row.model_copy(update=named) for row in progress.epochs]
        save_sealed(folder.checkpoint, tensors, {"training_id": trial.training_id, "progress": _dumped(progress)})
        write_epochs(folder, progress)
        return


def write_epochs(folder: TrialFolder, progress: Progress) -> None:
    """Write epochs.parquet of the trial: one row per finished epoch."""
    write_table(folder.epochs, table_of(progress.epochs, EPOCHS))


def write_spectrum(trial: Trial, folder: TrialFolder, variances: Tensor, images: int) -> None:
    """Args:
    images: number of training images.
    """
    rows = [
        # the last ones may come out just below 0
        SpectrumRow(dataset=trial.dataset, images=images, component=component, variance=max(0.0, variance))
        for component, variance in enumerate(variances.tolist())
    ]
    write_table(folder.spectrum, table_of(rows, SPECTRA))


def last_state(trial: Trial, folder: TrialFolder, num_classes: int) -> State | None:
    """The state after the last finished epoch of which there is a checkpoint. One that does not read back as it was
    written, or is of another training, is set aside under another name."""
    for path in (folder.checkpoint, folder.previous_checkpoint):
        try:
            return _load(trial, path, num_classes)
        except FileNotFoundError:
            continue
        except CheckpointError:
            set_aside(path)
    return None


def last_trained_on(trial: Trial, folder: TrialFolder) -> TrainedOn | None:
    """What trained the last finished epoch of which there is a checkpoint; None before the first."""
    for path in (folder.checkpoint, folder.previous_checkpoint):
        with suppress(FileNotFoundError, CheckpointError, TypeError, ValidationError):
            return _loaded(load_sealed(path, trial.training_id)[1]["progress"]).trained_on
    return None


def state_after(trial: Trial, folder: TrialFolder, num_classes: int, epochs: int) -> State | None:
    """The state after so many epochs, if there is a checkpoint of it. A worker of a killed command may write a newer
    one while this one reads."""
    for path in (folder.checkpoint, folder.previous_checkpoint):
        try:
            state = _load(trial, path, num_classes)
        except (FileNotFoundError, CheckpointError):
            continue
        if len(state.progress.epochs) == epochs:
            return state
    return None


def _load(trial: Trial, path: AnyPath, num_classes: int) -> State:
    tensors, metadata = load_sealed(path, trial.training_id)
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "momentum": {}, "memory": {}, "variances": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    model = restore_classifier(trial, parts["model"], num_classes, path)
    try:
        progress = _loaded(metadata["progress"])
    except (TypeError, ValidationError):
        raise CheckpointError(f"{path}: was written by another version of this program") from None
    return State(model, parts["momentum"], parts["variances"].get(""), progress, parts["memory"])


def _dumped(progress: Progress) -> str:
    records = {
        "epochs": [dict(row) for row in progress.epochs],
        "trained_on": progress.trained_on and dict(progress.trained_on),
    }
    return json.dumps(vars(progress) | records)


def _loaded(text: str) -> Progress:
    values = json.loads(text)
    trained_on = values.pop("trained_on", None)
    return Progress(
        **values | {"epochs": [EpochRow.model_validate(row) for row in values["epochs"]]},
        trained_on=trained_on and TrainedOn.model_validate(trained_on),
    )
