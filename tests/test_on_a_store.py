"""A whole run in an object store: killed in mid-run, watched from elsewhere, ended as if undisturbed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from results import read_run
from results.store.folder import RunFolder, location
from tests.s3 import bucket, s3_server  # noqa: F401  # fixtures
from tests.test_end_to_end import GRID, SAME

TWO_METHODS = GRID.replace('"generalised_ld", "ensemble", "consistency", "gaussian"', '"generalised_ld", "gaussian"')
LONG = 200.0


def bench(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "bench", *arguments]


def output(*arguments: str) -> str:
    done = subprocess.run(bench(*arguments), capture_output=True, text=True, timeout=LONG, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(place: str) -> pd.DataFrame:
    certificates = read_run(place).certificates[SAME].copy()
    certificates["counts"] = certificates["counts"].map(tuple)
    return certificates


@pytest.mark.slow
@pytest.mark.sample
def test_a_run_in_a_store_is_killed_and_ends_as_one_on_a_disk(bucket: str, tmp_path: Path) -> None:  # noqa: F811
    grid = tmp_path / "grid.toml"
    grid.write_text(TWO_METHODS)
    place = f"{bucket}/runs/two methods"
    run = RunFolder(location(place))
    command = ["run", "--grid", str(grid), "--workers", "2", "--shard-size", "4"]
    first = subprocess.Popen(bench(*command, "--out", place), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + LONG
    while not list(run.path.glob("trials/*/shards/*.parquet")):
        assert first.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.1)
    watched = json.loads(output("status", place, "--json"))
    assert watched["running"]["pid"] == first.pid
    assert len(watched["trials"]) == 2
    first.kill()
    first.wait()
    assert json.loads(output("status", place, "--json"))["running"] is None
    shards = set(run.path.glob("trials/*/shards/*.parquet"))

    ended = json.loads(output(*command, "--out", place, "--json"))
    assert (ended["done"], ended["failed"]) == (2, 0)
    assert shards <= set(run.path.glob("trials/*/shards/*.parquet"))
    output(*command, "--out", str(tmp_path / "run"), "--quiet")
    pd.testing.assert_frame_equal(rows(place), rows(str(tmp_path / "run")))
    names = {path.name for path in run.path.iterdir()}
    assert {"report.html", "certificates.parquet", "tables", "figures", "run.json"} <= names
    assert not [name for name in names if name.startswith((".", "lock"))]
    assert any(path.name.startswith("log-") for path in run.path.glob("trials/*/*"))
    assert "Certified accuracy (%)" in output("report", place)
