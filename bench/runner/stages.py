"""The stages of one trial, as files: what is finished and what is left."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pyarrow as pa

from bench.models.digests import is_whole_checkpoint
from bench.settings.trial import Certified, Trial
from results.store.folder import (
    AnyPath,
    RunFolder,
    TrialFolder,
    read_json,
    remove_leftovers,
    set_aside,
    sha256_of,
    write_whole,
)
from results.store.records import whole_training_record, write_training_record
from results.store.remote import StorageError
from results.store.schema import EPOCHS, SPECTRA, read_table, write_table
from results.store.shards import evenly_spaced, finished_indices


def is_trained(trial: Trial, run: RunFolder) -> bool:
    """Whether the trial's training is done: its record is of these settings, and all its files read back as they were
    written. Also removes what a killed process left in its folder.

    The same training under another trial of the run (other certification settings) is taken over.
    """
    if trial.members:
        return _join_members(trial, run)
    folder = run.trial(trial.trial_id)
    remove_leftovers(folder.path)
    if _holds_training(trial, folder):
        return True
    others: list[AnyPath] = sorted(run.path.glob(f"trials/*/{folder.training.name}"))
    for other in others:
        source = TrialFolder(other.parent)
        if source.path != folder.path and _holds_training(trial, source):
            _take_over(trial, source, folder)
            return True
    return False


def unfinished(trials: Sequence[Trial], run: RunFolder) -> dict[str, tuple[Trial, bool]]:
    """By id, what of the trials is still to be trained or certified, and of the members that they need and none of them
    trains; whether it is to be certified, too.

    Of what is trained, damaged checkpoints are set aside, that nobody who needs them later has to look; and of what is
    finished, the state that a command leaves which is killed right after the last shard.
    """
    wanted = {trial.trial_id: (trial, True) for trial in trials}
    for trial in trials:
        for member in trial.members:
            wanted.setdefault(member.trial_id, (member, False))
    found = {}
    for name, (trial, certify) in wanted.items():
        trained = is_trained(trial, run)
        if trained:
            set_aside_if_damaged(trial, run.trial(name))
        if trained and not (certify and images_left(trial, run)):
            run.trial(name).state.unlink(missing_ok=True)
        else:
            found[name] = (trial, certify)
    return found


def images_left(trial: Certified, run: RunFolder) -> list[int]:
    """Test images of a trial with a model that no valid shard holds yet, in order."""
    folder = run.trial(trial.trial_id)
    training = read_json(folder.training)
    finished = finished_indices(folder, trial_id=trial.trial_id, checkpoint_sha256=str(training["checkpoint_sha256"]))
    wanted = evenly_spaced(_test_images(trial, run), trial.certify.images)
    return [index for index in wanted if index not in finished]


def trial_shards_left(trial: Certified, run: RunFolder, size: int) -> list[list[int]]:
    """Shards of at most `size` images for what is left. A shard has no gap in what the trial certifies, so that the
    name of its file tells how many images it holds."""
    left = set(images_left(trial, run))
    shards: list[list[int]] = [[]]
    for index in evenly_spaced(_test_images(trial, run), trial.certify.images):
        if index in left:
            if len(shards[-1]) == size:
                shards.append([])
            shards[-1].append(index)
        elif shards[-1]:
            shards.append([])
    return [shard for shard in shards if shard]


def set_aside_if_damaged(trial: Trial, folder: TrialFolder) -> None:
    """Of the checkpoints that a finished training keeps, those that do not read back as `bench.train.resume` wrote
    them; read without torch, which takes seconds to import."""
    for path in (folder.checkpoint, folder.previous_checkpoint):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            continue
        if not is_whole_checkpoint(content, trial.training_id):
            set_aside(path)


def epochs_finished(folder: TrialFolder) -> int:
    """Of a training that may not be done yet."""
    try:
        return int(read_table(folder.epochs, EPOCHS).num_rows)
    except (OSError, ValueError):
        return 0


def _test_images(trial: Certified, run: RunFolder) -> int:
    return int(read_json(run.trial(trial.trial_id).training)["test_images"])


def _holds_training(trial: Trial, folder: TrialFolder) -> bool:
    training = whole_training_record(folder)
    if training.get("training_id") != trial.training_id:
        return False
    try:
        return bool(
            read_table(folder.epochs, EPOCHS).num_rows == trial.train.epochs
            and (trial.decomposition_ratio is None or read_table(folder.spectrum, SPECTRA).num_rows > 0)
            and sha256_of(folder.model) == training.get("checkpoint_sha256")
        )
    except StorageError:
        raise
    except (OSError, ValueError):
        return False


def _take_over(trial: Trial, source: TrialFolder, folder: TrialFolder) -> None:
    rows = read_table(source.epochs, EPOCHS).to_pylist()
    named = [row | {"trial_id": trial.trial_id, "method": trial.name} for row in rows]
    write_table(folder.epochs, pa.Table.from_pylist(named, EPOCHS))
    if source.spectrum.exists():
        _copy(source.spectrum, folder.spectrum)
    _copy(source.model, folder.model)
    _copy(source.training, folder.training)


def _copy(source: AnyPath, target: AnyPath) -> None:
    content = source.read_bytes()
    write_whole(target, lambda temporary: temporary.write_bytes(content))


def _join_members(trial: Trial, run: RunFolder) -> bool:
    """Write an ensemble's training record once its members are trained; Table 5.2 charges it with their sum."""
    if not all(is_trained(member, run) for member in trial.members):
        return False
    records = [whole_training_record(run.trial(member.trial_id)) for member in trial.members]
    hashes = "\n".join(record["checkpoint_sha256"] for record in records)
    seconds = sum(record["train_seconds"] for record in records)
    copies = sum(record["train_seconds"] * record["train_copies_per_second"] for record in records)
    joules = [record["train_joules"] for record in records]
    joined = records[0] | {
        "training_id": trial.training_id,
        "title": trial.objective.title,
        "variant_of": trial.objective.variant_of,
        "colour_group": trial.objective.colour_group,
        "checkpoint_sha256": hashlib.sha256(hashes.encode()).hexdigest(),
        "members": [member.trial_id for member in trial.members],
        "train_seconds": seconds,
        "train_copies_per_second": copies / seconds,
        "train_joules": None if None in joules else sum(joules),
        "memory_bytes": sum(record["memory_bytes"] for record in records),
        "member_memory_bytes": max(record["memory_bytes"] for record in records),
    }
    folder = run.trial(trial.trial_id)
    if whole_training_record(folder) != joined:  # not yet written, or a member was trained again
        write_training_record(folder, joined)
    return True
