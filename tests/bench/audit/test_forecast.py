"""`bench run --dry-run`: passes by hand, and that the measured rates are those of this machine."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from typer.testing import CliRunner

from bench.audit import forecast
from bench.audit.forecast import Passes, Rates, count_passes
from bench.cli.base import app
from bench.data import ImageSet, load_images
from methods import Method, TrainingStep
from results.analysis.power import detectable
from results.errors import BenchError
from tests.conftest import small_trial

TRAIN = {"epochs": 4, "decay_epochs": [3], "batch": 64, "images": 200}
HAND: list[tuple[str, dict[str, Any], Passes]] = [
    ("gaussian", {}, Passes(train=4 * 200)),
    ("consistency", {"copies": 3}, Passes(train=4 * 200 * 3)),
    ("macer", {"copies": 5}, Passes(train=4 * 200 * 5)),
    ("stability", {}, Passes(train=4 * 200 * 2, graphs=2)),
    ("smoothadv", {"copies": 2, "steps": 3}, Passes(train=4 * 200 * 2, attack=4 * 200 * 2 * 3)),
    ("smoothmix", {"copies": 2, "steps": 3}, Passes(train=4 * 200 * 2 * 2, attack=4 * 200 * 2 * 3, graphs=2)),
    ("cat_rs", {"copies": 2, "steps": 3}, Passes(train=4 * 200 * 2 * 2, attack=4 * 200 * 2 * 3, graphs=2)),
    (
        "sun",  # from epoch 1 on: attacked in three epochs, surveyed before the first of them and before epoch 3
        {"copies": 2, "steps": 3, "start_epoch": 1, "reweight_epochs": 2, "keep_copies": 10, "weight_copies": 16},
        Passes(train=4 * 200 * 2, attack=3 * 200 * 2 * 3, survey=200 * (10 + 16 + 16)),
    ),
]


@pytest.mark.parametrize(("method", "options", "expected"), HAND, ids=[case[0] for case in HAND])
def test_passes_by_hand(method: str, options: dict[str, Any], expected: Passes) -> None:
    trial = small_trial(method, options=options, train=TRAIN)
    found = count_passes(trial, 200, 500, certify=True)
    accuracy = 4 * 500  # noisy, after each epoch
    certified = 12 * (10 + 40)
    assert found == Passes(
        expected.train, expected.attack, expected.survey + accuracy, certified, graphs=expected.graphs
    )
    assert count_passes(trial, 200, 500, certify=False).certify == 0


def test_an_ensemble_is_certified_by_all_its_members_and_trained_by_none() -> None:
    assert count_passes(small_trial("ensemble", train=TRAIN), 200, 500, certify=True) == Passes(certify=3 * 12 * 50)


@dataclass(frozen=True, kw_only=True)
class Particular(Method):
    """Takes images of one size and number of channels, and so many classes."""

    classes: int = 10
    shape: tuple[int, int, int] = (3, 32, 32)

    def training_loss(self, step: TrainingStep) -> torch.Tensor:
        channels, height, _ = self.shape
        seen = torch.nn.functional.conv2d(step.images, torch.ones(1, channels, height, height))
        assert seen.shape == (len(step.images), 1, 1, 1)
        torch.nn.functional.avg_pool2d(step.images, 2)
        logits = step.train((step.images + step.noise)[..., :28, :28])
        return (logits.softmax(dim=-1) - torch.nn.functional.one_hot(step.labels, self.classes)).square().mean()


def test_passes_are_counted_of_a_method_that_takes_the_datas_images_alone() -> None:
    grey = ImageSet(np.zeros((3, 1, 28, 28), dtype=np.uint8), np.zeros(3, dtype=np.int64), 12)
    expected = Passes(train=4 * 200 * 2, survey=4 * 500)
    never = partial(pytest.fail, "loaded for nothing")
    for method, data in (
        (Particular(copies=2), never),
        (Particular(copies=2, classes=12, shape=(1, 28, 28)), lambda: grey),
    ):
        trial = small_trial(train=TRAIN)
        vars(trial)["objective"] = method
        assert count_passes(trial, 200, 500, certify=False, like=data) == expected
    with pytest.raises(RuntimeError):
        count_passes(trial, 200, 500, certify=False)


def test_a_loss_that_is_no_scalar_is_refused_where_passes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = small_trial()
    for given, told in ((None, "None"), (torch.zeros(1, 2), r"\(1, 2\)"), (0.5, "a float")):
        monkeypatch.setattr(type(trial.objective), "loss", lambda *_, given=given, **__: given)
        with pytest.raises(
            BenchError, match=rf"^method 'gaussian': its loss must be a scalar tensor, gave {told}: is a"
        ):
            count_passes(trial, 200, 500, certify=False)


def test_the_activations_that_are_held_are_those_of_the_network() -> None:
    """The input (3072 numbers an image) and the output of the last layer (10)."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10), torch.nn.Sigmoid())
    images = torch.rand(2, 3, 32, 32)
    held = forecast._held(lambda: model(images).sum(), model)
    assert held == 2 * (3072 + 10) * 4


def test_rates_are_measured() -> None:
    found = forecast.measure(small_trial(), load_images("synthetic", "train").evenly(20), torch.device("cpu"), 0.4)
    assert 10 < found.train < found.survey < 1e7
    assert found.train < 1.5 * found.attack
    assert found.certify > found.train
    assert 1e3 < found.activation_bytes < 1e6


def test_what_is_needed_is_made_before_it_is_ready_and_speed_measured_after(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []
    rates = Rates(train=100.0, attack=200.0, survey=400.0, certify=500.0, activation_bytes=1000, model_bytes=10)

    def measured(_trial: object, _data: object, _device: object, seconds: float, _company: object) -> Rates:
        done.append(seconds)
        return rates

    monkeypatch.setattr(forecast, "measure", measured)
    forecast.forecast([small_trial(), small_trial("consistency")], ready=lambda: done.append("ready"))
    assert done == [0.0, "ready", forecast.SECONDS]


def dry_run(*options: str) -> str:
    result = CliRunner().invoke(app, ["run", "--grid", "smoke", "--dry-run", *options])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_dry_run_lists_what_it_would_do_and_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = Rates(train=100.0, attack=200.0, survey=400.0, certify=500.0, activation_bytes=1000, model_bytes=10)
    monkeypatch.setattr(forecast, "measure", lambda *_: rates)  # of each worker
    monkeypatch.chdir(tmp_path)
    chosen = (
        "--workers",
        "1",
        "--methods",
        "ensemble,consistency,cat_rs,gaussian",
        "--set",
        "rows.cat_rs.options.teacher_copies=10",
    )
    found = json.loads(dry_run("--json", *chosen))
    assert not list(tmp_path.iterdir())
    trials = {(each["name"], each["sigma"], each["seed"]): each for each in found["trials"]}
    assert len(trials) == 8 + 4  # two more members of either ensemble; the teacher is the Gaussian trial
    assert trials["gaussian", 0.25, 0]["shared"] == ["teacher of cat_rs at σ = 0.25", "teacher of cat_rs at σ = 0.5"]
    assert trials["consistency", 0.5, 2]["shared"] == ["member of ensemble at σ = 0.5"]
    gaussian = trials["gaussian", 0.5, 0]
    assert gaussian["passes"]["train"] == 10 * 2000
    assert gaussian["seconds"] == pytest.approx(20_000 / 100 + 10 * 500 / 400 + 100 * 1032 / 500)
    # the teacher votes once, for the first that asks
    first, second = (trials["cat_rs", sigma, 0]["passes"]["survey"] for sigma in (0.25, 0.5))
    assert first - second == 2000 * 10
    besides = found["start_seconds"] + 12 * found["trial_seconds"] + found["report_seconds"]
    assert besides > 20  # Ray, the workers and the report
    assert found["seconds"] == pytest.approx(sum(each["seconds"] for each in found["trials"]) + besides)
    assert [(each["sigma"], each["images"], each["seeds"], each["pairs"]) for each in found["detectable"]] == [
        (0.25, 100, 1, 12),
        (0.5, 100, 1, 12),
    ]
    assert found["detectable"][0] == asdict(detectable(0.25, 100, 1, 12))
    text = dry_run(*chosen)
    assert "With one seed the difference is that of two trained models" in " ".join(text.split())
    assert "0.0664" in text  # 2.8 · .94 · .25 / √100, and a little more for t
    assert "trained once: gaussian seed 0 at σ = 0.25, teacher of cat_rs" in text
    assert "12 trials on" in text
    assert "report 0:29" in text
    three = json.loads(dry_run("--json", "--workers", "3", *chosen[2:]))  # who share the work
    assert three["trials"][0]["seconds"] == pytest.approx(found["trials"][0]["seconds"] / 3)
    monkeypatch.setattr(forecast, "usable_cores", lambda: 4)
    beside = json.loads(dry_run("--json", "--cpus-per-worker", "1", *chosen))  # four trials, each as before
    assert [each["seconds"] for each in beside["trials"]] == [each["seconds"] for each in found["trials"]]
    assert (found["at_once"], three["at_once"], beside["at_once"]) == (1, 1, 4)
    passes, report = sum(each["seconds"] for each in beside["trials"]), beside["report_seconds"]
    assert beside["seconds"] == pytest.approx((passes + 12) / 4 + beside["start_seconds"] + report)
    assert not list(tmp_path.iterdir())


def test_what_a_run_could_detect_is_of_the_seeds_that_all_rows_have() -> None:
    trials = [small_trial(name, seed=seed) for name, seed in (("macer", 0), ("macer", 1), ("gaussian", 1))]
    [found] = forecast._detectable(trials)
    assert (found.images, found.seeds, found.pairs) == (12, 1, 1)
    [found] = forecast._detectable([*trials, small_trial("gaussian", seed=0)])
    assert found.seeds == 2
    assert forecast._detectable(trials[:2]) == []


class Waiting:
    """A network whose passes wait for half a second, as where others compute, and compute next to nothing."""

    device, batch = torch.device("cpu"), 8

    def certify(self, _count: int) -> None:
        time.sleep(0.5)


def test_what_others_take_of_a_processor_does_not_count() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert forecast._rate(Waiting(), "certify", 0.1) > 20 * 8 / 0.5  # type: ignore[arg-type]
        torch.set_num_threads(2)  # of which no clock tells alone
        assert forecast._rate(Waiting(), "certify", 0.1) < 8 / 0.5  # type: ignore[arg-type]
    finally:
        torch.set_num_threads(before)


def test_what_others_use_meanwhile_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    others = forecast._Others(4)
    clocks = iter([(10.0, 100.0, 3.0), (20.0, 125.0, 8.0)])  # wall, core-seconds of all, of this process

    def tick() -> float:
        wall, whole, own = next(clocks)
        times = type("Times", (tuple,), {"idle": 0.0})((whole, 0.0))
        monkeypatch.setattr(psutil, "cpu_times", lambda: times)
        monkeypatch.setattr(time, "process_time", lambda: own)
        return wall

    monkeypatch.setattr(time, "monotonic", tick)
    monkeypatch.setattr(psutil, "cpu_count", lambda: 4)
    with others:
        pass
    assert others.share == pytest.approx((25 - 5) / 40)
    monkeypatch.setattr(psutil, "cpu_count", lambda: 64)  # a container's part of a machine
    assert others.share is None
