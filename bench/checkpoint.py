"""Weights on disk: safetensors with their identity in the header. Nothing is ever unpickled."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from bench.decomposition import LinearDecomposition
from bench.models import Classifier, Consensus, MeanLogits, build_model
from bench.settings import Trial
from methods.consistency import Ensemble
from results.folder import RunFolder, write_whole


class CheckpointError(ValueError):
    """A file of weights that cannot be used; the message names the file."""


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_whole(path, lambda temporary: save_file(contiguous, temporary, metadata))


def load_tensors(path: Path, training_id: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and metadata of a file that belongs to the training `training_id`.

    Raises:
        CheckpointError: unreadable, or of another training.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not readable as safetensors: {error}") from None
    if metadata.get("training_id") != training_id:
        raise CheckpointError(f"{path}: holds training {metadata.get('training_id')}, expected {training_id}")
    return tensors, metadata


def restore_classifier(trial: Trial, tensors: dict[str, Tensor], num_classes: int, path: Path) -> Classifier:
    """The classifier of a trial with the given weights.

    Raises:
        CheckpointError: the weights are of another architecture.
    """
    decomposition = None
    if trial.decomposition_ratio is not None and "decomposition.basis" in tensors:
        decomposition = LinearDecomposition(tensors["decomposition.mean"], tensors["decomposition.basis"])
    model = build_model(trial.model, num_classes=num_classes, width=trial.width, decomposition=decomposition)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{path}: not the weights of a {trial.model} of width {trial.width}: {detail}") from None
    return model


def load_model(run: RunFolder, trial: Trial, num_classes: int) -> nn.Module:
    """The trained classifier of a trial, on the CPU: one model, or the mean logits of an ensemble's members.

    Raises:
        CheckpointError: a file is missing, unreadable, or of another training or architecture.
    """
    models = []
    for part in trial.members or [trial]:
        path = run.trial(part.trial_id).model
        tensors, _ = load_tensors(path, part.training_id)
        models.append(restore_classifier(part, tensors, num_classes, path).eval())
    objective = trial.objective
    if isinstance(objective, Ensemble):
        return Consensus(models, objective.consensus) if objective.consensus else MeanLogits(models)
    return models[0]
