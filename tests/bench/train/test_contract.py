"""What the loop gives a method: passes, memory, order, a teacher; and that the plain ones are trained as ever."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from shutil import copytree
from typing import Any, ClassVar

import pyarrow.parquet as pq
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.data import load_images
from bench.machine.hardware import compute_reproducibly
from bench.machine.normals import NormalStream
from bench.machine.randomness import Role, derived_seed, generator
from bench.models.checkpoint import digest_of, load_sealed
from bench.models.classifier import build_model
from bench.runner import votes, work
from bench.runner.progress import read_progress
from bench.runner.single import run_single
from bench.runner.stages import is_trained, repair, unfinished
from bench.runner.task import trial_task
from bench.settings.trial import Trial
from bench.train import loop
from bench.train.augment import crop_and_flip, random_shifts
from bench.train.passes import Passes
from bench.train.survey import survey
from results.errors import BenchError
from results.store.folder import RunFolder, TrialFolder, read_json
from results.store.records import RunRecord
from tests.conftest import here, small_trial

pytestmark = pytest.mark.usefixtures("_fewer_test_images")

FIELD: dict[str, dict[str, Any]] = {
    "stability": {},
    "smoothadv": {"copies": 2, "steps": 2, "radius": 0.5},
    "smoothmix": {"copies": 2, "steps": 2, "mix_step": 1},
    "cat_rs": {"copies": 2, "steps": 2, "teacher_copies": 20},
    "sun": {"copies": 2, "start_epoch": 1, "steps": 2, "keep_above": 0.1, "keep_copies": 10, "reweight_epochs": 2},
    "direct": {"copies": 2},
}
"""The smallest of each, with every part of it in four epochs."""
FOUR = {"epochs": 4, "decay_epochs": [3], "learning_rate": 0.05, "batch": 64, "images": 120, "precision": "fp32"}

TWO = FOUR | {"epochs": 2, "decay_epochs": [1]}
"""Where it does not matter how a training ends."""


def field_trial(method: str, **changes: Any) -> Trial:
    return small_trial(method, options=FIELD[method], **{"train": FOUR, **changes})


def finish(trial: Trial, folder: Path) -> TrialFolder:
    """Train a trial and whatever it needs."""
    run = RunFolder(folder)
    for part in [*trial.needed, trial]:
        task = trial_task(part, run, certify=False, shard_size=5)
        if work.epochs_left(task):
            work.train_trial(task)
    return run.trial(trial.trial_id)


@pytest.mark.parametrize("method", ["gaussian", "consistency", "macer", "generalised"])
def test_methods_of_one_pass_are_trained_by_the_plain_loop(method: str, tmp_path: Path) -> None:
    """The loop as it was before methods could do more, written out: the same weights, bit for bit."""
    trial = small_trial(method)
    found = load_file(str(finish(trial, tmp_path).model))

    compute_reproducibly()
    data = load_images("synthetic", "train").evenly(trial.train.images)
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    torch.manual_seed(derived_seed(0, Role.INITIALISE))
    model: nn.Module = build_model("tiny", num_classes=10, width=4, decomposition=None)
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    objective, cpu = trial.objective, torch.device("cpu")
    for epoch in range(2):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * 0.1**epoch
        model.train()
        order = torch.randperm(200, generator=generator(cpu, 0, Role.ORDER, epoch))
        for step, batch in enumerate(order.split(trial.images_per_step)):
            shifts = random_shifts(len(batch), generator(cpu, 0, Role.AUGMENT, epoch, step))
            stream = NormalStream(0, Role.TRAIN_NOISE, epoch, step)
            noise = stream.draw(0, (objective.copies * len(batch), 3, 32, 32), cpu).view(-1, len(batch), 3, 32, 32)
            noisy = crop_and_flip(images[batch], *shifts).float() / 255 + trial.sigma * noise
            logits = model(noisy.flatten(0, 1).contiguous(memory_format=torch.channels_last))
            loss = objective.loss(logits.view(*noisy.shape[:2], -1), labels[batch], sigma=trial.sigma, epoch=epoch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert digest_of(found) == digest_of(model.state_dict())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], TrialFolder]:
    """The training of each method, once."""
    return cache(lambda method: finish(field_trial(method), tmp_path_factory.mktemp(method)))


@pytest.mark.parametrize(
    ("method", "stop"),
    [*((method, 2) for method in FIELD), ("sun", 1), ("sun", 3), pytest.param("cat_rs", 1, marks=pytest.mark.slow)],
)
def test_a_training_of_each_method_goes_on_exactly_after_any_epoch(
    method: str,
    stop: int,
    undisturbed: Callable[[str], TrialFolder],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is remembered of every image included: `sun` leaves images out before epoch 1 and weighs them again before
    epoch 3."""
    trial, whole = field_trial(method), undisturbed(method)
    evaluate = loop.noisy_accuracy

    def killed(trial: Trial, epoch: int, *rest: Any) -> float:
        if epoch == stop:
            raise KeyboardInterrupt
        return evaluate(trial, epoch, *rest)

    run = RunFolder(tmp_path)
    for part in trial.needed:  # a teacher is as it was: the student is interrupted
        copytree(here(whole.path).with_name(part.trial_id), here(run.trial(part.trial_id).path))
    monkeypatch.setattr(loop, "noisy_accuracy", killed)
    with pytest.raises(KeyboardInterrupt):
        finish(trial, tmp_path)
    monkeypatch.undo()
    folder = run.trial(trial.trial_id)
    assert len(pq.read_table(folder.epochs)) == stop
    finish(trial, tmp_path)
    assert digest_of(load_file(str(folder.model))) == digest_of(load_file(str(whole.model)))
    keep = ["epoch", "loss", "gradient_norm", "noisy_test_accuracy"]
    assert pq.read_table(folder.epochs, columns=keep) == pq.read_table(whole.epochs, columns=keep)


def test_what_is_remembered_is_kept_with_the_checkpoint(undisturbed: Callable[[str], TrialFolder]) -> None:
    trial, folder = field_trial("sun"), undisturbed("sun")
    tensors, _ = load_sealed(folder.checkpoint, trial.training_id)
    kept, hits = tensors["memory.kept"], tensors["memory.hits"]
    assert kept.dtype == torch.bool
    assert 0 < int(kept.sum()) < 120
    assert (hits.shape, int(hits.max()) <= 16) == (torch.Size([120]), True)
    assert not [name for name in load_file(str(folder.model)) if "memory" in name]


@pytest.mark.parametrize("method", FIELD)
def test_each_method_composes_with_decomposition_and_bf16(method: str, tmp_path: Path) -> None:
    train = FOUR | {"epochs": 2, "precision": "bf16"}
    trial = field_trial(method, decomposition_ratio=0.2, train=train)
    folder = finish(trial, tmp_path)
    assert read_json(folder.training)["train_precision"] == "bf16"
    weights = load_file(str(folder.model))
    assert weights["decomposition.basis"].shape[1] < 3072
    assert all(value.isfinite().all() for value in weights.values() if value.is_floating_point())
    rows = pq.read_table(folder.epochs).to_pylist()
    assert all(row["gradient_norm"] > 0 for row in rows)


# --- passes ---------------------------------------------------------------------------------------------------------


def passes_of(model: nn.Module) -> tuple[Passes, nn.Module]:
    accelerator = Accelerator(cpu=True)
    prepared = accelerator.prepare(model).train()
    return Passes(prepared, accelerator, 10), prepared


def test_an_attack_reaches_no_parameter_and_no_statistic() -> None:
    torch.manual_seed(1)
    passes, model = passes_of(build_model("tiny", num_classes=10, width=4, decomposition=None))
    images = torch.rand(2, 5, 3, 32, 32)
    expected = model.eval()(images.flatten(0, 1)).view(2, 5, 10)
    model.train()
    before = digest_of(model.state_dict())
    inputs = images.clone().requires_grad_()
    logits = passes.attack(inputs)
    assert torch.allclose(logits, expected, atol=1e-5)
    assert model.training
    logits.sum().backward()  # even so
    assert inputs.grad is not None
    assert inputs.grad.abs().sum() > 0
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert digest_of(model.state_dict()) == before
    # in training mode the same images have other answers, and statistics move
    assert not torch.allclose(passes.train(images), expected, atol=1e-3)
    assert digest_of(model.state_dict()) != before


def test_an_attack_between_two_passes_leaves_their_gradients() -> None:
    torch.manual_seed(1)
    passes, model = passes_of(build_model("tiny", num_classes=10, width=4, decomposition=None))
    images = torch.rand(1, 6, 3, 32, 32)

    def gradients(*, attacked: bool) -> list[Tensor]:
        model.zero_grad()
        first = passes.train(images)
        if attacked:
            inputs = images.clone().requires_grad_()
            torch.autograd.grad(passes.attack(inputs).sum(), inputs)
        (first * passes.train(1 - images)).sum().backward()
        return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]

    plain, attacked = gradients(attacked=False), gradients(attacked=True)
    assert all(torch.equal(a, b) for a, b in zip(plain, attacked, strict=True))


def test_a_network_whose_answers_are_not_logits_is_told() -> None:
    networks = [(nn.Linear(3072, 9), r"\(8, 9\)"), (nn.Unflatten(1, (12, -1)), r"\(8, 12, 256\)")]
    for network, found in (*networks, (nn.RNN(3072, 10), "a tuple")):
        passes, _ = passes_of(nn.Sequential(nn.Flatten(), network))
        for ask in (passes.train, passes.attack):
            with pytest.raises(BenchError, match=rf"the network gave {found} for 8 images, expected \(8, 10\)"):
                ask(torch.rand(2, 4, 3, 32, 32))


def test_a_frozen_parameter_stays_frozen() -> None:
    passes, model = passes_of(nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)))
    model[1].bias.requires_grad_(False)  # type: ignore[index]
    passes.attack(torch.rand(1, 2, 3, 32, 32))
    assert not model[1].bias.requires_grad  # type: ignore[index]


# --- surveys --------------------------------------------------------------------------------------------------------


class Rank:
    """One of several, for what asks only who and where it is; sums are added by the test."""

    num_processes: ClassVar[int] = 2
    device = torch.device("cpu")

    def __init__(self, rank: int) -> None:
        self.process_index = rank

    def autocast(self) -> Any:
        return torch.autocast("cpu", enabled=False)

    def reduce(self, counts: Tensor, _how: str) -> Tensor:
        return counts


def test_a_survey_is_cut_over_the_ranks_and_each_image_keeps_its_noise() -> None:
    trial = small_trial(train=FOUR)
    data = load_images("synthetic", "train").evenly(31)
    torch.manual_seed(2)
    model = build_model("tiny", num_classes=10, width=4, decomposition=None)
    alone: Any = Accelerator(cpu=True)
    whole = survey(trial, 3, 7, model, data, alone)
    assert whole.sum(dim=1).tolist() == [7] * 31
    pair: list[Any] = [Rank(0), Rank(1)]
    halves = [survey(trial, 3, 7, model, data, rank) for rank in pair]
    assert torch.equal(whole, sum(halves, torch.zeros_like(whole)))
    assert not model.training
    assert not torch.equal(whole, survey(trial, 4, 7, model, data, alone))  # other noise, other crops
    few = data.evenly(1)
    assert survey(trial, 3, 7, model, few, pair[1]).sum() + survey(trial, 3, 7, model, few, pair[0]).sum() == 7


class Watched(nn.Module):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.shown.append(images.clone())
        return torch.eye(10)[:1].expand(len(images), 10)


def test_an_evaluation_is_cut_over_the_ranks_and_each_image_keeps_its_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loop.EVALUATION_BATCH, "cpu", 20)
    images = load_images("synthetic", "test").evenly(50)
    data = torch.from_numpy(images.images), torch.from_numpy(images.labels)
    ranks: list[Any] = [Accelerator(cpu=True), Rank(0), Rank(1)]
    models = [Watched() for _ in ranks]
    alone, *parts = (
        loop.noisy_accuracy(small_trial(), 3, model, data, rank) for model, rank in zip(models, ranks, strict=True)
    )
    whole, first, second = (model.shown for model in models)
    assert [len(batch) for batch in whole] == [20, 20, 10]
    assert all(map(torch.equal, whole, [first[0], second[0], first[1]]))
    assert not any(torch.equal(batch, data[0][: len(batch)].float() / 255) for batch in whole)
    assert alone == pytest.approx(sum(parts)) == float((data[1] == 0).double().mean())


# --- the teacher ----------------------------------------------------------------------------------------------------


def test_the_teacher_is_the_gaussian_trial_at_a_quarter() -> None:
    trial = field_trial("cat_rs", sigma=1.0, decomposition_ratio=0.2)
    assert trial.teacher is not None
    assert trial.teacher == small_trial("gaussian", sigma=0.25, train=FOUR)
    assert trial.needed == (trial.teacher,)
    assert trial.teacher.teacher is None
    assert trial.teacher.trial_id == field_trial("cat_rs", sigma=0.5).teacher.trial_id  # type: ignore[union-attr]
    other = small_trial("cat_rs", sigma=1.0, options=FIELD["cat_rs"] | {"teacher_copies": 21}, train=FOUR)
    assert other.training_id != field_trial("cat_rs", sigma=1.0).training_id


def test_votes_are_kept_with_the_teacher_and_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(votes, "CHUNK", 50)
    asked: list[list[int]] = []
    ask = votes._ask

    def recorded(smoothed: Any, teacher: Trial, images: Tensor, indices: Tensor, copies: int) -> Any:
        asked.append(indices.tolist())
        return ask(smoothed, teacher, images, indices, copies)

    monkeypatch.setattr(votes, "_ask", recorded)
    trial, other = field_trial("cat_rs", train=TWO), field_trial("cat_rs", sigma=0.5, train=TWO)
    folder = finish(trial, tmp_path)
    assert sorted(index for part in asked for index in part) == list(range(120))
    tensors, _ = load_sealed(folder.checkpoint, trial.training_id)
    counts = tensors["memory.votes"]
    assert counts.sum(dim=1).tolist() == [20] * 120

    finish(other, tmp_path)  # another σ, the same teacher
    assert len(asked) == 3
    teacher = RunFolder(tmp_path).trial(trial.teacher.trial_id)  # type: ignore[union-attr]
    files = sorted(here(teacher.votes).iterdir())
    assert [file.stem for file in files] == ["20-00000-00049", "20-00050-00099", "20-00100-00119"]
    files[1].unlink()
    files[2].write_bytes(files[2].read_bytes()[:-8] + bytes(8))  # damaged
    third = field_trial("cat_rs", sigma=1.0, train=TWO)
    again, _ = load_sealed(finish(third, tmp_path).checkpoint, third.training_id)
    assert torch.equal(again["memory.votes"], counts)
    assert sorted(asked[3:]) == [list(range(50, 100)), list(range(100, 120))]

    for file in files:  # by two ranks, each its part
        file.unlink()
    ranks: list[Any] = [Rank(0), Rank(1)]
    images = load_images("synthetic", "train").evenly(120)
    parts = [votes.teacher_votes(third, RunFolder(tmp_path), images, rank).votes for rank in ranks]
    assert [int((part.sum(dim=1) > 0).sum()) for part in parts] != [0, 120]
    assert torch.equal(sum(parts, torch.zeros_like(counts)), counts)
    assert len(asked) == 8


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which a student and its teacher are trained."""
    folder = tmp_path_factory.mktemp("taught")
    finish(field_trial("cat_rs", train=TWO), folder)
    return folder


def test_who_needs_a_teacher_is_charged_with_it(taught: Path) -> None:
    trial, run = field_trial("cat_rs", train=TWO), RunFolder(taught)
    record = read_json(run.trial(trial.trial_id).training)
    assert trial.teacher is not None
    teacher = read_json(run.trial(trial.teacher.trial_id).training)
    assert record["teacher"] == trial.teacher.trial_id
    assert record["teacher_seconds"] > teacher["train_seconds"]
    assert record["train_seconds"] > record["teacher_seconds"]
    own = record["train_seconds"] - record["teacher_seconds"]
    assert record["train_samples_per_second"] == pytest.approx(2 * 120 * 2 / own)
    assert teacher["teacher"] is None


def test_a_teacher_is_wanted_until_the_trial_is_trained(taught: Path, tmp_path: Path) -> None:
    trial = field_trial("cat_rs", train=TWO)
    run = RunFolder(tmp_path)
    assert trial.teacher is not None
    left = unfinished([trial], run)
    assert {name: certify for name, (_, certify) in left.items()} == {
        trial.trial_id: True,
        trial.teacher.trial_id: False,
    }
    with pytest.raises(RuntimeError, match="the teacher is not trained"):
        work.epochs_left(trial_task(trial, run, certify=True, shard_size=5))
    copytree(taught, tmp_path, dirs_exist_ok=True)
    run.trial(trial.teacher.trial_id).model.unlink()
    assert list(unfinished([trial], run)) == [trial.trial_id]  # to be certified; its teacher is not needed for that
    assert repair(trial, run)
    assert not is_trained(trial.teacher, run)


def test_a_trial_with_a_teacher_runs_alone_from_its_beginning_to_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "load_images", load_images)  # which certification has as well
    trial = field_trial("cat_rs", train=TWO)
    run = RunFolder(tmp_path / "run")
    assert run_single(trial, run, 5)
    assert trial.teacher is not None
    record = RunRecord.read(run.description)
    assert record.trials == [trial.trial_id]
    assert record.teachers == {trial.trial_id: trial.teacher.trial_id}
    settings = json.loads(run.trial(trial.teacher.trial_id).settings.read_text())
    assert (settings["method"], settings["sigma"]) == ("gaussian", 0.25)
    assert not run.trial(trial.teacher.trial_id).shards.exists()
    assert len(run.trial(trial.trial_id).shard_files()) == 3
    shown = {each.trial_id: each.stage for each in read_progress(run).trials}
    assert shown == {trial.trial_id: "done", trial.teacher.trial_id: "done"}
    run.trial(trial.teacher.trial_id).training.unlink()  # as where the training was taken over
    assert [each.trial_id for each in read_progress(run).trials] == [trial.trial_id]


# --- images left out ------------------------------------------------------------------------------------------------


def test_a_survey_that_leaves_nothing_is_told_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "survey", lambda *_: torch.zeros((120, 10), dtype=torch.int64))
    with pytest.raises(loop.TrainingError, match=r"epoch 1: of no training image .* lower keep_above"):
        finish(field_trial("sun"), tmp_path)
