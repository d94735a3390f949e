"""What a run is expected to cost, and the time that is left of it."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.cli.base import PlainConsole
from bench.runner import display, expected
from bench.runner.expected import asking, in_words, record_of
from bench.runner.grid import _Notebook
from bench.runner.progress import RunProgress, TrialProgress, read_progress, seconds_left
from bench.settings.options import RunOptions
from bench.settings.trial import Trial
from results.store.folder import RunFolder
from results.store.lock import Holder
from results.store.records import ForecastRecord, TrialForecast
from tests.conftest import trial_ids

EPOCHS, IMAGES, WORKERS = 10, 100, 2
COSTS = {"gaussian": (20.0, 40.0), "macer": (80.0, 40.0), "smoothadv": (240.0, 40.0), "ensemble": (0.0, 120.0)}
"""Expected seconds of training and certification."""


def forecast(others: float | None = None) -> ForecastRecord:
    trials = {
        f"{name}-{sigma}": TrialForecast(train_seconds=train, certify_seconds=certify)
        for sigma in (0.25, 0.5)
        for name, (train, certify) in COSTS.items()
    }
    return ForecastRecord(trials=trials, start_seconds=10, trial_seconds=1, report_seconds=6, others=others)


def trial(name: str, sigma: float, stage: str, epochs: int, images: int, slower: tuple[float, float]) -> TrialProgress:
    """One whose epochs and images take `slower` times as long as was expected."""
    train, certify = COSTS[name]
    wanted = 0 if name == "ensemble" else EPOCHS
    return TrialProgress(
        f"{name}-{sigma}", name, sigma, stage, epochs, wanted, images, IMAGES if epochs == EPOCHS else None, 1,
        train / EPOCHS * slower[0] if epochs else None, certify / IMAGES * WORKERS * slower[1] if images else None,
    )  # fmt: skip


@pytest.mark.parametrize("slower", [(1.0, 1.0), (1.7, 0.8), (0.4, 3.0)])
def test_time_left_is_right_after_the_first_trial_though_methods_cost_twelve_times_as_much(
    slower: tuple[float, float],
) -> None:
    trials = [trial("gaussian", 0.25, "done", EPOCHS, IMAGES, slower)]
    trials += [trial(name, sigma, "waiting", 0, 0, slower) for sigma in (0.25, 0.5) for name in COSTS]
    del trials[1]
    train, certify = (2 * sum(cost[kind] for cost in COSTS.values()) - COSTS["gaussian"][kind] for kind in (0, 1))
    truth = train * slower[0] + certify * slower[1]
    left = seconds_left(RunProgress(trials, WORKERS, None, forecast=forecast()))
    assert left == pytest.approx(truth + max(1, slower[0]) * (7 * 1 + 6))
    without = seconds_left(RunProgress(trials, WORKERS, None))
    assert without is not None
    assert without < 0.6 * truth  # which is what the forecast is for


def test_a_method_that_takes_longer_than_expected_is_expected_to_do_so_again() -> None:
    trials = [
        trial("gaussian", 0.25, "done", EPOCHS, IMAGES, (1.0, 1.0)),
        trial("macer", 0.25, "done", EPOCHS, IMAGES, (3.0, 1.0)),
        trial("macer", 0.5, "training", 4, 0, (3.0, 1.0)),
    ]
    left = seconds_left(RunProgress(trials, WORKERS, None, forecast=forecast()))
    slower = (20 + 80 * 3 + 32 * 3) / (20 + 80 + 32)  # of all that is finished
    assert left == pytest.approx(0.6 * 80 * 3 + 40 + slower * (1 + 6))
    trials[2] = replace(trials[2], stage="certifying", epochs=EPOCHS, images=50, images_wanted=IMAGES)
    slower = (20 + 80 * 3 + 80 * 3) / (20 + 80 + 80)
    left = seconds_left(RunProgress(trials, WORKERS, None, forecast=forecast()))
    assert left == pytest.approx(20 + slower * (1 + 6))


def test_between_two_trials_as_many_are_counted_on_as_run_at_a_time() -> None:
    two = forecast().model_copy(update={"at_once": 2})
    trials = [
        trial("gaussian", 0.25, "done", EPOCHS, IMAGES, (1.0, 1.0)),
        trial("macer", 0.25, "training", 5, 0, (1.0, 1.0)),
        trial("smoothadv", 0.25, "waiting", 0, 0, (1.0, 1.0)),
    ]
    whole = 40 + 40 + 240 + 40 + 2
    assert seconds_left(RunProgress(trials, WORKERS, None, forecast=two)) == pytest.approx(whole / 2 + 6)
    trials[2] = replace(trials[2], stage="training")
    assert seconds_left(RunProgress(trials, WORKERS, None, forecast=two)) == pytest.approx(whole / 2 + 6)
    trials[2] = replace(trials[2], stage="done")
    assert seconds_left(RunProgress(trials, WORKERS, None, forecast=two)) == pytest.approx(40 + 40 + 1 + 6)


def test_what_has_failed_is_left_to_the_next_command() -> None:
    trials = [
        trial("gaussian", 0.25, "done", EPOCHS, IMAGES, (1.0, 1.0)),
        trial("smoothadv", 0.25, "failed", 0, 0, (1.0, 1.0)),
    ]
    holder = Holder("here", 1, "now", "bench run", dead=False)
    assert seconds_left(RunProgress(trials, WORKERS, holder, forecast=forecast())) == pytest.approx(6)
    assert seconds_left(RunProgress(trials, WORKERS, None, forecast=forecast())) == pytest.approx(240 + 40 + 1 + 6)


def test_before_anything_is_finished_it_is_as_expected_beside_the_others() -> None:
    trials = [trial(name, 0.25, "waiting", 0, 0, (1.0, 1.0)) for name in COSTS]
    whole = sum(map(sum, COSTS.values()))
    assert seconds_left(RunProgress(trials, WORKERS, None)) is None
    assert seconds_left(RunProgress(trials, WORKERS, None, forecast=forecast())) == pytest.approx(whole + 4 + 6)
    beside = seconds_left(RunProgress(trials, WORKERS, None, forecast=forecast(0.5)))
    assert beside == pytest.approx(2 * (whole + 4 + 6))


def test_it_is_said_when_the_machine_is_busy() -> None:
    only = ["gaussian-0.25"]
    alone = "about 1:17: training 0:20, certification at most 0:40, start, trials' own and report 0:17"
    assert in_words(forecast(None), only) == in_words(forecast(0.1), only) == alone
    assert (
        in_words(forecast(0.5), only)
        == f"{alone}; others use 50 % of this machine now, and beside them it is about 2:34"
    )
    assert "nobody can say" in in_words(forecast(0.99), only)
    assert in_words(forecast()).startswith("about 19:44: training 11:20, certification at most 8:00")
    two = forecast().model_copy(update={"at_once": 2})
    expected = "about 10:00, 2 trials at a time: training 5:40, certification at most 4:00, start, trials' own and"
    assert in_words(two).startswith(expected)
    assert in_words(two, only) == in_words(forecast(), only)  # of one alone


@pytest.fixture
def interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is asked in the place of this program."""
    path = tmp_path / "python"
    path.write_text("#!/bin/sh\nexit 2\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))
    return path


def test_nothing_begins_before_it_is_asked_for(interpreter: Path, tmp_path: Path) -> None:
    """Ray starts in the meantime. And whoever does not ask after all waits for nothing."""
    began = tmp_path / "began"
    interpreter.write_text(f"#!/bin/sh\nread told && touch {began}\n")
    with asking(RunOptions.of(grid="smoke")):
        assert not began.exists()
    assert not began.exists()
    assert ask() is None
    assert began.exists()


def ask(**options: Any) -> ForecastRecord | None:
    with asking(RunOptions.of(grid="smoke", **options)) as answer:
        return answer()


def test_an_answer_that_does_not_come_is_none(interpreter: Path) -> None:
    assert ask() is None
    for text in ("nonsense", "{}"):
        interpreter.write_text(f"#!/bin/sh\necho '{text}'\n")
        assert ask() is None


def test_the_forecast_of_the_same_options_is_asked(
    interpreter: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    each = {"trial_id": "a", "train_seconds": 1.0, "certify_seconds": 2.0, "seconds": 3.0}
    found: dict[str, Any] = {
        "trials": [each],
        "start_seconds": 1,
        "trial_seconds": 1,
        "report_seconds": 1,
        "at_once": 2,
        "others": None,
    }
    answer = shlex.quote(json.dumps(found))
    interpreter.write_text(f'#!/bin/sh\nread told\necho "$3" > {tmp_path}/asked\necho {answer}\n')
    assert ask(sigmas=[0.5], set=["certify.n=40"], workers=3) == record_of(found)
    assert record_of(found).trials["a"].certify_seconds == 2.0
    options = (tmp_path / "asked").read_text()

    wanted: list[Any] = []

    def forecast(trials: list[Trial], *workers: object, ready: Any) -> str:
        wanted.extend([{trial.sigma for trial in trials}, {trial.certify.n for trial in trials}, workers, ready])
        return "forecast"

    monkeypatch.setattr("bench.audit.forecast.forecast", forecast)
    monkeypatch.setattr(sys, "argv", ["-c", options])
    exec(expected.ONCE_TOLD, {})  # noqa: S102  # what that process does
    assert capfd.readouterr().out == '"forecast"\n'
    assert wanted == [{0.5}, {40}, (3, None), sys.stdin.readline]


@pytest.mark.parametrize("where", ["pipe", "notebook"])
def test_outside_a_terminal_each_change_is_a_line_of_at_most_80_and_says_what_is_left(
    where: str, fake_run: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    last = fake_run.trial(trial_ids(fake_run)[-1])
    kept = {path: path.read_bytes() for path in (last.training, *last.shard_files())}
    for path in kept:
        path.unlink()
    states = iter([False, True])  # nothing of the last trial is there yet; then it is

    def polls(run: RunFolder, _: object) -> Iterator[RunProgress]:
        for there in states:
            for path, content in kept.items() if there else ():
                path.write_bytes(content)
            yield replace(read_progress(run), forecast=None)

    monkeypatch.setattr(display, "_polls", polls)
    if where == "notebook":
        monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
        with _Notebook(quiet=False).watching(fake_run):
            pass
    else:
        with display.shown(fake_run, PlainConsole(width=80), quiet=False):
            pass
    first, second = capsys.readouterr().out.splitlines()
    assert first.split()[2:] == ["gaussian", "stopped", "(3", "of", "4", "done)"]
    assert second.split()[2:] == ["gaussian", "done", "(4", "of", "4", "done)"]
    assert max(len(first), len(second)) <= 80


def test_the_first_line_that_says_what_is_left_has_room_in_80_columns(
    fake_run: RunFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = trial("smoothadv", 0.25, "done", EPOCHS, IMAGES, (100.0, 100.0))
    both = [replace(done, stage="certifying"), done]
    waiting = [trial("smoothadv", 0.5, "waiting", 0, 0, (1.0, 1.0))] * 11
    runs = [RunProgress([now, *waiting], WORKERS, None, forecast=forecast()) for now in both]
    monkeypatch.setattr(display, "_polls", lambda *_: iter(runs))
    with display.shown(fake_run, PlainConsole(width=80), quiet=False):
        pass
    [_, line] = capsys.readouterr().out.splitlines()
    assert re.search(r"smoothadv +done  \(1 of 12 done, about \d+:\d\d:\d\d left\)$", line)
    assert len(line) <= 80  # of a run of days
