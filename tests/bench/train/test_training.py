from __future__ import annotations

import errno
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn

from bench.data import load_images
from bench.machine.processes import leave_group
from bench.models.checkpoint import CheckpointError, load_verified, save_tensors
from bench.runner import work
from bench.runner.stages import is_trained, repair, unfinished
from bench.runner.task import Task, trial_task
from bench.settings.trial import Trial
from bench.train import loop
from bench.train.batches import batches
from bench.train.replay import Steps
from bench.train.resume import last_state
from results.store.description import add_trials
from results.store.folder import RunFolder, TrialFolder, read_json, sha256_of
from results.store.merge import merge_run
from results.store.records import TrainingRecord
from tests.conftest import edit_record, here, small_trial
from tests.ranks import said_by_two_ranks


def ranks(count: int) -> list[Accelerator]:
    """Stand-ins for the accelerators of a group: `batches` asks them only who and where they are."""
    return [
        SimpleNamespace(device=torch.device("cpu"), num_processes=count, process_index=rank) for rank in range(count)
    ]


@pytest.mark.parametrize("workers", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [1, 7, 64, 201])
@pytest.mark.parametrize("method", ["gaussian", "consistency", "macer"])
def test_each_image_comes_once_per_epoch_over_all_workers(workers: int, count: int, method: str) -> None:
    trial = small_trial(method)
    parts = [list(batches(trial, 0, count, (3, 2, 2), rank)) for rank in ranks(workers)]
    assert len({len(steps) for steps in parts}) == 1
    seen = [index for steps in parts for batch in steps if batch.weight for index in batch.indices.tolist()]
    assert sorted(seen) == list(range(count))
    for step in zip(*parts, strict=True):
        assert sum(batch.weight for batch in step) / workers == pytest.approx(1)
        assert sum(len(batch.indices) for batch in step if batch.weight) == step[0].global_size
    per_step = trial.train.batch // (trial.objective.copies if trial.objective.minibatches else 1)
    assert parts[0][0].global_size == min(count, per_step)


def test_the_global_batch_is_the_same_for_any_number_of_workers() -> None:
    trial = small_trial("consistency")
    [alone] = [list(batches(trial, 3, 50, (3, 2, 2), rank)) for rank in ranks(1)]
    pair = [list(batches(trial, 3, 50, (3, 2, 2), rank)) for rank in ranks(2)]
    for whole, *halves in zip(alone, *pair, strict=True):
        assert torch.equal(whole.noise, torch.cat([half.noise for half in halves], dim=1))
        assert torch.equal(whole.indices, torch.cat([half.indices for half in halves]))
        assert torch.equal(whole.offsets, torch.cat([half.offsets for half in halves]))


def test_epochs_differ_in_order_and_noise() -> None:
    first, second = (next(batches(small_trial(), epoch, 50, (3, 2, 2), ranks(1)[0])) for epoch in (0, 1))
    assert not torch.equal(first.indices, second.indices)
    assert not torch.equal(first.noise, second.noise)


def test_learning_rate_decays_at_its_epochs() -> None:
    trial = small_trial(train={"epochs": 90, "decay_epochs": [30, 60], "learning_rate": 0.01})
    rates = [loop.learning_rate(trial, epoch) for epoch in (0, 29, 30, 59, 60, 89)]
    assert rates == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4])


def run_task(trial: Trial, folder: Path) -> Task:
    return trial_task(trial, RunFolder(folder), certify=True, shard_size=5)


def train(trial: Trial, folder: Path) -> RunFolder:
    work.train_trial(run_task(trial, folder))
    return RunFolder(folder)


def test_training_learns_and_writes_its_record(tmp_path: Path) -> None:
    trial = small_trial(
        train={"epochs": 4, "decay_epochs": [3], "learning_rate": 0.1, "batch": 64, "images": 1000}, width=8
    )
    run = train(trial, tmp_path)
    folder = run.trial(trial.trial_id)
    epochs = pq.read_table(folder.epochs).to_pylist()
    assert [row["epoch"] for row in epochs] == [0, 1, 2, 3]
    assert epochs[-1]["loss"] < epochs[0]["loss"]
    assert epochs[-1]["noisy_test_accuracy"] > 0.25  # ten classes
    record = read_json(folder.training)
    assert record["checkpoint_sha256"] == sha256_of(folder.model)
    assert record["train_seconds"] > 0
    assert record["model_bytes"] == here(folder.model).stat().st_size
    buffers = ("running_mean", "running_var", "num_batches_tracked", "mean", "std")
    tensors = load_file(here(folder.model))
    learned = [tensor.numel() for name, tensor in tensors.items() if not name.endswith(buffers)]
    assert record["parameters"] == sum(learned) < sum(tensor.numel() for tensor in tensors.values())
    assert 2e8 < record["memory_bytes"] < 4e9
    assert record["train_samples_per_second"] == pytest.approx(4 * 1000 / record["train_seconds"])
    assert is_trained(trial, run)


@pytest.mark.usefixtures("_fewer_test_images")
@pytest.mark.parametrize("method", ["gaussian", "generalised_ld"])
def test_an_interrupted_training_continues_exactly(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on a machine on which `auto` would be another precision."""
    options: dict[str, Any] = {
        "train": {"epochs": 4, "decay_epochs": [3], "learning_rate": 0.05, "batch": 64, "images": 200}
    }
    options["train"]["precision"] = "auto"
    monkeypatch.setattr("bench.machine.hardware.has_fast_bf16", lambda _: False)
    trial = small_trial(method, decomposition_ratio=0.2 if method == "generalised_ld" else None, **options)
    trained: dict[int, tuple[float, ...]] = {}
    one_epoch = loop.train_epoch

    def recorded(trial: Trial, epoch: int, *rest: Any) -> loop.EpochResult:
        trained[epoch] = (torch.rand(()).item(), random.random(), np.random.rand())  # noqa: NPY002 - as users' code may
        return one_epoch(trial, epoch, *rest)

    monkeypatch.setattr(loop, "train_epoch", recorded)
    undisturbed = train(trial, tmp_path / "a").trial(trial.trial_id)
    drawn = trained.copy()
    assert len({number for numbers in drawn.values() for number in numbers}) == 4 * 3

    evaluate = loop.noisy_accuracy

    def killed(trial: Trial, epoch: int, *rest: Any) -> float:
        if epoch == 2:
            raise KeyboardInterrupt
        return evaluate(trial, epoch, *rest)

    monkeypatch.setattr(loop, "noisy_accuracy", killed)
    with pytest.raises(KeyboardInterrupt):
        train(trial, tmp_path / "b")
    monkeypatch.setattr(loop, "noisy_accuracy", evaluate)
    monkeypatch.setattr("bench.machine.hardware.has_fast_bf16", lambda _: True)
    folder = RunFolder(tmp_path / "b").trial(trial.trial_id)
    assert len(pq.read_table(folder.epochs)) == 2
    assert not is_trained(trial, RunFolder(tmp_path / "b"))
    trained.clear()
    train(trial, tmp_path / "b")
    assert trained == {epoch: drawn[epoch] for epoch in (2, 3)}  # also what a network or a method draws by itself
    assert sha256_of(folder.model) == sha256_of(undisturbed.model)
    record = TrainingRecord.read(folder.training)
    assert (record.train_precision, record.auto_precision) == ("fp32", "fp32")
    keep = ["epoch", "learning_rate", "loss", "noisy_test_accuracy"]
    assert pq.read_table(folder.epochs, columns=keep) == pq.read_table(undisturbed.epochs, columns=keep)


def test_the_parts_of_a_trial_may_be_of_several_precisions(tmp_path: Path) -> None:
    """A member that goes on keeps its own, beside one that begins."""
    try:
        for precision, mixed in (("fp32", "no"), ("bf16", "bf16")):
            trial = small_trial(train={"precision": precision})
            assert loop.make_accelerator(trial, TrialFolder(tmp_path)).mixed_precision == mixed
    finally:
        leave_group()


@pytest.mark.parametrize(("loss", "norm", "what"), [(1.0, math.nan, "gradient's norm"), (math.inf, 1.0, "loss")])
def test_a_training_that_diverges_says_so(
    loss: float, norm: float, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "train_epoch", lambda *_: loop.EpochResult(loss, norm))
    with pytest.raises(loop.DivergedError, match=f"the {what} became (nan|inf) in epoch 0: lower train.learning_rate"):
        train(small_trial(), tmp_path)


def test_what_is_measured_of_a_training_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what its basis, or its teacher's votes, took: an earlier trial may have had them."""
    order: list[str] = []

    def noted(name: str, does: Callable[..., object]) -> None:
        def act(*rest: object) -> object:
            order.append(name)
            return does(*rest)

        monkeypatch.setattr(loop, name, act)

    for name in ("_spectra", "restart_peak_memory", "EnergyMeter", "train_epoch"):
        noted(name, getattr(loop, name))
    train(small_trial("generalised_ld", decomposition_ratio=0.2, train={"epochs": 1}), tmp_path)
    assert order == ["_spectra", "restart_peak_memory", "EnergyMeter", "train_epoch"]


def test_tied_weights_are_written(tmp_path: Path) -> None:
    layer = nn.Linear(3, 3)
    save_tensors(tmp_path / "model.safetensors", nn.Sequential(layer, nn.ReLU(), layer).state_dict(), {})
    found = load_file(tmp_path / "model.safetensors")
    assert sorted(found) == ["0.bias", "0.weight", "2.bias", "2.weight"]
    for name in ("0.weight", "2.weight"):
        assert torch.equal(found[name], layer.weight)


@pytest.fixture(scope="module")
def small_training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every `trained` is a copy of."""
    return here(train(small_trial(), tmp_path_factory.mktemp("trained")).path)


@pytest.fixture
def trained(small_training: Path, tmp_path: Path) -> RunFolder:
    """A run in which `small_trial()` is trained."""
    return RunFolder(shutil.copytree(small_training, tmp_path / "run"))


def test_momentum_has_the_layout_of_its_parameter_after_a_restart(trained: RunFolder) -> None:
    """In another layout than channels-last every later step would take a slow way."""
    trial = small_trial()
    state = last_state(trial, trained.trial(trial.trial_id), 10)
    assert state is not None
    model = state.model.to(memory_format=torch.channels_last)
    optimizer = loop._make_optimizer(trial, model, state.momentum)
    kept = [(parameter, optimizer.state[parameter]["momentum_buffer"]) for parameter in model.parameters()]
    assert any(parameter.ndim == 4 and not parameter.is_contiguous() for parameter, _ in kept)
    for parameter, momentum in kept:
        assert momentum.stride() == parameter.stride()
        assert momentum.abs().sum() > 0


def test_weights_of_another_architecture_are_refused(trained: RunFolder, tmp_path: Path) -> None:
    own = trained.trial(small_trial().trial_id)
    wide = small_trial().model_copy(update={"width": 8})
    folder = RunFolder(tmp_path).trial(wide.trial_id)
    save_tensors(folder.model, load_file(here(own.model)), {"training_id": wide.training_id})
    shutil.copy(here(own.training), here(folder.training))
    edit_record(folder.training, checkpoint_sha256=sha256_of(folder.model))
    with pytest.raises(CheckpointError, match="not the weights of a tiny of width 8"):
        load_verified(RunFolder(tmp_path), wide, 10)


def test_weights_are_fetched_once_to_be_verified_and_loaded(
    trained: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    really = Path.open

    def seen(path: Path, *how: Any, **more: Any) -> Any:
        opened.append(path.name)
        return really(path, *how, **more)

    monkeypatch.setattr(Path, "open", seen)
    trial = small_trial()
    load_verified(trained, trial, 10)
    assert opened.count(trained.trial(trial.trial_id).model.name) == 1


def test_the_same_training_is_not_done_twice_for_other_certification_settings(trained: RunFolder) -> None:
    trial, other = small_trial(), small_trial(certify={"n": 60, "n0": 5, "images": 4})
    assert not trained.trial(other.trial_id).training.exists()
    assert not is_trained(other, trained)
    assert not trained.trial(other.trial_id).training.exists()  # to ask changes nothing
    assert list(unfinished([other], trained)) == [other.trial_id]
    assert is_trained(other, trained)
    add_trials(trained, [other])
    assert merge_run(trained) == [other.trial_id]  # which waits, while its command starts what it needs
    assert sha256_of(trained.trial(other.trial_id).model) == sha256_of(trained.trial(trial.trial_id).model)


@pytest.mark.usefixtures("_fewer_test_images")
def test_an_ensemble_is_the_sum_of_its_members(tmp_path: Path) -> None:
    ensemble = small_trial("ensemble")
    run = RunFolder(tmp_path)
    for member in ensemble.members:
        assert not is_trained(ensemble, run)
        train(member, tmp_path)
    assert not is_trained(ensemble, run)
    repair(ensemble, run)
    assert is_trained(ensemble, run)
    record = read_json(run.trial(ensemble.trial_id).training)
    parts = [read_json(run.trial(member.trial_id).training) for member in ensemble.members]
    assert record["memory_bytes"] == sum(part["memory_bytes"] for part in parts)
    assert record["member_memory_bytes"] == max(part["memory_bytes"] for part in parts)
    assert record["train_seconds"] == sum(part["train_seconds"] for part in parts)
    assert record["parameters"] == 3 * parts[0]["parameters"] > 0
    assert record["model_bytes"] == sum(part["model_bytes"] for part in parts)
    images = torch.from_numpy(load_images("synthetic", "test").images[:4]).float() / 255
    logits = [load_verified(run, member, 10)(images) for member in ensemble.members]
    assert torch.allclose(load_verified(run, ensemble, 10)(images), sum(logits) / 3, atol=1e-6)
    assert not torch.equal(logits[0], logits[1])


def test_a_file_system_that_fails_says_nothing_about_a_training(
    trained: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = small_trial()
    folder = trained.trial(trial.trial_id)
    for path in (folder.training, folder.epochs):
        read, failing = Path.open, str(path)

        def broken(path: Path, *rest: Any, read: Any = read, failing: str = failing, **kinds: Any) -> Any:
            if str(path) == failing:
                raise OSError(errno.EIO, "Input/output error", failing)
            return read(path, *rest, **kinds)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "open", broken)
            with pytest.raises(OSError, match="Input/output error"):
                is_trained(trial, trained)
    assert is_trained(trial, trained)


def test_members_with_only_one_file_missing_are_trained_again(trained: RunFolder) -> None:
    trial = small_trial()
    assert is_trained(trial, trained)
    with trained.trial(trial.trial_id).model.open("ab") as file:
        file.write(b"x")
    assert not is_trained(trial, trained)
    assert not repair(trial, trained)
    assert not trained.trial(trial.trial_id).training.exists()  # who asks later sees what is to be trained


IMPORTS = """
import sys
import torch._dynamo  # as every optimizer does
from bench.data import load_images
from bench.machine.processes import leave_group
from tests.bench.train.test_training import OPTIONS, train_small, train_with_batch_norm
for split in ("train", "test"):
    load_images("synthetic", split)  # which draws them
"""
GROUP = """
for method in OPTIONS:
    train_small(method, sys.argv[1])
train_with_batch_norm(sys.argv[1])
leave_group()
"""
OPTIONS: dict[str, dict[str, int]] = {
    "consistency": {},
    "macer": {},
    "stability": {},
    "smoothadv": {"steps": 2},
    "smoothmix": {"steps": 2, "mix_step": 1},
    "cat_rs": {"steps": 2},
    "sun": {"copies": 2, "start_epoch": 0},
}
"""Of methods whose steps differ in kind: the smallest with every part of them in two epochs."""
IMAGES = 53
"""In batches of 24 or 48: the last is ragged, and of an odd number."""


def train_small(method: str, folder: str | Path) -> None:
    """Two epochs of a network without batch norm, by all processes of a group; the first writes folder/METHOD."""
    trial = small_trial(method, options=OPTIONS[method], train={"batch": 48, "precision": "fp32"})
    accelerator = loop.make_accelerator(trial, TrialFolder(Path(folder)))
    images = load_images("synthetic", "train").evenly(IMAGES)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 7 * 7, 10))
    parallel = accelerator.prepare(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    data = loop.TrainData(torch.from_numpy(images.images), torch.from_numpy(images.labels), 10)
    data.memory["votes"] = torch.randint(0, 9, (len(images), 10), generator=torch.Generator().manual_seed(1)) + 1
    steps = Steps(accelerator)
    losses = [loop.train_epoch(trial, epoch, parallel, optimizer, data, steps).loss for epoch in (0, 1)]
    took_part = accelerator.gather(torch.tensor([accelerator.process_index])).tolist()
    if accelerator.is_main_process:
        tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        save_file(tensors | {"losses": torch.tensor(losses), "ranks": torch.tensor(took_part)}, Path(folder, method))


def train_with_batch_norm(folder: str) -> None:
    """By all processes of a group; the first writes what each has as statistics after an epoch's steps, and then when
    its network is evaluated."""
    found: dict[str, list[torch.Tensor]] = {"own": [], "shared": []}
    train_epoch, noisy_accuracy = loop.train_epoch, loop.noisy_accuracy

    def statistics(model: nn.Module, accelerator: Accelerator) -> torch.Tensor:
        kept = [buffer for name, buffer in model.named_buffers() if name.endswith(("running_mean", "running_var"))]
        gathered: torch.Tensor = accelerator.gather(torch.cat(kept)[None])
        return gathered

    def trained(*arguments: Any) -> loop.EpochResult:
        result = train_epoch(*arguments)
        found["own"].append(statistics(arguments[2], arguments[5].accelerator))
        return result

    def evaluated(*arguments: Any) -> float:
        found["shared"].append(statistics(arguments[2], arguments[4]))
        return noisy_accuracy(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_epoch", trained)
        patch.setattr(loop, "noisy_accuracy", evaluated)
        loop.train(small_trial(), RunFolder(Path(folder, "run")))
    save_file({name: torch.stack(each) for name, each in found.items()}, Path(folder, "statistics"))


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes trained together, one method after the other."""
    folder = tmp_path_factory.mktemp("together")
    said_by_two_ranks(IMPORTS, GROUP, str(folder))
    return folder


@pytest.mark.parametrize("method", OPTIONS)
def test_two_workers_equal_one_without_batch_norm(method: str, together: Path, tmp_path: Path) -> None:
    try:
        train_small(method, tmp_path)
    finally:
        leave_group()
    one, two = load_file(tmp_path / method), load_file(together / method)
    assert one.pop("ranks").tolist() == [0]
    assert two.pop("ranks").tolist() == [0, 1]
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], rtol=1e-4, atol=1e-5), name


def test_ranks_share_the_statistics_of_batch_norm_at_the_end_of_an_epoch(together: Path) -> None:
    found = load_file(together / "statistics")
    assert found["own"].shape[:2] == found["shared"].shape[:2] == (2, 2)  # epochs, ranks
    for own, shared in zip(found["own"], found["shared"], strict=True):
        assert not torch.allclose(own[0], own[1])  # each rank has seen its own half of the batches
        assert torch.equal(shared[0], shared[1])
        assert torch.allclose(shared[0], own.mean(dim=0))
