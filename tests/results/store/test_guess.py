from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from results.errors import BenchError
from results.store.guess import Guess, find_logs, guessed, settings_of
from results.store.logs import LogError
from tests.results.store.logs import GOOD, HEADER, REFERENCE, RESULTS, VERIFIER, result

LOG = "\n".join([HEADER, *GOOD]) + "\n"


def guesses(root: Path, *paths: str) -> list[Guess]:
    """Of logs at those paths."""
    logs = [root / path for path in paths]
    for log in logs:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(LOG)
    found = guessed(logs, root)
    assert all(isinstance(guess, Guess) for guess in found)
    return [guess for guess in found if isinstance(guess, Guess)]


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the list of published logs is not part of the repository")
def test_the_paths_of_107_published_logs_say_their_sigma_and_network(tmp_path: Path) -> None:
    table = pd.read_csv(REFERENCE / "published_logs.csv")
    for repository, own in table.groupby("repo"):
        root = tmp_path / str(repository).split("/")[1]
        found = guesses(root, *own["path"])
        assert sorted(find_logs(root)) == sorted(root / path for path in own["path"])
        trials = [settings_of(root / path, guess, {}) for path, guess in zip(own["path"], found, strict=True)]
        assert [trial.sigma for trial in trials] == own["certify_sigma"].tolist()
        assert [trial.model for trial in trials] == own["arch"].tolist()
        assert {trial.dataset for trial in trials} == {"cifar10"}
        assert len({(trial.name, trial.sigma, trial.seed) for trial in trials}) == len(trials)


def test_the_methods_of_the_field_by_their_folders(tmp_path: Path) -> None:
    paths = {
        "data/cifar10/noise_0.25/cat-rs/noise_0.25.tsv": ("cat_rs", 0.25, None, "cifar10", None),
        "data/cifar10/noise_0.25/cohen/noise_0.25.tsv": ("gaussian", 0.25, None, "cifar10", None),
        "data/cifar100/noise_0.5/cohen/noise_0.5.tsv": ("gaussian-cifar100", 0.5, None, "cifar100", None),
        "data/cifar10c/severity_1/stab/fog.tsv": ("stability-severity_1-fog", None, None, "cifar10c", None),
        "data/cifar10c/severity_2/stab/fog.tsv": ("stability-severity_2-fog", None, None, "cifar10c", None),
        "data/cifar10c/stab/gaussian_noise.tsv": ("stability-gaussian_noise", None, None, "cifar10c", None),
        "macer/num_16/lbd_4.0/cifar_resnet20/noise_0.50_6947": ("macer", 0.5, 6947, None, "resnet20"),
        "ours/eta_0.5/imagenet/resnet50/noise_0.12/test/sigma_0.50": (
            "ours-trained_at_0_12", 0.5, None, "imagenet", "resnet50",
        ),
        "ours/eta_0.5/imagenet/resnet50/noise_0.50/test/sigma_0.50": ("ours", 0.5, None, "imagenet", "resnet50"),
        "new_idea/seed_3/sigma0.25.csv": ("new_idea", 0.25, 3, None, None),
    }  # fmt: skip
    found = guesses(tmp_path / "logs", *paths)
    names = [(guess.name, guess.sigma, guess.seed, guess.dataset, guess.model) for guess in found]
    assert names == list(paths.values())


@pytest.mark.parametrize(
    ("path", "sigma"),
    [
        ("sigma_025", 0.25),
        ("noise_050", 0.5),
        ("sd05", 0.5),
        ("sigma_100", 1.0),
        ("noise_1", 1.0),
        ("noise_0.125", 0.125),
        ("sigma_25", None),
        ("sigma_128", None),
        ("noise_0.25/sigma_128", None),
        ("sigma_64/acc_0.5", None),
        ("noise_025/test/sigma_050", 0.5),
    ],
)
def test_numbers_without_a_point_are_read_where_they_can_be_but_one_thing(
    path: str, sigma: float | None, tmp_path: Path
) -> None:
    [guess] = guesses(tmp_path / "noise_0.75", f"macer/{path}.tsv")
    assert guess.sigma == sigma
    if sigma is None:
        with pytest.raises(LogError, match="its path does not say σ: give --sigma"):
            settings_of(tmp_path / path, guess, {})


def test_a_folder_within_the_logs_says_what_they_are_of(tmp_path: Path) -> None:
    [guess] = guesses(tmp_path / "data" / "svhn" / "noise_1.0" / "cohen_wide", "log.tsv")
    assert (guess.name, guess.sigma, guess.dataset) == ("gaussian", 1.0, "svhn")


def test_two_logs_of_one_name_get_two(tmp_path: Path) -> None:
    found = guesses(tmp_path / "x", "data/macer/noise_0.5.tsv", "test/macer/noise_0.5.tsv", "test/macer/noise_1.tsv")
    assert [guess.name for guess in found] == ["macer", "macer-2", "macer"]


def test_henba1s_results_say_sigma_and_samples_and_their_parts_are_refused(tmp_path: Path) -> None:
    whole = tmp_path / "all_results_df.csv"
    whole.write_text("\n".join([RESULTS, result(7, 3, 3, 0.378), result(2, 7, -2, 0.0)]) + "\n")
    (tmp_path / "result_df.csv").write_text("\n".join([RESULTS, result(7, 3, 3, 0.378)]) + "\n")
    (tmp_path / "summary_df.csv").write_text("overall_accuracy,sigma,alpha,N0,N\n0.5,0.25,0.001,100,100000\n")
    paths = find_logs(tmp_path)
    assert [path.name for path in paths] == ["all_results_df.csv", "result_df.csv", "summary_df.csv"]
    own, part, summary = guessed(paths, tmp_path)
    trial = settings_of(whole, own, {"seed": 4})
    assert (trial.sigma, trial.certify.n, trial.certify.n0, trial.certify.alpha) == (0.5, 1000, 100, 0.01)
    assert (trial.name, trial.seed) == ("vit-base_cifar10_uncond_50M_500K", 4)
    assert "only the images of one outcome" in str(part)
    assert "is no certification log" in str(summary)
    whole.write_text(whole.read_text().replace(VERIFIER, "RS_odd_._e_1_2"))
    assert isinstance(guessed([whole], tmp_path)[0], Guess)


def test_what_is_stated_goes_before_what_is_guessed_and_sigma_must_be_known(tmp_path: Path) -> None:
    log = tmp_path / "data" / "cifar10c" / "cohen" / "fog.tsv"
    [guess] = guesses(tmp_path, "data/cifar10c/cohen/fog.tsv")
    with pytest.raises(LogError, match=r"fog\.tsv: its path does not say σ: give --sigma"):
        settings_of(log, guess, {})
    trial = settings_of(log, guess, {"sigma": 0.25, "name": "mine"})
    assert (trial.name, trial.sigma, trial.dataset, trial.model) == ("mine", 0.25, "cifar10c", "unknown")
    with pytest.raises(LogError, match=r"fog\.tsv: --sigma 1000"):
        settings_of(log, guess, {"sigma": 1000.0})


def test_only_what_may_be_a_log_is_looked_into(tmp_path: Path) -> None:
    for name, content in {
        "a.tsv": LOG, "b.tsv_acc": "0\t1\n", "c/sigma_0.12": LOG, "d": LOG, "LICENSE": "MIT\n", "a.py": "x = 1, 2\n",
        ".git/x.tsv": LOG, "plot.png": "", ".hidden.tsv": LOG, "noise_0.50_1149_o": LOG,
    }.items():  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    found = [str(path.relative_to(tmp_path)) for path in find_logs(tmp_path)]
    assert sorted(found) == ["a.tsv", "b.tsv_acc", "c/sigma_0.12", "d", "noise_0.50_1149_o"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(BenchError, match="holds no file that may be a log"):
        find_logs(tmp_path / "empty")
