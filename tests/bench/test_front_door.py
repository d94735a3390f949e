"""What a notebook imports from `bench`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import bench
from bench import load_grid, read_run, run_grid
from bench.runner import grid
from bench.runner.grid import Finished, RunFailedError
from results.report.update import update_report
from results.store.folder import RunFolder
from tests.conftest import trial_ids


def test_the_front_door_is_light_and_leads_to_everything() -> None:
    program = (
        "import sys, bench\nassert len(sys.modules) < 400, len(sys.modules)\n"
        "from bench import load_grid, register_dataset, register_method, register_network, run_grid, Method, read_run\n"
        "assert not {'torch', 'ray', 'matplotlib'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    names: dict[str, Any] = {}
    exec("from bench import *", names)  # noqa: S102
    assert {"Smoothed", "Certificate"} <= set(bench.__all__) <= names.keys()
    with pytest.raises(AttributeError, match="module 'bench' has no attribute 'run_grids'"):
        bench.run_grids  # noqa: B018


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"grid": "smok"}, "unknown grid 'smok': did you mean 'smoke'?"),
        ({"grid": "smoke", "wrkers": 2}, "unknown key 'wrkers': did you mean 'workers'?"),
        ({"grid": "smoke", "workers": 0}, "workers = 0: input should be greater than or equal to 1"),
        ({"grid": "smoke", "sigmas": ".5,a"}, "--sigmas '.5,a': must be numbers separated by commas"),
        ({"grid": "smoke", "methods": ["macr"]}, "unknown method 'macr': did you mean 'macer'?"),
        ({"grid": "smoke", "gpus_per_worker": 0.5, "workers": 2}, "must be 0 or 1"),
        ({"grid": "smoke", "plugins": ["nowhere.py"]}, "--plugin nowhere.py: cannot be read"),
    ],
)
def test_wrong_options_are_refused_in_a_notebook_as_on_the_command_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # the message is compared
        run_grid(**given)
    assert message in str(caught.value)


@pytest.mark.usefixtures("_no_figures")
def test_a_notebook_gets_the_run_or_the_reason(
    fake_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed: dict[str, str] = {}
    monkeypatch.setattr(grid, "finish_grid", lambda *_, **__: Finished(fake_run, failed, update_report(fake_run)))
    run = run_grid("smoke", out=tmp_path, quiet=True)
    assert not capsys.readouterr().out
    run_grid("smoke", out=tmp_path)
    assert capsys.readouterr().out.startswith(f"{fake_run.page}: open it in a browser first")
    assert run.certificates.equals(read_run(fake_run.path).certificates)
    failed |= dict.fromkeys(trial_ids(fake_run)[:2], "the loss became nan")
    with pytest.raises(RunFailedError, match=rf"^{trial_ids(fake_run)[0]}: the loss became nan, and 1 more \(log: "):
        run_grid("smoke", quiet=True)
    assert len(load_grid("smoke").trials()) == 12
