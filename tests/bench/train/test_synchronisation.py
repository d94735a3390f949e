"""On an accelerator a step must not wait for a number: with tensors that have none, such a wait is an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DynamicOutputShapeException

from bench.models.classifier import build_model
from bench.train import loop
from bench.train.batches import Batch
from bench.train.replay import Steps
from methods import METHODS
from methods.gaussian import Gaussian
from results.errors import BenchError
from tests.conftest import small_trial


class EpochEndError(Exception):
    """Where it would ask for the mean loss, once."""


def take_two_steps(monkeypatch: pytest.MonkeyPatch, name: str, **options: object) -> None:
    """The loop's own steps, on batches of zeros: to draw them needs real numbers."""
    trial = small_trial(name, options=options)
    method = trial.objective
    taken: list[Batch] = []
    accelerator = SimpleNamespace(
        device=torch.device("cpu"),
        num_processes=1,
        unwrap_model=lambda model: model,
        autocast=nullcontext,
        backward=lambda loss: loss.backward(),
    )

    def of_epoch(one: Callable[[Batch], None]) -> Callable[[Batch], None]:
        def take(batch: Batch) -> None:
            one(batch)
            taken.append(batch)

        return take

    steps = Steps(accelerator)
    monkeypatch.setattr(steps, "of_epoch", of_epoch)
    with FakeTensorMode():
        noise, uniforms = torch.zeros((method.copies, 8, 3, 32, 32)), torch.zeros((method.uniforms, 8))
        places, offsets = torch.zeros(8, dtype=torch.int64), torch.zeros((8, 2), dtype=torch.int64)
        batch = Batch(places, offsets, torch.zeros(8, dtype=torch.bool), noise, uniforms, 1.0, 8)

        def batches(*_: object) -> Iterator[Batch]:
            yield from (batch, batch)
            raise EpochEndError

        monkeypatch.setattr(loop, "batches", batches)
        votes = torch.ones((50, 10), dtype=torch.int64)
        images, labels = torch.zeros((50, 3, 32, 32), dtype=torch.uint8), torch.zeros(50, dtype=torch.int64)
        data = loop.TrainData(images, labels, 10, memory={"votes": votes})
        model = build_model("tiny", num_classes=10, width=4)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        # an epoch in which every method does all it ever does
        with pytest.raises(EpochEndError):
            loop.train_epoch(trial, 100, model, optimizer, data, steps)
    assert len(taken) == 2


@pytest.mark.parametrize("name", METHODS)
def test_no_step_waits_for_a_number(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    take_two_steps(monkeypatch, name)


def test_nor_does_the_other_attack_of_smoothadv(monkeypatch: pytest.MonkeyPatch) -> None:
    take_two_steps(monkeypatch, "smoothadv", attack="ddn", steps=2)


def test_a_loss_without_a_mean_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gaussian, "training_loss", lambda _, step: step.train(step.noise).sum(dim=(0, 2)))
    with pytest.raises(BenchError, match=r"method 'gaussian': its loss must be a scalar tensor, gave \(8,\): is a"):
        take_two_steps(monkeypatch, "gaussian")


def test_a_mask_that_waits_is_an_error_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def waiting(_: Gaussian, step: SimpleNamespace) -> Tensor:
        logits: Tensor = step.train(step.noise)[0]
        return logits[step.labels == 1].sum()

    monkeypatch.setattr(Gaussian, "training_loss", waiting)
    with pytest.raises(DynamicOutputShapeException):
        take_two_steps(monkeypatch, "gaussian")
