"""The command as users run it: whole runs on a real local cluster, undisturbed, killed, and certified again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import bench
from bench.audit.verify import verify_run
from results import read_run
from results.store.folder import RunFolder
from tests.command import ONE_FIGURE

GRID = """
methods = ["generalised_ld", "ensemble", "consistency", "gaussian"]
sigmas = [0.5]
model = "tiny"
width = 8
[train]
epochs = 4
decay_epochs = [3]
learning_rate = 0.1
batch = 128
images = 256
[certify]
n0 = 20
n = 200
images = 30
"""
STOPPED = "Stopped. Everything finished is kept; the same command goes on from there.\n"
SAME = ["method", "index", "label", "predicted", "radius", "counts", "checkpoint_sha256"]


BENCH = ["-m", "bench"]
WITH_ONE_FIGURE = ["-c", f"{ONE_FIGURE}from bench.cli import main\nmain()"]


def command(folder: Path, *options: str, program: list[str] = BENCH) -> list[str]:
    return [
        sys.executable,
        *program,
        "run",
        "--grid",
        str(folder / "grid.toml"),
        "--out",
        str(folder / "run"),
        *options,
    ]


def bench_run(folder: Path, *options: str, program: list[str] = BENCH) -> subprocess.CompletedProcess[str]:
    started = command(folder, *options, program=program)
    return subprocess.run(started, capture_output=True, text=True, check=False)


def certificates(folder: Path) -> pd.DataFrame:
    rows = read_run(folder / "run").certificates[SAME].copy()
    rows["counts"] = rows["counts"].map(tuple)
    return rows


FEWER = GRID.replace(', "gaussian"', "")
"""All kinds of a row: with a decomposition, of several members, and one that is such a member."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the grid and its undisturbed run, by two workers in shards of eight, with the first figure alone;
    slow tests have the others drawn."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "grid.toml").write_text(FEWER)
    result = bench_run(folder, "--workers", "2", "--shard-size", "8", program=WITH_ONE_FIGURE)
    assert result.returncode == 0, result.stderr
    assert "Certified accuracy (%)" in result.stdout
    assert "Cost of training" in result.stdout
    assert "(bench run --dry-run has each trial)" in " ".join(result.stdout.split())
    assert RunFolder(folder / "run").forecast.exists()
    return folder


def test_a_run_has_every_trial_and_file(finished: Path) -> None:
    run = read_run(finished / "run")
    assert run.trials["method"].tolist() == ["generalised_ld", "ensemble", "consistency"]
    assert len(run.certificates) == 3 * 30
    assert (run.trials["workers"] == 2).all()
    folder = finished / "run"
    for name in ("tables/certified_accuracy.md", "tables/cost.tex", "figures/certified_accuracy_curves.png"):
        assert (folder / name).stat().st_size > 500
    assert not list(folder.rglob(".*"))  # no temporary file is left
    assert not list(folder.glob("lock-*"))
    # ours, consistency, and the two members that only the ensemble needs, each trained once
    assert len(list(folder.glob("trials/*/model.safetensors"))) == 4
    assert run.epochs.groupby("trial_id")["epoch"].apply(list).tolist() == [[0, 1, 2, 3]] * 4
    ensemble = run.trials.set_index("method").loc["ensemble"]
    assert ensemble["memory_bytes"] > 2 * ensemble["member_memory_bytes"]


def test_each_of_two_workers_certifies_as_one_process_does(finished: Path) -> None:
    found = verify_run(RunFolder(finished / "run"), 30, seed=0)
    assert {verdict.outcome for verdict in found.verdicts} == {"identical"}


def test_the_same_command_again_repeats_nothing(finished: Path) -> None:
    done = {
        path: path.stat().st_mtime_ns
        for kind in ("shards/*", "training.json", "model.safetensors")
        for path in finished.rglob(kind)
    }
    result = bench_run(finished, "--workers", "2")
    assert result.returncode == 0
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert len(list(finished.rglob("shards/*"))) == sum(path.parent.name == "shards" for path in done)


@pytest.mark.slow  # without Ray: test_trained.py
def test_deleted_shards_come_back_identical_with_other_workers_and_shard_sizes(finished: Path) -> None:
    before = certificates(finished)
    models = {path: path.stat().st_mtime_ns for path in finished.rglob("model.safetensors")}
    for path in finished.rglob("shards/*"):
        path.unlink()
    result = bench_run(finished, "--workers", "1", "--shard-size", "7")  # this worker computes with both cores
    assert result.returncode == 0, result.stderr
    pd.testing.assert_frame_equal(before, certificates(finished))
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("model.safetensors")} == models


def kill_when(folder: Path, reached: Callable[[Path], bool]) -> None:
    process = subprocess.Popen(
        command(folder, "--workers", "2", "--shard-size", "8"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not reached(folder / "run"):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.slow
@pytest.mark.sample
def test_a_run_killed_in_training_and_in_certification_ends_as_if_undisturbed(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text(FEWER)
    kill_when(tmp_path, lambda run: any(run.glob("trials/*/checkpoint.safetensors")))
    kill_when(tmp_path, lambda run: any(run.glob("trials/*/shards/*.parquet")))
    time.sleep(5)  # workers outlive the command by some seconds
    done = {
        path: path.stat().st_mtime_ns for kind in ("training.json", "shards/*.parquet") for path in tmp_path.rglob(kind)
    }
    assert done
    result = bench_run(tmp_path, "--workers", "2", "--shard-size", "8")
    assert result.returncode == 0, result.stderr
    assert {path: path.stat().st_mtime_ns for path in done} == done
    pd.testing.assert_frame_equal(certificates(finished), certificates(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_run_that_says_how_to_go_on(sent: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text(GRID)
    process = subprocess.Popen(
        command(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("checkpoint.safetensors")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + sent
    assert errors == STOPPED


@pytest.mark.parametrize("kind", ["trial", "certify"])
def test_sigterm_twice_stops_what_runs_without_ray_in_the_same_way(kind: str, tmp_path: Path) -> None:
    settings = {"name": "a", "method": "gaussian", "sigma": 0.5, "model": "tiny", "train": {"epochs": 1000}}
    (tmp_path / "trial.json").write_text(json.dumps(settings))
    (tmp_path / "mine.py").write_text("import time\ndef model():\n    print('asked', flush=True)\n    time.sleep(60)\n")
    arguments = {
        "trial": [str(tmp_path / "trial.json")],
        "certify": ["--model", "mine:model", "--data", "synthetic", "--sigma", "1"],
    }[kind]
    process = subprocess.Popen(
        [sys.executable, "-m", "bench", kind, *arguments, "--out", str(tmp_path / "run")],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(bench.__file__).parent.parent}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    if kind == "certify":
        assert process.stdout.readline() == "asked\n"
    while not (kind == "certify" or list(tmp_path.rglob("state.json"))):
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    time.sleep(0.05)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (143, STOPPED)


@pytest.mark.slow
def test_a_failing_trial_is_one_line_with_its_log_and_the_rest_is_kept(tmp_path: Path) -> None:
    # a rate at which the loss of the first method overflows, and not of the second
    grid = GRID.replace('"generalised_ld", "ensemble", "consistency", "gaussian"', '"consistency", "gaussian"')
    (tmp_path / "grid.toml").write_text(grid + "\n[rows.consistency]\ntrain = { learning_rate = 1e30 }\n")
    result = bench_run(tmp_path)
    assert result.returncode == 1
    [line] = [line for line in result.stderr.splitlines() if line.startswith("failed:")]
    assert "consistency σ=0.5: FloatingPointError: the loss became nan in epoch 0" in line
    assert Path(line.rsplit("log: ", 1)[1].rstrip(")")).stat().st_size > 0
    assert read_run(tmp_path / "run").trials["method"].tolist() == ["gaussian"]
    status = subprocess.run(
        [sys.executable, "-m", "bench", "status", str(tmp_path / "run")], capture_output=True, text=True, check=True
    )
    assert "failed" in status.stdout
    assert "the loss became nan" in status.stderr
