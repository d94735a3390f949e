"""The votes of a teacher on its training images, kept beside it for all trials that learn from them."""

from __future__ import annotations

import time

import torch
from accelerate import Accelerator
from torch import Tensor

from bench.certify.shard import last_model
from bench.certify.smoothing import Smoothed
from bench.data import ImageSet
from bench.machine.advance import advance
from bench.machine.energy import EnergyMeter
from bench.machine.processes import wait_for_all
from bench.machine.randomness import Role
from bench.models.checkpoint import CheckpointError, load_sealed, save_sealed
from bench.settings.trial import Trial
from bench.train.loop import Lesson
from bench.train.survey import shifted
from results.store.folder import RunFolder
from results.store.records import TrainingRecord

CHUNK = 500
"""Images of a file of votes: what is lost at most when a process dies."""


def teacher_votes(trial: Trial, run: RunFolder, images: ImageSet, accelerator: Accelerator) -> Lesson:
    """How often each class is the answer of the trial's teacher among its `teacher_copies` noise samples of each
    training image, in one random crop and flip each; every rank calls this and does a part.

    What is in the teacher's folder is not done again, whichever trial asked for it. Votes of an image depend on the
    teacher and the image alone.
    """
    teacher, copies = trial.teacher, trial.objective.teacher_copies
    assert teacher is not None
    record = TrainingRecord.read(run.trial(teacher.trial_id).training)
    smoothed = last_model(teacher, run).smoothed
    assert isinstance(smoothed, Smoothed)
    shown = shifted(teacher, images, torch.device("cpu"))
    chunks = list(torch.arange(len(images)).split(CHUNK))
    # Trials that begin at the same time begin at different places, and meet what the others have done.
    first = int(trial.training_id, 16) % len(chunks)
    mine = [*chunks[first:], *chunks[:first]][accelerator.process_index :: accelerator.num_processes]
    votes = torch.zeros((len(images), images.num_classes), dtype=torch.int64, device=accelerator.device)
    spent = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
    for part in mine:
        path = run.trial(teacher.trial_id).votes_on(int(part[0]), int(part[-1]), copies)
        identity = {"training_id": teacher.training_id, "checkpoint_sha256": record.checkpoint_sha256}
        try:
            tensors, metadata = load_sealed(path, teacher.training_id)
            found = tensors["votes"], tensors["spent"]
            if metadata != identity:
                raise CheckpointError(f"{path}: votes of other weights")
        except (FileNotFoundError, CheckpointError):
            found = _ask(smoothed, teacher, shown[part], part, copies)
            save_sealed(path, {"votes": found[0], "spent": found[1]}, identity)
        advance.steps += 1
        votes[part] = found[0].to(votes)
        spent += found[1].to(spent)
    last_model.forget()  # the student's training begins
    wait_for_all()  # one may have found its part done by others
    votes = accelerator.reduce(votes, "sum")
    seconds, joules = (accelerator.reduce(spent, "sum")).tolist()
    known = None if record.train_joules is None or joules != joules else record.train_joules + joules
    return Lesson(votes, (record.train_seconds or 0.0) + seconds / accelerator.num_processes, known)


def _ask(smoothed: Smoothed, teacher: Trial, images: Tensor, indices: Tensor, copies: int) -> tuple[Tensor, Tensor]:
    """The votes (count, num_classes), int64, on the CPU, and what they took: seconds, joules (NaN where a driver
    reports nothing)."""
    started, meter = time.perf_counter(), EnergyMeter(smoothed.device)
    counts = [
        smoothed.class_counts(image.float() / 255, copies, teacher.seed, Role.SURVEY, index)
        for image, index in zip(images, indices.tolist(), strict=True)
    ]
    joules = meter.joules()
    spent = [time.perf_counter() - started, float("nan") if joules is None else joules]
    return torch.stack(counts), torch.tensor(spent, dtype=torch.float64)
