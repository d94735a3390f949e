"""The grid of the thesis's ablations, and the spectrum that a trial with a decomposition leaves for Figure 4.3."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from bench.data import load_images
from bench.models.decomposition import spectrum_of
from bench.settings.grid import load_grid
from bench.settings.trial import Trial
from bench.train.loop import train
from results.store.folder import RunFolder, read_json
from results.store.schema import SPECTRA, check_schema
from tests.conftest import small_trial


def test_each_part_of_the_method_stands_alone_and_in_its_variants() -> None:
    trials = {(trial.name, trial.sigma): trial for trial in load_grid("ablation").trials()}
    assert len(trials) == 18
    methods = {name for name, _ in trials}
    generalised = {name for name in methods if name.startswith("generalised") and "_ld" not in name}
    assert generalised | (methods & {"consistency"}) == {
        "consistency", "generalised", "generalised_probabilities", "generalised_per_sample",
    }  # fmt: skip
    ratios = {name: trials[name, 0.25].decomposition_ratio for name in methods}
    assert {name: ratio for name, ratio in ratios.items() if ratio} == {
        "generalised_ld": 0.2, "generalised_ld_tenth": 0.1, "gaussian_ld": 0.2, "gaussian_ld_tenth": 0.1,
    }  # fmt: skip
    items = {name: trials[name, 0.5].options["accuracy_item"] for name in generalised}
    assert items == {
        "generalised": "mean_logits",
        "generalised_probabilities": "mean_probabilities",
        "generalised_per_sample": "per_sample",
    }


def test_the_ablation_has_the_thesiss_recipe() -> None:
    ablation = {(trial.name, trial.sigma): trial for trial in load_grid("ablation").trials()}
    thesis = {(trial.name, trial.sigma): trial for trial in load_grid("thesis").trials()}
    shared = ablation.keys() & thesis.keys()
    assert {name for name, _ in shared} == {"generalised_ld", "consistency", "gaussian_ld", "gaussian"}
    for key in shared:
        assert ablation[key].trial_id == thesis[key].trial_id
    for sigma in (0.25, 0.5):
        same = [trial for (_, at), trial in ablation.items() if at == sigma and not trial.method.startswith("gaussian")]
        assert len({trial.options["strength"] for trial in same}) == 1
        assert {trial.objective.copies for trial in same} == {4}


def test_the_ablation_can_be_run_small() -> None:
    changes = ["model=tiny", "train.epochs=2", "train.images=200", "certify.n=100", "certify.images=20"]
    trials = load_grid("ablation", changes, data="synthetic").trials()
    assert {(trial.model, trial.data, trial.train.epochs, trial.certify.n) for trial in trials} == {
        ("tiny", "synthetic", 2, 100)
    }


@pytest.fixture
def decomposed() -> Trial:
    settings = {"epochs": 1, "decay_epochs": [], "learning_rate": 0.05, "batch": 64, "images": 60, "precision": "fp32"}
    return small_trial("gaussian_ld", decomposition_ratio=0.2, train=settings)


def test_a_trial_leaves_the_spectrum_of_its_training_images(decomposed: Trial, tmp_path: Path) -> None:
    train(decomposed, RunFolder(tmp_path))
    folder = RunFolder(tmp_path).trial(decomposed.trial_id)
    table = pq.read_table(folder.spectrum)
    check_schema(table.schema, SPECTRA, folder.spectrum)
    expected = spectrum_of(torch.from_numpy(load_images("synthetic", "train").evenly(60).images)).variances
    assert table["variance"].to_pylist() == pytest.approx(expected.tolist())
    assert table["component"].to_pylist() == list(range(len(expected)))
    assert set(table["dataset"].to_pylist()) == {decomposed.dataset}
    assert set(table["images"].to_pylist()) == {60}
    above = sum(variance > 0.2 * decomposed.sigma**2 for variance in table["variance"].to_pylist())
    assert read_json(folder.training)["decomposition_kept"] == above


def test_a_trial_without_a_decomposition_leaves_none(decomposed: Trial, tmp_path: Path) -> None:
    plain = small_trial("gaussian", train=decomposed.train.model_dump())
    train(plain, RunFolder(tmp_path))
    assert not RunFolder(tmp_path).trial(plain.trial_id).spectrum.exists()
