"""The stages of one trial, as files: what is finished and what is left."""

from __future__ import annotations

import hashlib
import shutil
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bench.settings import Certified, Trial
from results.folder import RunFolder, TrialFolder, read_json, sha256_of, write_json, write_whole
from results.schema import EPOCHS
from results.shards import evenly_spaced, finished_indices


def is_trained(trial: Trial, run: RunFolder) -> bool:
    """Whether the trial's training is done: its record reads back, is of these settings, and its weights are there.

    The same training under another trial of the run (other certification settings) is taken over.
    """
    if trial.members:
        return _join_members(trial, run)
    folder = run.trial(trial.trial_id)
    if _holds_training(trial, folder):
        return True
    for other in sorted(run.path.glob(f"trials/*/{folder.training.name}")):
        source = TrialFolder(other.parent)
        if source.path != folder.path and _holds_training(trial, source):
            _take_over(trial, source, folder)
            return True
    return False


def images_left(trial: Certified, run: RunFolder) -> list[int]:
    """Test images of a trial with a model that no valid shard holds yet, in order."""
    folder = run.trial(trial.trial_id)
    training = read_json(folder.training)
    finished = finished_indices(folder, trial_id=trial.trial_id, checkpoint_sha256=str(training["checkpoint_sha256"]))
    wanted = evenly_spaced(int(training["test_images"]), trial.certify.images)
    return [index for index in wanted if index not in finished]


def is_certified(trial: Trial, run: RunFolder) -> bool:
    """Whether the trial is trained and every image it certifies is in a valid shard."""
    return is_trained(trial, run) and not images_left(trial, run)


def _holds_training(trial: Trial, folder: TrialFolder) -> bool:
    training = _record(folder)
    if training.get("training_id") != trial.training_id or not folder.model.exists():
        return False
    return sha256_of(folder.model) == training.get("checkpoint_sha256")


def _record(folder: TrialFolder) -> dict[str, Any]:
    try:
        return read_json(folder.training)
    except (OSError, ValueError):
        return {}


def _take_over(trial: Trial, source: TrialFolder, folder: TrialFolder) -> None:
    rows = pq.read_table(source.epochs).to_pylist()
    named = [row | {"trial_id": trial.trial_id, "method": trial.name} for row in rows]
    table = pa.Table.from_pylist(named, EPOCHS)
    write_whole(folder.epochs, partial(pq.write_table, table))
    if source.spectrum.exists():
        write_whole(folder.spectrum, partial(shutil.copyfile, source.spectrum))
    write_whole(folder.model, partial(shutil.copyfile, source.model))
    write_whole(folder.training, partial(shutil.copyfile, source.training))


def _join_members(trial: Trial, run: RunFolder) -> bool:
    """Write an ensemble's training record once its members are trained; Table 5.2 charges it with their sum."""
    if not all(is_trained(member, run) for member in trial.members):
        return False
    records = [read_json(run.trial(member.trial_id).training) for member in trial.members]
    hashes = "\n".join(record["checkpoint_sha256"] for record in records)
    seconds = sum(record["train_seconds"] for record in records)
    copies = sum(record["train_seconds"] * record["train_copies_per_second"] for record in records)
    joules = [record["train_joules"] for record in records]
    joined = records[0] | {
        "training_id": trial.training_id,
        "title": trial.objective.title,
        "checkpoint_sha256": hashlib.sha256(hashes.encode()).hexdigest(),
        "members": [member.trial_id for member in trial.members],
        "train_seconds": seconds,
        "train_copies_per_second": copies / seconds,
        "train_joules": None if None in joules else sum(joules),
        "memory_bytes": sum(record["memory_bytes"] for record in records),
        "member_memory_bytes": max(record["memory_bytes"] for record in records),
    }
    folder = run.trial(trial.trial_id)
    if _record(folder) != joined:  # not yet written, or a member was trained again
        write_json(folder.training, joined)
    return True
