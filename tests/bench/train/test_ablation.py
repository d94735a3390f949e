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
from results.analysis.groups import certified_groups
from results.analysis.sweeps import find_sweeps
from results.store.folder import RunFolder, read_json
from results.store.merge import merge_run
from results.store.run import read_run
from results.store.schema import SPECTRA, check_schema
from tests.conftest import small_trial, write_fake_run


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


def test_the_third_contribution_is_compared_in_one_recipe() -> None:
    trials = {(trial.name, trial.sigma): trial for trial in load_grid("contribution3").trials()}
    assert len(trials) == 6
    thesis = {(trial.name, trial.sigma): trial for trial in load_grid("thesis").trials()}
    for sigma in (0.25, 0.5):
        thresholded, plain, macer = (trials[name, sigma] for name in ("direct", "direct_unthresholded", "macer"))
        assert macer.trial_id == thesis["macer", sigma].trial_id
        assert (thresholded.options["threshold"], plain.options["threshold"]) == (0.99, 1.0)
        assert {**thresholded.options, "threshold": 1.0} == plain.options
        assert thresholded.options["strength"] == macer.options["strength"] * sigma  # type: ignore[operator]
        assert len({(trial.images_per_step, trial.objective.copies) for trial in (thresholded, plain, macer)}) == 1
        assert len({trial.train.model_copy(update={"batch": 1}).model_dump_json() for trial in trials.values()}) == 1


def test_the_rows_of_the_sensitivity_grid_are_sweeps(tmp_path: Path) -> None:
    trials = load_grid("sensitivity").trials()
    folder = write_fake_run(tmp_path, load_grid("sensitivity", ["certify.images=3"]).trials(), images=3)
    merge_run(folder)
    found = {
        (sweep.method, sweep.option, sweep.sigma): sweep for sweep in find_sweeps(certified_groups(read_run(tmp_path)))
    }
    values = {
        ("generalised_ld", "strength"): [1, 2, 5, 10, 20], ("generalised_ld", "entropy_weight"): [0, 0.25, 0.5, 1],
        ("generalised_ld", "copies"): [2, 4, 8], ("macer", "inverse_temperature"): [1, 4, 16],
        ("macer", "margin"): [2, 4, 8], ("direct", "strength"): [0.25, 2, 4],
    }  # fmt: skip
    assert {key: [value for value, _ in sweep.rows] for key, sweep in found.items()} == {
        (*key, sigma): each for key, each in values.items() for sigma in (0.25, 0.5)
    }
    assert {trial.model for trial in trials} == {"patches"}
    lite = {(trial.name, trial.sigma): trial for trial in load_grid("lite").trials()}
    grid = {(trial.name, trial.sigma): trial for trial in trials}
    for shared in (("macer", 0.25), ("direct", 0.5), ("generalised_ld", 0.5)):
        assert grid[shared].trial_id == lite[shared].trial_id


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
