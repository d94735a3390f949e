"""The command line in this process: what it prints, how it exits, and that a user's mistake gets one sentence."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from rich.console import Console

from bench import __version__
from bench.cli.base import PlainConsole, UserError, user_errors
from bench.cli.stopping import stopped_in_order
from bench.runner.display import COLUMNS, render, shown
from bench.runner.jobs import plan_jobs
from bench.runner.progress import AT_WORK, RunProgress, TrialProgress
from bench.runner.task import note_devices, trial_task
from methods import METHODS, Method, RegistryError
from results.store.folder import RunFolder, write_json
from results.store.merge import merge_run
from results.store.records import WorkerRecord
from tests.command import ONE_FIGURE, PROGRAM, bench
from tests.conftest import here, small_trial, trial_ids


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--grid", "smok"], "unknown grid 'smok': did you mean 'smoke'?"),
        (["run", "--grid", "none.toml"], "none.toml: cannot be read: No such file"),
        (["run", "--grid", "smoke", "--data", "nowhere"], "nowhere' is not a folder"),
        (["run", "--grid", "smoke", "--data", "cifr10"], "or a folder of images: did you mean 'cifar10'? (one of"),
        (
            ["run", "--grid", "smoke", "--methods", "generalised_ld,macr"],
            "unknown method 'macr': did you mean 'macer'?",
        ),
        (["run", "--grid", "smoke", "--sigmas", "a"], "--sigmas 'a': must be numbers separated by commas"),
        (["run", "--grid", "smoke", "--sigmas", "0"], "sigmas.0 = 0.0: input should be greater than 0"),
        (["run", "--grid", "smoke", "--set", "train.images=99999"], "99999 images were asked for, the data has 2000"),
        (
            ["run", "--grid", "smoke", "--set", "rows.macer.train.images=2001"],
            "2001 images were asked for, the data has",
        ),
        (["run", "--grid", "smoke", "--set", "certify.images=501"], "501 images were asked for, the data has 500"),
        (["run", "--grid", "smoke", "--set", "certify.n=9"], "n = 9 with alpha = 0.001: certifies no image"),
        (["run", "--grid", "smoke", "--gpus-per-worker", "0.5", "--workers", "2"], "must be 0 or 1"),
        (["status", "nowhere"], "run.json: no such file or directory"),
        (["report", "nowhere"], "run.json: no such file or directory"),
        (["trial", "nowhere.json", "--out", "run"], "nowhere.json: no such file or directory"),
    ],
)
def test_a_users_mistake_gets_one_sentence_and_leaves_nothing(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bench(*arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("error: ")
    assert len(printed.err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ('{"name": "generalised_ld"}', "lacks sigma"),
        ('{"name": "x", "method": "macr", "sigma": 0.5}', "unknown method 'macr': did you mean 'macer'?"),
        (
            '{"name": "x", "method": "generalised_ld", "sigma": 0.5, "sede": 1}',
            "unknown key 'sede': did you mean 'seed'?",
        ),
        ('{"name": "../x", "method": "generalised_ld", "sigma": 0.5}', "name = '../x': string should match pattern"),
    ],
)
def test_a_wrong_trial_file_is_refused(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "trial.json").write_text(text)
    assert bench("trial", str(tmp_path / "trial.json"), "--out", str(tmp_path / "run")) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_version_names_the_commit_of_the_program_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def git(*arguments: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        return subprocess.run(
            ["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    (tmp_path / "packages").mkdir()
    program = tmp_path / "packages" / "description.py"
    program.touch()
    monkeypatch.setattr("results.store.description.__file__", str(program))
    for name in [name for name in os.environ if name.startswith("GIT_")] + ["BENCH_GIT_COMMIT"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message", "an environment in the checkout of something else")
    assert bench("--version") == 0
    assert capsys.readouterr().out == f"smoothing-bench {__version__}\n"
    git("add", ".")
    git("commit", "--quiet", "--message", "the program's own")
    assert bench("--version") == 0
    assert capsys.readouterr().out == f"smoothing-bench {__version__}, commit {git('rev-parse', 'HEAD')}"


@pytest.fixture
def _signals_as_they_were() -> Iterator[None]:
    """Those of a process that ends by a signal are ignored from then on."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_signals_as_they_were")
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_command_that_is_told_to_end_is_tidied_up(
    sent: signal.Signals, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    tidied = []

    def command() -> None:
        with stopped_in_order():
            try:
                signal.raise_signal(sent)
            finally:
                if sent != signal.SIGINT:
                    signal.raise_signal(sent)  # again, while it is tidied up
                tidied.append(sent)

    with pytest.raises(typer.Exit) as ended:
        command()
    assert ended.value.exit_code == status
    assert tidied
    assert "the same command goes on from there" in capsys.readouterr().err


@pytest.mark.usefixtures("_signals_as_they_were")
def test_nohup_is_heeded() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stopped_in_order():
        signal.raise_signal(signal.SIGHUP)


def test_run_refuses_a_folder_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").touch()
    for options in ([], ["--fresh"]):
        assert bench("run", "--grid", "smoke", "--out", str(tmp_path), *options) == 2
        assert "holds no run.json" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").exists()


@pytest.mark.usefixtures("_no_figures")
def test_report_of_a_half_finished_run_says_what_is_missing(
    fake_run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    first = trial_ids(fake_run)[0]
    write_json(fake_run.trial(first).state, {"state": "waiting"})
    assert bench("report", str(fake_run.path)) == 0
    assert f"not finished: {first}" in " ".join(capsys.readouterr().out.split())


def test_status_tells_stages_apart(fake_run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    failed, killed, *_ = trial_ids(fake_run)
    write_json(fake_run.trial(failed).state, {"state": "failed", "error": "the loss became nan"})
    # a process that is no more: the largest pid that Linux gives out is 2²² − 1
    state = {"state": "running", "host": socket.gethostname(), "pid": 2**22 + 1, "since": 0}
    write_json(fake_run.trial(killed).state, state)
    fake_run.trial(killed).shard_files()[0].unlink()
    assert bench("status", str(fake_run.path)) == 0
    printed = capsys.readouterr()
    stages = [line.split()[2] for line in printed.out.splitlines()[1:5]]
    assert stages == ["failed", "stopped", "done", "done"]
    assert "2 of 4 done" in printed.out
    assert "the loss became nan" in printed.err
    assert fake_run.trial(failed).log.name in printed.err


def test_status_tells_which_accelerators_are_left_out(fake_run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    note_devices(
        trial_task(small_trial(), fake_run, certify=True, shard_size=1),
        ["GPU 3 of node-7 is left out for the rest of this command: it failed 2 times"],
    )
    assert bench("status", str(fake_run.path)) == 0
    assert "GPU 3 of node-7 is left out" in " ".join(capsys.readouterr().out.split())
    assert bench("status", str(fake_run.path), "--json") == 0
    assert json.loads(capsys.readouterr().out)["left_out"][0].startswith("GPU 3 of node-7")
    plan_jobs({}, fake_run, shard_size=1)  # of the next command
    assert not fake_run.devices.exists()


def test_80_columns_have_room_for_a_busy_run_and_no_column_is_empty() -> None:
    worker = WorkerRecord(host="here", pid=1, doing="images 0 to 15", cores=1.0)
    busy = TrialProgress("t", "consistency", 0.25, "certifying", 90, 90, 5000, 10_000, 313, 1.0, 0.5, [worker, worker])
    done = replace(busy, stage="done", images=10_000, workers=[])
    for trials, columns in (([busy, done], COLUMNS), ([done], ("σ", "method", "stage", "epochs", "images", "shards"))):
        console = Console(file=io.StringIO(), width=80)
        console.print(render(RunProgress(trials, 2, None)))
        lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
        assert tuple(lines[0].split()) == columns
        assert len(lines) == len(trials) + 2
        assert all("consistency" in line and "…" not in line for line in lines[1:-1])


def test_narrow_and_low_terminals_lose_no_number() -> None:
    worker = WorkerRecord(host="here", pid=1, doing="images 0 to 15", cores=1.0)
    busy = TrialProgress("t", "consistency", 0.25, "certifying", 90, 90, 5000, 10_000, 313, 1.0, 0.5, [worker, worker])
    run = RunProgress([busy, *[replace(busy, stage="waiting", workers=[])] * 30], 2, None)
    for width in (20, 40, 60, 80):
        console = PlainConsole(file=io.StringIO(), width=width)
        console.print(render(run, 61, AT_WORK))
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert all(word in text for word in ("0.25", "consistency", "90/90", "5000/10000", "313", "20:50", "2 × 100 %"))
        assert all(word in " ".join(text.split()) for word in ("0 of 31 done", "1:01 so far"))
        assert len(text.splitlines()) < 25
        assert max(map(len, text.splitlines())) <= width


def test_a_dumb_terminal_shows_progress_as_a_pipe_does(fake_run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(fake_run.trial(trial_ids(fake_run)[0]).state, {"state": "failed", "error": "why"})
    file = io.StringIO()
    with shown(fake_run, PlainConsole(file=file, force_terminal=True, _environ={"TERM": "dumb"}), quiet=False):
        pass
    assert "failed  (3 of 4 done)" in file.getvalue()
    assert "\x1b" not in file.getvalue()
    monkeypatch.setenv("COLUMNS", "40")  # of which rich makes 80
    assert PlainConsole(force_terminal=True, _environ={"TERM": "dumb"}).width == 40


HELP = [
    [*command.split(), "--help"]
    for command in (
        "", "grids", "methods", "published", "run", "status", "watch", "trial", "submit", "report", "compare", "import",
        "certify", "predict", "verify", "attack", "audit", "perf", "perf certify", "perf train",
    )
]  # fmt: skip
POSIX = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def as_typed(*commands: list[str], before: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The commands, one after the other in a process of their own."""
    program = [sys.executable, "-c", before + PROGRAM, json.dumps(commands)]
    return subprocess.run(program, capture_output=True, env={**os.environ, **environment}, check=False)


@pytest.mark.parametrize(
    ("environment", "encoding", "columns"),
    [
        (POSIX, "ascii", "40"),
        ({"PYTHONIOENCODING": "ascii"}, "ascii", "80"),
        ({"PYTHONIOENCODING": "latin-1"}, "latin-1", "20"),
    ],
)
def test_every_command_speaks_every_encoding(
    environment: dict[str, str], encoding: str, columns: str, fake_run: RunFolder, tmp_path: Path
) -> None:
    merge_run(fake_run)
    copy = shutil.copytree(here(fake_run.path), tmp_path / "é σ")
    place = os.fsencode(copy).decode("ascii" if environment is POSIX else "utf-8", "surrogateescape")
    commands = [["grids"], ["methods"], ["published"], ["status", place], ["compare", place]]
    commands += [["report", str(fake_run.path)]]
    refused = [["status", f"{place}…"], ["report", place, "--published", "σ"], ["run", "--grid", "σ"], ["σ"], []]
    ended = as_typed(*HELP, *commands, *refused, before=ONE_FIGURE, **environment, COLUMNS=columns)
    printed = ended.stdout.decode(encoding) + ended.stderr.decode(encoding)
    assert ended.returncode == 0, printed
    assert "Traceback" not in printed
    assert json.loads(ended.stdout.decode(encoding).splitlines()[-1])[0] == [0] * len(HELP + commands) + [2] * len(
        refused
    )
    assert "generalised" in printed
    assert "sigma" in printed
    assert "10 000" in printed
    assert "10\n000" not in printed
    assert "σ" in here(fake_run.tables / "certified_accuracy.md").read_text(encoding="utf-8")


def test_names_that_ray_cannot_take_are_refused(tmp_path: Path) -> None:
    ended = as_typed(["run", "--grid", "smoke", "--out", str(tmp_path / "é")], **POSIX)
    assert b"set LC_ALL=C.UTF-8, or use another name" in ended.stderr
    assert b"Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("columns", ["20", "40", "80", "200"])
def test_help_names_every_option_at_any_width(columns: str) -> None:
    ended = as_typed(["run", "--help"], ["--help"], COLUMNS=columns)
    lines = ended.stdout.decode().splitlines()
    words = " ".join(lines).split()
    for word in ("--grid", "--allow-unauthenticated", "--cpus-per-worker", "certify.n=1000;", "McNemar", "radius."):
        assert word in words
    assert not any(word.endswith("…") for word in words)


def test_matplotlib_says_nothing_of_its_caches(fake_run: RunFolder) -> None:
    ended = as_typed(["report", str(fake_run.path)], MPLCONFIGDIR="/proc/nowhere")
    assert ended.returncode == 0
    assert ended.stderr == b""


def test_a_user_without_a_home_is_told_so() -> None:
    with pytest.raises(UserError, match="set HOME"), user_errors():
        raise RuntimeError("Could not determine home directory.")


def test_grids_and_methods_list_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("grids") == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("smoke", "lite", "thesis", "paper"))
    assert bench("methods") == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("macer", "inverse_temperature", "generalised", "mask_entropy"))


def test_a_method_whose_package_is_broken_is_told_and_the_others_are_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = METHODS.find

    def broken(name: str) -> type[Method]:
        if name == "macer":
            raise RegistryError("macer [of a package] cannot be loaded")
        return find(name)

    monkeypatch.setattr(METHODS, "find", broken)
    assert bench("methods") == 0
    printed = capsys.readouterr()
    assert printed.err == "warning: macer [of a package] cannot be loaded\n"
    assert "mask_entropy" in printed.out


@pytest.mark.usefixtures("_no_figures")
def test_a_trial_runs_without_ray(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "trial.json").write_text(small_trial().model_dump_json())
    assert bench("trial", str(tmp_path / "trial.json"), "--out", str(tmp_path / "run"), "--shard-size", "5") == 0
    assert "Gaussian" in capsys.readouterr().out
    shards = sorted(path.name for path in (tmp_path / "run").rglob("shards/*"))
    assert len(shards) == 3  # 12 images, evenly spaced over 500
    assert shards[0] == "00000-00166.parquet"
    models = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.parquet") if "shards" in str(path)}
    assert bench("trial", str(tmp_path / "trial.json"), "--out", str(tmp_path / "run")) == 0
    assert {path: path.stat().st_mtime_ns for path in models} == models


def no_home(*_: object) -> str:
    """As the passwd file answers of a user whom the machine does not know."""
    raise KeyError


@pytest.mark.parametrize("place", ["~/run", "~nobody-of-this-name/run"])
def test_a_home_that_is_not_known_is_one_sentence(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", no_home)
    for arguments in (
        ["run", "--grid", "smoke", "--out", place],
        ["run", "--grid", "smoke", "--data", place],
        ["status", place],
        ["trial", place, "--out", "run"],
    ):
        assert bench(*arguments) == 2
        assert capsys.readouterr().err.startswith(f"error: {place}: there is no such home here: give the whole path")
    assert list(tmp_path.iterdir()) == []


def test_a_bug_shows_its_traceback_and_debug_that_of_a_refusal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A ValueError of NumPy is no mistake of the user."""

    def broken(*_: object) -> None:
        np.zeros(2).reshape(3)

    with monkeypatch.context() as patch:
        patch.setattr("bench.runner.progress.read_progress", broken)
        with pytest.raises(ValueError, match="cannot reshape"):
            bench("status", "anywhere")
    for place in (["--debug", "status", "nowhere"], ["status", "nowhere", "--debug"]):
        assert bench(*place) == 2
        told = capsys.readouterr().err
        assert "Traceback" in told
        assert "FileNotFoundError" in told
        assert told.splitlines()[-1].endswith("nowhere/run.json: no such file or directory")
    assert bench("status", "nowhere") == 2
    assert "Traceback" not in capsys.readouterr().err
