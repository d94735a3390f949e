"""`bench tune`: what it says before it starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.audit.forecast import Rates
from bench.cli.base import app
from bench.cli.tune import _next_command
from results.store.folder import RunFolder

SMOKE = ["tune", "--grid", "smoke", "--sigma", ".25", "--set", "train.images=1000", "--dry-run"]


@pytest.fixture(autouse=True)
def _known_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = Rates(train=100.0, attack=200.0, survey=400.0, certify=500.0, activation_bytes=1000, model_bytes=10)
    monkeypatch.setattr("bench.audit.forecast.measure", lambda *_: rates)


def printed(*options: str) -> str:
    result = CliRunner().invoke(app, [*SMOKE, *options], env={"COLUMNS": "80"})
    assert result.exit_code == 0, result.output
    return result.output


def test_a_dry_run_tells_what_would_be_searched_and_its_cost_and_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = ("--methods", "consistency,gaussian", "--budget", "61", "--held-out", "50", "--n", "200")
    found = json.loads(printed("--json", *chosen))
    [search] = found["searches"]
    assert (search["method"], search["sigma"], search["epochs"]) == ("consistency", 0.25, [2, 4, 10])
    assert search["searched"] == {"strength": "1 to 40, by factors", "entropy_weight": "0.05 to 2, by factors"}
    # two passes of an image in each epoch; at these made-up results the search is the shortest
    assert search["configurations"] == [9, 3, 1]
    assert search["cost"] == 2 * (9 * 2 + 3 * 2 + 6) == 60
    epochs = 9 * 2 + 3 * 2 + 6
    seconds = 1000 * 60 / 100 + 50 * epochs / 400 + 13 * 50 * (32 + 200) / 500
    assert search["seconds"] == found["seconds"] == pytest.approx(seconds)
    text = " ".join(printed(*chosen).split())
    assert "nothing to search: gaussian" in text
    assert "1 search with a budget of 61 passes of the training images each, together about 15:05" in text
    assert not list(tmp_path.iterdir())


def test_a_search_comes_to_its_end_whatever_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.settings.tuning.MOST", 30)
    [search] = json.loads(printed("--json", "--methods", "macer", "--budget", "1e300"))["searches"]
    assert search["configurations"][0] == 30
    assert 3 <= search["configurations"][2] < 20


def test_an_ensemble_costs_what_its_members_do() -> None:
    [search] = json.loads(printed("--json", "--method", "ensemble", "--budget", "180"))["searches"]
    assert (search["cost"], search["configurations"]) == (180, [9, 3, 1])
    steps, epochs = 13, 9 * 2 + 3 * 2 + 6
    seconds = 1000 * 180 / 100 + 3 * 500 * epochs / 400 + 3 * steps * 500 * (32 + 1000) / 500
    assert search["seconds"] == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("runs/lite-tuning", "--grid runs/lite-tuning/tuned.toml --out runs/lite-tuned"),
        ("my search", "--grid 'my search/tuned.toml' --out 'my search-tuned'"),
        ("/", "--grid /tuned.toml --out /search-tuned"),  # as a bucket's root has no name
    ],
)
def test_it_ends_with_the_command_that_runs_the_grid_in_a_folder_of_its_own(out: str, words: str) -> None:
    assert _next_command(RunFolder(Path(out)), []) == f"bench run {words}"
    plugins = ["my methods.py", "theirs"]
    assert _next_command(RunFolder(Path(out)), plugins) == f"bench run {words} --plugin 'my methods.py' --plugin theirs"
