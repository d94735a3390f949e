"""A run that somebody works on: every command that would write to it says who, and leaves it as it is."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

import results.store.lock
from cluster import ClusterError
from results.report.update import update_report
from results.store.folder import RunFolder
from results.store.lock import RunLock, end_command
from tests.command import bench
from tests.conftest import here, small_trial

LOG = "idx\tlabel\tpredict\tradius\tcorrect\ttime\n0\t3\t3\t0.5\t1\t0:00:01\n"
MODEL = "import torch\ndef model(): return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))\n"


def files(run: RunFolder) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in here(run.path).rglob("*") if "lock" not in path.name}


@pytest.fixture
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what the commands name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "trial.json").write_text(small_trial("consistency").model_dump_json())
    (tmp_path / "in_use_model.py").write_text(MODEL)
    (tmp_path / "log").write_text(LOG)


MODEL_OF = "certify --model in_use_model:model --sigma .5 --data synthetic --images 2 --n 20"


@pytest.mark.usefixtures("_in_a_folder")
@pytest.mark.parametrize(
    "command", ["run --grid smoke", "tune --grid smoke --budget 999", "trial trial.json", MODEL_OF]
)
def test_a_run_in_use_is_refused_before_what_takes_long(
    command: str,
    fake_run: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for late in (
        "bench.models.sources.open_model",
        "bench.runner.grid.trials_of",
        "bench.runner.tuning.searches_of",
        "bench.runner.single.run_single",
    ):
        monkeypatch.setattr(late, lambda *_, **__: pytest.fail("it comes before the refusal"))
    with RunLock(fake_run):
        assert bench(*command.split(), "--out", str(fake_run.path)) == 2
    assert f"is in use by process {os.getpid()} on " in capsys.readouterr().err


@pytest.mark.usefixtures("_in_a_folder")
@pytest.mark.parametrize(
    ("command", "ends_when_it_is_lost"),
    [
        ("run --grid smoke", True),
        ("tune --grid smoke --budget 999 --quiet", True),
        ("trial trial.json", True),
        (MODEL_OF, True),
        ("import log --method theirs --sigma .5", False),  # it takes a moment
    ],
)
def test_a_command_that_writes_refuses_a_run_in_use(
    command: str,
    ends_when_it_is_lost: bool,
    fake_run: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wanted: list[Callable[[], None] | None] = []
    make = RunLock.__init__

    def made(lock: RunLock, run: RunFolder, **options: Any) -> None:
        wanted.append(options.get("on_lost"))
        make(lock, run, **options)

    monkeypatch.setattr("cluster.connected", lambda *_, **__: pytest.fail("it would have started"))
    with RunLock(fake_run):
        before = files(fake_run)
        monkeypatch.setattr(results.store.lock, "ATTEMPTS", 1)
        monkeypatch.setattr(RunLock, "__init__", made)
        monkeypatch.setattr(results.store.lock, "refuse_in_use", lambda _: None)  # a command of another machine
        assert bench(*command.split(), "--out", str(fake_run.path)) == 2
        assert files(fake_run) == before
    assert f"is in use by process {os.getpid()} on " in capsys.readouterr().err
    assert wanted == [end_command if ends_when_it_is_lost else None]


@pytest.mark.parametrize("command", ["run --grid smoke --quiet", "tune --grid smoke --budget 999 --quiet"])
def test_fresh_deletes_nothing_before_ray_is_there(
    command: str, fake_run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def connected(*_: object, **__: object) -> NoReturn:
        raise ClusterError("no cluster")

    monkeypatch.setattr("cluster.connected", connected)
    before = files(fake_run)
    assert bench(*command.split(), "--fresh", "--out", str(fake_run.path)) == 2
    assert "no cluster" in capsys.readouterr().err
    assert files(fake_run) == before


@pytest.mark.usefixtures("_no_figures")
def test_a_report_waits_for_one_that_is_being_written(fake_run: RunFolder) -> None:
    writing = threading.Thread(target=update_report, args=[fake_run])
    with RunLock(fake_run, name="report"):
        writing.start()
        writing.join(1)
        assert writing.is_alive()
        assert not here(fake_run.certificates).exists()
    writing.join()
    assert here(fake_run.page).exists()
