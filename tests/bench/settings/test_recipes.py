"""The recipes of `paper`, number by number, each with the program that ran it."""

from __future__ import annotations

from typing import Any

import pytest

from bench.settings.grid import load_grid
from bench.settings.trial import Trial

SIGMAS = (0.25, 0.5, 1.0)
COHEN = "locuslab/smoothing code/train.py: --epochs 90 --lr_step_size 30 --batch 400"
MACER = "RuntianZ/macer README: 440 epochs, milestones 200 and 400, --lr 0.01 --batch_size 64"
CONSISTENCY = "jh-jeong/smoothing-consistency code/train_consistency.py: scheduler.step(epoch) after the epoch"
CATRS = "alinlab/smoothing-catrs EXPERIMENTS.MD; scheduler.step(epoch) after the epoch"
SUN = "eth-sri/acr-weakness script/cifar10/train_*.sh; scheduler.step() after the epoch"

# Each value is one, or three for the three σ; decay_epochs are the first epochs at a lower rate, counted from 0.
RECIPES: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("gaussian", COHEN, {"epochs": 90, "decay_epochs": [30, 60], "learning_rate": 0.1, "batch": 400}, {"copies": 1}),
    (
        "macer",
        MACER,
        {"epochs": 440, "decay_epochs": [200, 400], "learning_rate": 0.01, "batch": 64, "weight_decay": 5e-4},
        {"copies": 16, "strength": (12.0, 4.0, 12.0), "inverse_temperature": 16.0, "margin": 8.0},
    ),
    (
        "consistency",
        CONSISTENCY,
        {"epochs": 150, "decay_epochs": [51, 101], "learning_rate": 0.1, "batch": 256, "weight_decay": 1e-4},
        {"copies": 2, "strength": (20.0, 10.0, 10.0), "entropy_weight": 0.5},
    ),
    ("stability", CATRS, {"epochs": 150, "decay_epochs": [51, 101]}, {"copies": 1, "strength": (2.0, 2.0, 1.0)}),
    (
        "smoothadv",
        CATRS,
        {"epochs": 150, "decay_epochs": [51, 101], "learning_rate": 0.1},
        {"attack": "pgd", "steps": 10, "warmup_epochs": 10, "radius": (1.0, 1.0, 2.0), "copies": (4, 8, 2)},
    ),
    (
        "smoothmix",
        CATRS,
        {"epochs": 150, "decay_epochs": [51, 101]},
        {"copies": 2, "steps": 4, "strength": 5.0, "step_size": (0.5, 1.0, 2.0), "mix_step": (0, 1, 1)},
    ),
    (
        "cat_rs",
        CATRS,
        {"epochs": 150, "decay_epochs": [51, 101]},
        {"copies": 4, "steps": 4, "radius": 1.0, "strength": (0.5, 1.0, 2.0), "teacher_copies": 10_000},
    ),
    (
        "sun",
        SUN,
        {"epochs": 150, "decay_epochs": [50, 100], "learning_rate": 0.1, "batch": 256},
        {
            "copies": 4,
            "start_epoch": (60, 70, 60),
            "keep_above": (0.5, 0.4, 0.4),
            "steps": (3, 6, 4),
            "step_size": (0.25, 0.25, 0.5),
            "reweight_epochs": 10,
            "keep_copies": 100,
            "weight_copies": 16,
        },
    ),
]


@pytest.fixture(scope="module")
def trials() -> dict[tuple[str, float], Trial]:
    return {(trial.name, trial.sigma): trial for trial in load_grid("paper").trials()}


@pytest.mark.parametrize(("method", "source", "train", "options"), RECIPES, ids=[recipe[0] for recipe in RECIPES])
def test_the_recipe_is_the_one_that_its_program_ran(
    method: str, source: str, train: dict[str, Any], options: dict[str, Any], trials: dict[tuple[str, float], Trial]
) -> None:
    for place, sigma in enumerate(SIGMAS):
        trial = trials[method, sigma]
        expected = {key: value[place] if isinstance(value, tuple) else value for key, value in options.items()}
        found = {key: getattr(trial.objective, key) for key in expected}
        assert found == expected, source
        assert {key: getattr(trial.train, key) for key in train} == train, source
        assert trial.model == "resnet110"
        assert trial.train.augment


def test_the_teacher_of_cat_rs_is_trained_as_its_program_says(trials: dict[tuple[str, float], Trial]) -> None:
    """150 epochs, rate .1, batch 256, at σ = .25 whatever is trained; not the recipe of the Gaussian row."""
    teachers = {trials["cat_rs", sigma].teacher for sigma in SIGMAS}
    assert len(teachers) == 1
    [teacher] = teachers
    assert teacher is not None
    assert (teacher.method, teacher.sigma, teacher.decomposition_ratio) == ("gaussian", 0.25, None)
    assert (teacher.train.epochs, teacher.train.decay_epochs, teacher.train.batch) == (150, [51, 101], 256)
    assert teacher.trial_id != trials["gaussian", 0.25].trial_id


def test_lite_trains_the_teacher_that_it_has_anyway() -> None:
    trials = {(trial.name, trial.sigma): trial for trial in load_grid("lite").trials()}
    assert trials["cat_rs", 0.5].teacher == trials["gaussian", 0.25]


@pytest.mark.parametrize("grid", ["paper", "lite"])
def test_every_method_has_a_recipe(grid: str) -> None:
    from methods import METHODS

    loaded = load_grid(grid)
    missing = {name for name in METHODS if name not in loaded.methods and name not in loaded.rows}
    assert not missing
