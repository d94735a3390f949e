"""A method, a network and a data set in one file of a user's own: run, verified, and read in a notebook."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from results import read_run
from results.store.folder import read_json
from tests.bench.settings.test_plugins import MINE

GRID = """
methods = ["mine", "three", "gaussian"]
sigmas = [0.5]
data = "few"
model = "linear"
[train]
epochs = 2
decay_epochs = [1]
learning_rate = 0.05
batch = 32
precision = "fp32"
[certify]
n0 = 10
n = 40
images = 6
precision = "fp32"
"""
NOTEBOOK = """
import sys
from bench import run_grid
assert "torch" not in sys.modules
run = run_grid("grid.toml", out=sys.argv[1], plugins=["own/mine.py"], workers=1, quiet=True)
print(run.trials["method"].tolist())
"""


def python(folder: Path, *arguments: str, expected: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == expected, done.stdout + done.stderr
    return done


@pytest.mark.slow
@pytest.mark.sample
def test_a_plugin_is_known_to_every_worker_and_to_who_looks_later(tmp_path: Path) -> None:
    """The run's folder goes elsewhere, as does the plugin: what counts is what it says."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.py").write_text(MINE)
    (tmp_path / "grid.toml").write_text(GRID)
    plugin = ["--plugin", "own/mine.py"]
    run = ["-m", "bench", "run", "--grid", "grid.toml", "--out", "run", "--workers", "1"]
    refused = python(tmp_path, *run, expected=2)
    assert "unknown method 'mine'" in refused.stderr
    assert "give --plugin" in refused.stderr
    done = python(tmp_path, *run, *plugin)
    assert " on few@" in done.stdout
    found = read_run(tmp_path / "run")
    assert found.trials["method"].tolist() == ["mine", "three", "gaussian"]
    assert set(found.trials["model"]) == {"linear"}
    assert set(found.certificates["classifier"]) == {"network", "mean of 3 logits"}
    assert len(found.certificates) == 3 * 6
    codes = {read_json(path)["code"] for path in (tmp_path / "run" / "trials").glob("*/trial.json")}
    assert len(codes) == 1  # the network is the plugin's in all of them
    assert "" not in codes

    again = python(tmp_path, *run, *plugin)
    assert "all finished" in again.stdout
    assert python(tmp_path, "-c", NOTEBOOK, "run").stdout == "['mine', 'three', 'gaussian']\n"

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(tmp_path / "run", elsewhere / "run")
    shutil.move(tmp_path / "own" / "mine.py", elsewhere / "mine.py")
    for command in (["verify", "run"], ["attack", "run"]):
        refused = python(elsewhere, "-m", "bench", *command, expected=2)
        assert "is not of this program: give --plugin with the file or module that defines it" in refused.stderr
        assert refused.stderr.count("\n") == 1
    verified = python(elsewhere, "-m", "bench", "verify", "run", "--plugin", "mine.py")
    assert "18 identical" in verified.stdout
    (elsewhere / "mine.py").write_text(MINE.replace("0.1", "0.2"))
    refused = python(elsewhere, "-m", "bench", "verify", "run", "--plugin", "mine.py", expected=2)
    assert "has changed since" in refused.stderr
