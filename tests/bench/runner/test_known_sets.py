"""Trials on data sets that are had by name: of one channel, of 100 classes, of digits that must not be mirrored."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from bench.audit.perf_certify import compare_precisions
from bench.data import load_images
from bench.models.checkpoint import load_verified
from bench.models.sources import open_model
from bench.runner import work
from bench.runner.task import trial_task
from bench.settings.grid import read_trial
from bench.settings.registries import DATASETS, NETWORKS
from bench.train import loop
from bench.train.augment import crop_and_flip
from bench.train.resume import last_state
from results import read_run
from results.store.folder import RunFolder
from results.store.records import TrainingRecord
from results.store.run import read_thumbnails
from tests.bench.data.originals import drawn, write_original
from tests.command import bench
from tests.conftest import SMALL, small_trial, trial_ids, without_figures

pytestmark = pytest.mark.usefixtures("_no_figures")
TRAIN = SMALL["train"] | {"epochs": 8, "decay_epochs": [], "learning_rate": 0.1, "images": 200}
CERTIFY = SMALL["certify"] | {"n": 100, "images": 9}
TRIALS: dict[str, dict[str, Any]] = {
    "mnist": {"method": "gaussian_ld", "decomposition_ratio": 0.2},
    "fashion_mnist": {"method": "ensemble"},
    "cifar100": {},
    "svhn": {},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with all four data sets, of 300 and 40 images each."""
    folder = tmp_path_factory.mktemp("known")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_DATA", str(folder))
        for name in TRIALS:
            write_original(name, folder, drawn(name, {"train": 300, "test": 40}), patch)
        load_images.cache_clear()
        yield folder
    load_images.cache_clear()


@pytest.fixture(scope="module")
def runs(place: Path) -> dict[str, RunFolder]:
    """A trained and certified trial on each."""
    for name, changes in TRIALS.items():
        trial = small_trial(data=name, dataset="", train=TRAIN, certify=CERTIFY, **changes)
        (place / f"{name}.json").write_text(trial.model_dump_json())
        with without_figures():
            assert bench("trial", str(place / f"{name}.json"), "--out", str(place / f"run-{name}")) == 0
    return {name: RunFolder(place / f"run-{name}") for name in TRIALS}


@pytest.mark.parametrize("name", sorted(TRIALS))
def test_a_trial_on_a_known_set_is_certified_and_reported(name: str, runs: dict[str, RunFolder]) -> None:
    run = read_run(runs[name].path)
    images, labels = drawn(name, {"train": 300, "test": 40})["test"]
    indices = [place * 40 // 9 for place in range(9)]
    assert run.certificates["index"].tolist() == indices
    assert run.certificates["label"].tolist() == labels[indices].tolist()
    assert set(run.certificates["dataset"]) == {name}
    assert (run.certificates["counts"].map(len) == (100 if name == "cifar100" else 10)).all()
    kept = read_thumbnails(runs[name].path)
    for index, png in kept[["index", "png"]].itertuples(index=False):
        picture = np.asarray(Image.open(io.BytesIO(png)))
        assert np.array_equal(picture, images[index].transpose(1, 2, 0).squeeze())
    assert (runs[name].path / "report.html").exists()
    for table in ("certified_accuracy", "cost"):
        text = " ".join((Path(str(runs[name].path)) / "tables" / f"{table}.md").read_text().split())
        assert "†" not in text
    page = (Path(str(runs[name].path)) / "tables" / "certified_accuracy.md").read_text()
    assert "No published numbers stand here: they are of CIFAR-10." in " ".join(page.split())


@pytest.mark.parametrize("name", sorted(TRIALS))
def test_verify_and_attack_take_the_model_as_it_is_stored(name: str, runs: dict[str, RunFolder]) -> None:
    assert bench("verify", str(runs[name].path)) == 0
    certified = (read_run(runs[name].path).certificates["status"] == "certified").any()
    arguments = ["--images", "9", "--steps", "3", "--samples", "4", "--n", "100"]
    assert bench("attack", str(runs[name].path), *arguments) == (0 if certified else 2)
    assert certified or name == "cifar100"  # 300 images of 100 classes teach nothing


def test_a_restored_classifier_of_one_channel_is_the_one_that_was_trained(runs: dict[str, RunFolder]) -> None:
    run = runs["mnist"]
    folder = run.trial(trial_ids(run)[0])
    trial, record = read_trial(folder.settings), TrainingRecord.read(folder.training)
    model: Any = load_verified(run, trial, record.num_classes or 0)
    images = torch.rand(4, 1, 28, 28)
    assert record.decomposition_kept
    assert model.decomposition.basis.shape == (784, record.decomposition_kept)
    projected = model.decomposition(images)
    mean, std = torch.tensor(0.1307), torch.tensor(0.3081)
    assert torch.equal(model(images), model.network((projected - mean) / std))
    state = last_state(trial, folder, record.num_classes or 0)
    assert state
    assert torch.equal(state.model.eval()(images), model(images))


def test_a_model_goes_on_to_its_own_data_and_no_other(
    runs: dict[str, RunFolder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {name: f"{run.path}/{trial_ids(run)[0]}" for name, run in runs.items()}
    few = ["--n", "100", "--images", "4", "--out", str(tmp_path / "run")]
    assert bench("certify", "--model", names["mnist"], *few) == 0
    assert bench("certify", "--model", names["mnist"], "--data", "fashion_mnist", "--name", "other", *few) == 0
    assert set(read_run(tmp_path / "run").certificates["dataset"]) == {"mnist", "fashion_mnist"}
    capsys.readouterr()
    for model, data, message in [
        (names["mnist"], "synthetic", "takes images of 1 channel, those of the data have 3"),
        (names["svhn"], "mnist", "takes images of 3 channels, those of the data have 1"),
        (names["fashion_mnist"], "synthetic", "takes images of 1 channel, those of the data have 3"),
    ]:
        assert bench("certify", "--model", model, "--data", data, *few) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    found = compare_precisions(open_model(names["mnist"]), 0.25, 2, n=100)
    assert found["precision_images"] == 2


class Linear(nn.Module):
    """Somebody's own model of one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(784, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layer(images.reshape(len(images), 784))
        return logits


def test_a_model_from_elsewhere_is_certified_on_one_channel(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"{__name__}:Linear"
    torch.manual_seed(0)
    few = ["--sigma", "0.25", "--n", "100", "--images", "4", "--out", str(tmp_path / "run")]
    assert bench("certify", "--model", name, "--data", str(place / "MNIST"), *few) == 0
    run = read_run(tmp_path / "run")
    assert run.certificates["dataset"].tolist() == ["mnist"] * 4
    capsys.readouterr()
    assert bench("certify", "--model", name, "--data", "svhn", *few) == 2
    assert "the model cannot take images (3, 32, 32), not even one by one" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "mirrored"), [("mnist", False), ("svhn", False), ("fashion_mnist", True)])
def test_digits_are_cropped_and_not_mirrored(
    name: str, mirrored: bool, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def recorded(images: Tensor, offsets: Tensor, flips: Tensor) -> Tensor:
        seen.append(bool(flips.any()))
        assert (offsets != 4).any()
        return crop_and_flip(images, offsets, flips)

    monkeypatch.setattr(loop, "crop_and_flip", recorded)
    trial = small_trial(data=str(place / name), dataset=name, train=TRAIN | {"epochs": 1})
    work.train_trial(trial_task(trial, RunFolder(tmp_path), certify=False, shard_size=1))
    assert seen == [mirrored] * 4


GREY = """
from bench import register_dataset, register_network


@register_dataset("grey")
def grey(split):
    from bench.data import ImageSet, load_images

    found = load_images("synthetic", split).evenly(100)
    return ImageSet(found.images[:, :1, :20, :24].copy(), found.labels, 10)


@register_network("colour")
def colour(num_classes, width=16):
    from torch import nn

    return nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))
"""


def test_a_data_set_of_ones_own_may_have_one_channel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for registry in (DATASETS, NETWORKS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    monkeypatch.chdir(tmp_path)
    plugin, out = tmp_path / "mine.py", tmp_path / "run"
    plugin.write_text(GREY)
    arguments = ["--grid", "smoke", "--methods", "gaussian", "--sigmas", ".25", "--data", "grey", "--out", str(out)]
    assert bench("run", "--plugin", str(plugin), "--set", "model=colour", *arguments) == 2
    message = "model = 'colour': takes images of 3 channels, and those of the data have 1: give its builder a parameter"
    assert message in " ".join(capsys.readouterr().err.split())
    assert not out.exists()
    trial = small_trial(data="grey", dataset="", train=TRAIN | {"images": 100}, certify=CERTIFY)
    (tmp_path / "trial.json").write_text(trial.model_dump_json())
    assert bench("trial", "trial.json", "--plugin", str(plugin), "--out", str(out)) == 0
    run = RunFolder(out)
    assert read_run(out).certificates["dataset"].str.match("grey@").all()
    [trial_id] = trial_ids(run)
    model: Any = open_model(f"{out}/{trial_id}").model
    assert model.mean.flatten().tolist() == pytest.approx([0.4734])
    assert model.std.flatten().tolist() == pytest.approx([0.2009])
    assert bench("verify", str(out), "--plugin", str(plugin)) == 0
