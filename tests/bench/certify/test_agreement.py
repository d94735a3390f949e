"""All who certify a trial do it alike."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from bench.certify import engine, shard
from bench.runner import work
from bench.runner.task import trial_task
from bench.settings.trial import Trial
from results.store.description import add_trials
from results.store.folder import RunFolder
from results.store.records import BatchRecord
from tests.conftest import small_trial


@pytest.fixture(scope="module")
def trial() -> Trial:
    return small_trial(certify={"n": 40, "n0": 10, "images": 4, "precision": "fp32"})


@pytest.fixture(scope="module")
def trained(trial: Trial, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every `run` is a copy of."""
    path = tmp_path_factory.mktemp("trained")
    add_trials(RunFolder(path), [trial])
    work.train_trial(trial_task(trial, RunFolder(path), certify=True, shard_size=2))
    return path


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run in which the trial is trained, and is to be compiled."""
    for module in (engine, shard):
        monkeypatch.setattr(module, "COMPILE_FROM", 40)
    return RunFolder(shutil.copytree(trained, tmp_path / "run"))


def here(monkeypatch: pytest.MonkeyPatch, *, compiles: bool) -> list[int]:
    """Another worker, on a machine where compiling works, or does not; how often it tried."""
    tried: list[int] = []

    def fails(_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no C++ compiler")

    def compile_model(classify: object, **_: object) -> object:
        tried.append(1)
        return classify if compiles else fails

    monkeypatch.setattr(torch, "compile", compile_model)
    monkeypatch.setattr(shard, "last_model", shard._LastModel())
    return tried


def engines(run: RunFolder, trial: Trial) -> set[str]:
    files = run.trial(trial.trial_id).shard_files()
    return {name for file in files for name in pq.read_table(file)["engine"].to_pylist()}


def test_where_the_first_cannot_compile_nobody_does(
    trial: Trial, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = trial_task(trial, run, certify=True, shard_size=2)
    here(monkeypatch, compiles=False)
    first, second = work.shards_left(task)
    work.certify(task, first)
    tried = here(monkeypatch, compiles=True)
    work.certify(task, second)
    assert not tried
    assert engines(run, trial) == {"eager"}


def test_where_the_first_compiles_one_who_cannot_refuses(
    trial: Trial, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = trial_task(trial, run, certify=True, shard_size=2)
    tried = here(monkeypatch, compiles=True)
    first, second = work.shards_left(task)
    work.certify(task, first)
    assert len(tried) == 1  # what was compiled for the decision serves the shards
    here(monkeypatch, compiles=False)
    with pytest.raises(ValueError, match=r"cannot be run by inductor here .* of one that was"):
        work.certify(task, second)
    here(monkeypatch, compiles=True)
    assert work.shards_left(task) == [second]
    work.certify(task, second)
    assert engines(run, trial) == {"inductor"}
    assert BatchRecord.read(run.trial(trial.trial_id).batch) == BatchRecord(engine="inductor")


def crowded(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Another worker, in whose memory no more images have room at once."""
    forward = engine._InPrecision.forward

    def full(self: Any, images: torch.Tensor) -> torch.Tensor:
        if len(images) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, images)

    here(monkeypatch, compiles=True)
    monkeypatch.setattr(engine._InPrecision, "forward", full)


def test_passes_are_as_large_as_the_first_can_and_who_cannot_refuses(
    trial: Trial, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, batches = trial_task(trial, run, certify=True, shard_size=2), set()
    with monkeypatch.context() as first_worker:
        crowded(first_worker, 40)
        first, second = work.shards_left(task)
        work.certify(task, first)
    with monkeypatch.context() as weaker:
        crowded(weaker, 20)
        for _ in range(2):  # it changes nothing for the others
            with pytest.raises(ValueError, match=r"takes 16 images at once here, .* are of passes of 32"):
                work.certify(task, second)
        with pytest.raises(ValueError, match="of passes of 32"):
            work.shards_left(task)
    here(monkeypatch, compiles=True)
    work.certify(task, second)
    for file in run.trial(trial.trial_id).shard_files():
        batches |= set(pq.read_table(file)["batch"].to_pylist())
    assert batches == {32}


def test_who_alone_takes_fewer_than_usual_refuses(
    trial: Trial, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    here(monkeypatch, compiles=True)
    first, second = work.shards_left(trial_task(trial, run, certify=True, shard_size=2))
    work.certify(trial_task(trial, run, certify=True, shard_size=2), first)
    crowded(monkeypatch, 20)
    with pytest.raises(ValueError, match=r"takes 16 images at once here, .* are of passes of 64"):
        work.certify(trial_task(trial, run, certify=True, shard_size=2), second)


def test_a_shard_after_which_the_classifier_answers_otherwise_is_not_written(
    trial: Trial, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = trial_task(trial, run, certify=True, shard_size=2)
    here(monkeypatch, compiles=True)
    [first, _] = work.shards_left(task)
    calls = 0

    def drifting(classify: Any, **_: object) -> Any:
        def fast(images: torch.Tensor) -> torch.Tensor:
            nonlocal calls
            calls += 1
            logits: torch.Tensor = classify(images)
            return logits if calls <= 3 else logits.roll(1, dims=1)

        return fast

    monkeypatch.setattr(torch, "compile", drifting)
    monkeypatch.setattr(shard, "last_model", shard._LastModel())
    with pytest.raises(ValueError, match="no longer answers as it did"):
        work.certify(task, first)
    assert not run.trial(trial.trial_id).shard_files()
