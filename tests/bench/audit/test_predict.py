"""`bench predict`: the answers of a model that is known, and what its base classifier says."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import bench.cli  # noqa: F401  # which registers the commands
from bench.audit.predict import Predictions, predict_source
from bench.certify.composed import DualSmoothed
from bench.certify.smoothing import Smoothed
from bench.cli.base import app
from bench.data import ImageSet, load_images
from bench.models.sources import Source, open_model
from results.store.settings import ExternalTrial
from tests.bench.audit.composed_models import bright, nearest

PLANE = """
import torch
from torch import nn


class Plane(nn.Module):
    \"\"\"Class 1 where the image is brighter than one half, else class 0: its smoothed answer is known.\"\"\"

    def forward(self, images):
        score = images.flatten(1).mean(1) - 0.5
        zeros = torch.zeros(len(images), 8)
        return torch.cat([-score[:, None], score[:, None], zeros - 9], 1)


def plane():
    return Plane()
"""


def predicted(
    source: Source, data: ImageSet, sigma: float, n: int, images: int | None = None, seed: int = 0
) -> Predictions:
    settings = ExternalTrial.model_validate(
        {
            "name": "model",
            "model": "",
            "weights": source.weights,
            "sigma": sigma,
            "seed": seed,
            "certify": {"images": images, "precision": "fp32"},
        }
    )
    return predict_source(source, settings, data, n=n, alpha=0.001)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    (tmp_path / "a_plane.py").write_text(PLANE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return open_model("a_plane:plane")


def test_images_that_come_in_parts_get_the_same_answers(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_images("synthetic", "test").evenly(41)
    whole = predicted(source, data, 20.0, 100, images=40, seed=3).rows
    monkeypatch.setattr("bench.audit.predict.AT_ONCE", 4)
    assert predicted(source, data, 20.0, 100, images=40, seed=3).rows.equals(whole)
    assert len(set(whole["noisy"])) == 2  # else the noise would not matter


def test_answers_are_those_of_the_side_of_the_plane(source: Source) -> None:
    whole = load_images("synthetic", "test").evenly(40)
    data = replace(whole, images=whole.pixels[:, :, ::4, ::4])  # fewer pixels to draw noise for
    found = predicted(source, data, 0.125, 2000).rows
    brightness = data.pixels.reshape(40, -1).mean(axis=1) / 255 - 0.5
    side = (brightness > 0).astype(int)
    assert (found["clean"] == side).all()
    sure = found["answer"] >= 0
    assert (found["answer"] == side)[sure].all()
    # abstained where the plane is near: P(side) = Φ(|brightness| √192 / σ), and 2000 samples must tell it from 1/2
    probability = np.array([0.5 * (1 + math.erf(abs(b) * math.sqrt(192) / 0.125 / math.sqrt(2))) for b in brightness])
    assert (probability[~sure] < 0.58).all()
    assert (probability[sure] > 0.51).all()
    noisy_right = (found["noisy"] == side).mean()
    assert abs(noisy_right - probability.mean()) < 4 * math.sqrt(0.25 / 40)


@pytest.mark.usefixtures("source")
def test_the_command_says_shares_and_needs_sigma() -> None:
    words = ["predict", "--model", "a_plane:plane", "--data", "synthetic", "--images", "10", "--n", "200"]
    result = CliRunner().invoke(app, [*words, "--sigma", ".25", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert len(found["rows"]) == 10
    rows = found["rows"]
    assert found["accuracy"] == sum(row["answer"] == row["label"] for row in rows) / 10
    assert found["base_accuracy_without_noise"] == sum(row["clean"] == row["label"] for row in rows) / 10
    text = CliRunner().invoke(app, [*words, "--sigma", ".25"]).output
    assert "abstained:" in text
    assert "--sigma: must be given" in str(CliRunner().invoke(app, words).exception)
    refused = CliRunner().invoke(app, [*words, "--sigma", ".25", "--n", "5"])
    assert "n must be at least" in str(refused.exception)


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize(("available", "answered"), [(7, 7), (500, 20)])
def test_twenty_images_are_answered_or_all_of_fewer(
    available: int, answered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_images("synthetic", "test").evenly(available)
    monkeypatch.setattr("bench.data.load_images", lambda *_: data)
    words = ["predict", "--model", "a_plane:plane", "--data", "synthetic", "--sigma", ".25", "--n", "20", "--json"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert len(json.loads(result.stdout)["rows"]) == answered


def test_a_composed_classifier_answers_and_has_no_base_accuracy() -> None:
    models = "tests.bench.audit.composed_models"
    parts = ["--selector", f"{models}:bright@0.5", *(f"--classifier={models}:nearest@{sigma}" for sigma in (0.25, 1.0))]
    words = ["predict", *parts, "--data", "synthetic", "--images", "12", "--n", "300", "--precision", "fp32"]
    result = CliRunner().invoke(app, [*words, "--seed", "2", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert set(found) == {"rows", "accuracy", "abstained"}
    data = load_images("synthetic", "test").evenly(12)
    classifiers = [Smoothed(nearest(), sigma, 10, precision="fp32") for sigma in (0.25, 1.0)]
    dual = DualSmoothed(Smoothed(bright(), 0.5, 2, precision="fp32"), classifiers)
    pixels = torch.from_numpy(data.images).float() / 255
    indices = [row["index"] for row in found["rows"]]
    expected = dual.predict(pixels, n=300, seed=2, indices=indices)
    assert [row["answer"] for row in found["rows"]] == expected
    assert len(set(expected)) > 2
    assert "base" not in CliRunner().invoke(app, words).output
    refused = CliRunner().invoke(app, ["predict", "--data", "synthetic", parts[2]])
    assert "--classifier MODEL@SIGMA twice or more" in str(refused.exception)


def test_a_decomposition_is_part_of_the_base_classifier() -> None:
    """Its samples are drawn behind the projection; the image itself goes through it."""
    from bench.models.classifier import Classifier
    from bench.models.decomposition import LinearDecomposition

    class Sign(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            score = images.flatten(1).sum(1)
            return torch.stack([-score, score, *[score * 0 - 1e6] * 8], 1)

    basis = torch.zeros(3072, 1)
    basis[0] = 1
    mean = torch.zeros(3072)
    mean[1:] = -1
    model = Classifier(Sign(), LinearDecomposition(mean, basis), torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1))
    data = load_images("synthetic", "test").evenly(6)
    source = Source(model=model.eval(), name="sign", where="here", weights="0" * 64, trial=None, training=None)
    found = predicted(source, data, 0.25, 300).rows
    assert (found["clean"] == 0).all()  # of all pixels but the first the projection makes −1
    assert (found["answer"] == 0).all()
