from __future__ import annotations

from pathlib import Path

import pytest

from bench.settings.grid import GridError, load_grid
from bench.settings.trial import Trial
from bench.settings.tuning import Space
from methods import Among
from methods.macer import MACER
from tests.conftest import small_trial


@pytest.mark.parametrize("name", ["smoke", "thesis"])
def test_shipped_grids_have_the_twelve_trials_of_table_5_1(name: str) -> None:
    trials = load_grid(name).trials()
    assert len(trials) == 12
    assert {trial.sigma for trial in trials} == {0.25, 0.5}
    assert [trial.name for trial in trials[:6]] == [
        "generalised_ld",
        "ensemble",
        "consistency",
        "macer",
        "gaussian_ld",
        "gaussian",
    ]
    for trial in trials:
        assert (trial.decomposition_ratio == 0.2) == (trial.method in ("generalised_ld", "gaussian_ld"))


def test_thesis_recipe() -> None:
    trials = {(trial.name, trial.sigma): trial for trial in load_grid("thesis").trials()}
    ours, macer, gaussian = (trials[name, 0.25] for name in ("generalised_ld", "macer", "gaussian"))
    assert (ours.train.epochs, ours.train.decay_epochs, ours.train.learning_rate) == (90, [30, 60], 0.01)
    assert (ours.train.batch, ours.train.weight_decay, ours.objective.copies) == (256, 1e-4, 4)
    assert (ours.options["strength"], trials["generalised_ld", 0.5].options["strength"]) == (20.0, 10.0)
    assert (macer.train.epochs, macer.train.decay_epochs, macer.objective.copies) == (150, [50, 100], 8)
    assert (macer.train.batch, macer.train.weight_decay) == (64, 5e-4)
    assert (macer.options["strength"], trials["macer", 0.5].options["strength"]) == (12.0, 4.0)
    assert gaussian.objective.copies == 1
    assert (ours.certify.n0, ours.certify.n, ours.certify.alpha, ours.certify.images) == (100, 100_000, 0.001, None)
    assert {trial.model for trial in trials.values()} == {"resnet110"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("certify.alhpa=0.01", "unknown key 'certify.alhpa': did you mean 'alpha'?"),
        ("sigma=[0.25]", "unknown key 'sigma': did you mean 'sigmas'?"),
        ("rows.macer.option.copies=2", "unknown key 'rows.macer.option': did you mean 'options'?"),
        ("rows.macer.train.epoch=3", "rows.macer: unknown key 'epoch': did you mean 'epochs'?"),
        ("rows.macer.options.strenth=3", "method 'macer' has no option 'strenth': did you mean 'strength'?"),
        (
            "rows.generalised_ld.options.strength={0.25 = 20.0}",
            "rows.generalised_ld.options: strength = {'0': {'25': 20.0}}: must be one value, or one per σ with the σ "
            'in quotes: { "0.25" = 20.0, "0.5" = 10.0 }',
        ),
        ("rows.generalised_ld.options.strength=[20.0]", "strength = [20.0]: must be one value, or one per σ with the"),
        ("rows.generalised_ld.options=2", "rows.generalised_ld.options = 2: input should be a valid dictionary"),
        ('methods=["macr"]', "unknown method 'macr': did you mean 'macer'?"),
        ("rows.macr.train.epochs=3", "rows.macr is neither in methods nor a known method: did you mean 'macer'?"),
        ("train.epochs=0", "train.epochs = 0: input should be greater than or equal to 1"),
        ('train.epochs="many"', "train.epochs = 'many': input should be a valid integer"),
        ("train.epochs=true", "train.epochs = True: input should be a valid integer"),
        ("certify.alpha=1.0", "certify.alpha = 1.0: input should be less than 1"),
        ("sigmas=[-0.25]", "sigmas.0 = -0.25: input should be greater than 0"),
        ("sigmas=[64.0]", "sigmas.0: sigma = 64: pixels are in [0, 1]: 64 of 255 is 0.25"),
        ("sigmas=[0.5,127.5]", "sigmas.1: sigma = 127.5: pixels are in [0, 1]: 127.5 of 255 is 0.5"),
        ("sigmas=[0.25, 0.25]", "each may stand only once"),
        ("sigmas=[]", "sigmas = []: list should have at least 1 item"),
        ("sigmas=[0.12]", "rows.generalised_ld.options.strength has no value for sigma = 0.12, only for 0.25, 0.5, 1"),
        ("model=resnet111", "the depth must be 6n+2; the nearest are resnet110 and resnet116"),
        ("train.batch=3", "train.batch = 3: must be at least copies = 4"),
        ("seeds=[-1]", "seed = -1: input should be greater than or equal to 0"),
        ("seeds=[1431655765]", "rows.ensemble: seed = 1431655765: must be below 1431655765: 3 members have seeds"),
        (
            "rows.macer.options.start_epoch=150",
            "rows.macer: macer begins in epoch 150, and train.epochs = 150 end before: change its options",
        ),
        ("certify", "must be KEY=VALUE"),
        ("model.width=3", "model is a value, not a table"),
    ],
)
def test_wrong_grids_are_refused_in_one_sentence(change: str, message: str) -> None:
    with pytest.raises(GridError) as caught:
        load_grid("thesis", [change])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GridError, match="unknown grid 'smok': did you mean 'smoke'"):
        load_grid("smok")
    (tmp_path / "my.toml").touch()
    with pytest.raises(GridError, match=r"unknown grid '.*my': did you mean '.*my\.toml'\?$"):
        load_grid(str(tmp_path / "my"))
    with pytest.raises(GridError, match="cannot be read: No such file"):
        load_grid(str(tmp_path / "none.toml"))
    broken = tmp_path / "broken.toml"
    broken.write_text("methods = [")
    with pytest.raises(GridError, match="not TOML"):
        load_grid(str(broken))
    broken.write_bytes(b"\xff\xfe")
    with pytest.raises(GridError, match="not UTF-8 text"):
        load_grid(str(broken))
    broken.write_text("methods = ['gaussian']")
    with pytest.raises(GridError, match="lacks sigmas"):
        load_grid(str(broken))


def test_a_row_may_be_a_variant_of_a_method(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(
        'methods = ["generalised_ld", "generalised_ld_tenth", "macer_ld"]\nsigmas = [0.25]\n'
        '[rows.generalised_ld_tenth]\nmethod = "generalised_ld"\ndecomposition_ratio = 0.1\n'
        '[rows.macer_ld]\nmethod = "macer"\ndecomposition = true\ntrain = { epochs = 3 }\n'
    )
    ours, tenth, macer = load_grid(str(path)).trials()
    assert (ours.decomposition_ratio, tenth.decomposition_ratio, macer.decomposition_ratio) == (0.2, 0.1, 0.2)
    assert len(load_grid(str(path), methods=["generalised_ld"]).trials()) == 1  # a variant may be left out
    assert (tenth.method, macer.method, macer.train.epochs, ours.train.epochs) == ("generalised_ld", "macer", 3, 90)


def test_an_ensembles_members_are_the_grids_own_consistency_trials() -> None:
    for name in ("smoke", "lite", "thesis", "paper"):
        trials = {(trial.name, trial.sigma): trial for trial in load_grid(name).trials()}
        members = trials["ensemble", 0.5].members
        assert [member.seed for member in members] == [0, 1, 2]
        assert members[0] == trials["consistency", 0.5]
        assert members[0].trial_id == trials["consistency", 0.5].trial_id


def test_ensembles_with_other_seeds_share_no_member() -> None:
    ensembles = [small_trial("ensemble", seed=seed) for seed in range(3)]
    members = [member.trial_id for ensemble in ensembles for member in ensemble.members]
    assert len(set(members)) == 9


def test_a_changed_setting_is_a_new_trial_and_an_unchanged_one_is_found_again() -> None:
    trial = small_trial("consistency")
    assert small_trial("consistency").trial_id == trial.trial_id
    assert small_trial("consistency", options={"strength": 10}).trial_id == trial.trial_id  # the default, spelt out
    changes: list[dict[str, object]] = [
        {"sigma": 0.5}, {"seed": 1}, {"options": {"strength": 5.0}}, {"model": "resnet8"}, {"width": 8},
        {"dataset": "other"}, {"decomposition_ratio": 0.2}, {"certify": {"n": 41}}, {"train": {"epochs": 3}},
    ]  # fmt: skip
    others = [small_trial(**{"method": "consistency", **change}) for change in changes]  # type: ignore[arg-type]
    assert len({trial.trial_id, *(other.trial_id for other in others)}) == len(changes) + 1
    moved = trial.model_copy(update={"data": "/elsewhere"})
    assert moved.trial_id == trial.trial_id


def test_a_search_draws_nothing_that_a_grid_would_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MACER, "search", {"start_epoch": Among((0, 1, 2, 3))})
    space = Space(small_trial("macer", train={"epochs": 2}), 0)
    assert [space.options(number) for number in range(3)] == [{"start_epoch": 0}, {"start_epoch": 1}, None]


def test_certification_settings_do_not_change_the_training() -> None:
    trial, other = small_trial(), small_trial(certify={"n": 77})
    assert trial.trial_id != other.trial_id
    assert trial.training_id == other.training_id
    assert trial.noise_seed("0" * 64) != other.noise_seed("0" * 64)
    assert small_trial(sigma=0.5).training_id != trial.training_id


def test_a_trial_survives_its_file() -> None:
    trial = small_trial("macer", options={"strength": 3.0, "copies": 2}, decomposition_ratio=0.1)
    again = Trial.model_validate_json(trial.model_dump_json())
    assert again == trial
    assert again.trial_id == trial.trial_id


def test_names_cannot_leave_the_run_folder() -> None:
    with pytest.raises(ValueError, match="name"):
        small_trial(name="../outside")
