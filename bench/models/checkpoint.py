"""Weights on disk: safetensors with their identity in the header. Nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from bench.models.classifier import Classifier, Consensus, MeanLogits, build_model
from bench.models.decomposition import LinearDecomposition
from bench.models.digests import checkpoint_digest
from bench.settings.normalisation import Normalisation
from bench.settings.trial import Trial
from results.errors import BenchError
from results.store.folder import AnyPath, RunFolder, write_whole
from results.store.records import TrainingRecord


class CheckpointError(BenchError):
    """A file of weights that cannot be used; the message names the file."""


def save_tensors(path: AnyPath, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors and metadata as safetensors, whole."""
    # Of tensors that share memory, as tied weights do, each is written.
    contiguous = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    # save_file would write to a temporary file of its own beside ours, and leave it behind if killed.
    write_whole(path, lambda temporary: temporary.write_bytes(save(contiguous, metadata)))


def load_tensors(
    path: AnyPath, training_id: str, *, sha256: str | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and metadata of a file that belongs to the training `training_id`.

    Args:
        sha256: of the whole file as its training wrote it; not compared where not given.

    Raises:
        FileNotFoundError: not there.
        CheckpointError: unreadable, of another training, or not the file that it wrote.
    """
    content = path.read_bytes()
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise CheckpointError(f"{path}: is not the file that its training wrote")
    try:
        tensors: dict[str, Tensor] = load(content)
        metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__") or {}
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not readable as safetensors: {error}") from None
    if metadata.get("training_id") != training_id:
        raise CheckpointError(f"{path}: holds training {metadata.get('training_id')}, expected {training_id}")
    return tensors, metadata


def save_sealed(path: AnyPath, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """As `save_tensors`, with a digest of tensors and metadata."""
    sealed = metadata | {"sha256": checkpoint_digest(digest_of(tensors), metadata)}
    save_tensors(path, tensors, sealed)


def load_sealed(path: AnyPath, training_id: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What `save_sealed` wrote; raises as `load_tensors`, and CheckpointError where it is not what was written."""
    tensors, metadata = load_tensors(path, training_id)
    if metadata.pop("sha256", "") != checkpoint_digest(digest_of(tensors), metadata):
        raise CheckpointError(f"{path}: is damaged: its contents are not those that were written")
    return tensors, metadata


def restore_classifier(trial: Trial, tensors: dict[str, Tensor], num_classes: int, path: AnyPath) -> Classifier:
    """The classifier of a trial with the given weights, which have the normalisation and so the number of channels.

    Raises:
        CheckpointError: the weights are of another architecture, or of a decomposition that is not orthonormal.
    """
    decomposition = None
    try:
        normalisation = Normalisation(*(tuple(tensors[name].flatten().tolist()) for name in ("mean", "std")))
        if trial.decomposition_ratio is not None and "decomposition.basis" in tensors:
            decomposition = LinearDecomposition(tensors["decomposition.mean"], tensors["decomposition.basis"])
    except KeyError as error:
        raise CheckpointError(f"{path}: has no tensor {error}") from None
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    model = build_model(
        trial.model,
        num_classes=num_classes,
        width=trial.width,
        normalisation=normalisation,
        decomposition=decomposition,
    )
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{path}: not the weights of a {trial.model} of width {trial.width}: {detail}") from None
    return model


def digest_of(state: dict[str, Any]) -> str:
    """SHA-256 of names, types, shapes and contents."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        if not isinstance(tensor, Tensor):  # what a module's get_extra_state gave
            digest.update(f"{name} {tensor!r}".encode())
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_verified(run: RunFolder, trial: Trial, num_classes: int) -> nn.Module:
    """The trained classifier of a trial, on the CPU: one model, or the mean logits of an ensemble's members.

    Raises:
        FileNotFoundError: a file is missing.
        CheckpointError: a file is unreadable, of another training or architecture, or not the one that its training
            wrote.
    """
    models = []
    for part in trial.members or [trial]:
        folder = run.trial(part.trial_id)
        written = TrainingRecord.read(folder.training).checkpoint_sha256
        tensors, _ = load_tensors(folder.model, part.training_id, sha256=written)
        models.append(restore_classifier(part, tensors, num_classes, folder.model).eval())
    if not trial.members:
        return models[0]
    first = trial.objective.members_asked_first
    return Consensus(models, first) if first else MeanLogits(models)
