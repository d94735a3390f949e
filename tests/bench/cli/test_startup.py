"""What answers at once: commands that look things up, and every refusal of a wrong option, name or grid."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.data.known import KNOWN
from bench.runner import work
from bench.runner.task import trial_task
from results.store.description import add_trials
from results.store.folder import RunFolder, listing, location
from results.store.merge import merge_run
from tests.bench.data.originals import drawn, write_original
from tests.command import ONE_FIGURE, PROGRAM
from tests.conftest import here, small_trial, trial_ids
from tests.s3 import bucket, s3_server  # noqa: F401

NO_FIGURE = ONE_FIGURE.replace("1)", "0)")


KNOWING = """
from dataclasses import replace
from bench.data.known import KNOWN
KNOWN["cifar10"] = replace(KNOWN["cifar10"], files={!r}, names={!r})
"""
"""Before the program: a small CIFAR-10 is the real one."""


def run_in_turn(*commands: list[str], before: str = "") -> tuple[list[int], float, float]:
    """Exit statuses; seconds of such a processor and peak megabytes of the one process that ran them."""
    result = subprocess.run(
        [sys.executable, "-c", before + PROGRAM, json.dumps(commands)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    ended, seconds, megabytes = json.loads(result.stdout.splitlines()[-1])
    return ended, seconds, megabytes


def test_looking_things_up_needs_neither_torch_nor_ray(fake_run: RunFolder) -> None:
    merge_run(fake_run)
    place = str(fake_run.path)
    commands = [
        ["--help"],
        ["--version"],
        ["grids"],
        ["methods"],
        ["published"],
        ["run", "--help"],
        ["tune", "--help"],
        ["status", place],
    ]
    commands += [["report", place], ["compare", place, "--json"]]
    ended, _, _ = run_in_turn(*commands, before=ONE_FIGURE)
    assert set(ended) == {0}
    assert here(fake_run.page).exists()


def test_refusals_need_neither_torch_nor_ray(
    tmp_path: Path, fake_run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge_run(fake_run)
    merged, foreign, nowhere = str(fake_run.path), tmp_path / "foreign", str(tmp_path / "nowhere")
    foreign.mkdir()
    (foreign / "thesis.tex").touch()
    (tmp_path / "wrong.toml").write_text(
        'methods = ["generalised_ld"]\nsigmas = [0.5]\n[rows.generalised_ld]\noptions = {strength = -1}\n'
    )
    (tmp_path / "wrong.json").write_text("{}")
    (tmp_path / "trial.json").write_text(small_trial().model_dump_json())
    (tmp_path / "lost.json").write_text(small_trial().model_copy(update={"data": nowhere}).model_dump_json())
    cifar = str(write_original("cifar10", tmp_path / "data", drawn("cifar10"), monkeypatch))
    files = KNOWN["cifar10"].files, KNOWN["cifar10"].names
    smoke, tune = ["run", "--grid", "smoke"], ["tune", "--grid", "smoke", "--budget", "999"]
    model = ["--model", "json:nothing", "--sigma", ".5"]
    made = sorted(tmp_path.rglob("*"))
    commands = [
        ["run", "--grid", "smok"],
        ["run", "--grid", str(tmp_path / "wrong.toml")],
        [*smoke, "--methods", "macr"],
        [*smoke, "--set", "model=resnet21"],
        [*smoke, "--sigmas", "a"],
        [*smoke, "--out", str(foreign)],
        *(
            [*command, *wrong]
            for command in (smoke, [*smoke, "--dry-run"])
            for wrong in (
                ["--set", "train.images=99999"],
                ["--data", cifar, "--set", "train.images=31"],
                ["--data", nowhere],
                ["--gpus-per-worker", "2"],
            )
        ),
        ["submit", "--grid", "smok", "--out", "/run"],
        ["tune", "--grid", "smok", "--budget", "9"],
        ["tune", "--grid", "smoke"],
        ["tune", "--grid", "smoke", "--budget", "0"],
        [*tune, "--held-out", "1"],
        [*tune, "--held-out", "30", "--data", cifar],
        [*tune, "--data", nowhere],
        [*tune, "--gpus-per-worker", "2"],
        [*tune, "--n", "5"],
        [*tune, "--methods", "gaussian"],
        [*tune, "--out", str(foreign)],
        ["trial", str(tmp_path / "wrong.json"), "--out", str(tmp_path / "run")],
        ["trial", str(tmp_path / "lost.json"), "--out", str(tmp_path / "run")],
        ["trial", str(tmp_path / "trial.json"), "--out", str(foreign)],
        ["certify", "--model", "a:b", "--alpha", "1"],
        ["certify", "--model", str(tmp_path / "none")],
        ["certify", "--model", f"{merged}/none"],
        ["certify", *model],
        ["certify", "--model", "json:nothing", "--data", "synthetic"],
        ["certify", *model, "--data", "synthetic"],
        ["certify", *model, "--data", nowhere],
        ["certify", *model, "--data", "synthetic", "--out", str(foreign)],
        ["certify", *model, "--data", "synthetic", "--denoiser", "nonsense"],
        ["predict", *model],
        ["predict", *model, "--data", "synthetic"],
        ["predict", *model, "--data", "synthetic", "--alpha", "2"],
        ["predict", *model, "--data", "synthetic", "--n", "5"],
        ["predict", *model, "--data", nowhere],
        ["verify", str(foreign)],
        ["verify", merged, "--data", nowhere],
        ["attack", str(foreign)],
        ["attack", merged, "--data", nowhere],
        ["perf", "certify", "--model", "resnet21"],
        ["perf", "certify", "--model", f"{merged}/none"],
        ["perf", "certify", "--sigma", "0"],
        ["status", str(foreign)],
        ["report", str(foreign)],
        ["import", str(tmp_path / "none"), "--method", "a", "--sigma", "1", "--out", str(tmp_path / "run")],
        ["compare", str(foreign)],
    ]
    ended, _, _ = run_in_turn(*commands, before=KNOWING.format(*files))
    assert ended == [2] * len(commands)
    assert sorted(tmp_path.rglob("*")) == made


@pytest.mark.parametrize("command", ["--help", "grids", "run --grid smok"])
def test_an_answer_takes_less_than_a_second_and_200_mb(command: str) -> None:
    for _ in range(3):  # a processor that others use as well may take longer, once
        _, seconds, megabytes = run_in_turn(command.split())
        assert megabytes < 200
        if seconds < 1:  # of a processor
            return
    pytest.fail(f"{seconds} s")


def test_a_new_run_is_driven_without_torch() -> None:
    """Its workers import it, beside the driver and the trials' own processes."""
    program = (
        "import sys, cluster.worker\n"
        "assert not {'ray.tune', 'pandas'} & sys.modules.keys()  # which those workers have no use for\n"
        "import bench.runner.grid, bench.runner.jobs, bench.data.thumbnails\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


TRIALS_OWN_PROCESS = """
import json, sys
from bench.runner.trial_work import TrialWork
from cluster import JobState
work, task = TrialWork(), json.loads(sys.argv[1])
work.note(task, {"state": JobState.RUNNING})
assert work.metrics(task)["shards"]
work.note(task, None)
assert "torch" not in sys.modules
"""


def test_a_trials_own_process_waits_without_torch(fake_run: RunFolder) -> None:
    name = trial_ids(fake_run)[0]
    task = {**trial_task(small_trial(), fake_run, certify=True, shard_size=5), "trial_id": name}
    subprocess.run([sys.executable, "-c", TRIALS_OWN_PROCESS, json.dumps(task)], check=True)


GRID = """
methods = ["gaussian"]
sigmas = [0.25]
model = "tiny"
width = 4
train = { epochs = 2, decay_epochs = [1], learning_rate = 0.05, batch = 64, images = 200, precision = "fp32" }
certify = { n = 40, n0 = 10, images = 12, precision = "fp32" }
"""


@pytest.mark.parametrize("where", ["disk", pytest.param("store", marks=pytest.mark.slow)])
def test_a_run_with_nothing_left_to_do_needs_neither_torch_nor_ray(
    where: str,
    tmp_path: Path,
    bucket: str,  # noqa: F811
) -> None:
    (tmp_path / "grid.toml").write_text(GRID)
    run = RunFolder(tmp_path / "run" if where == "disk" else location(f"{bucket}/finished"))
    task = trial_task(small_trial(), run, certify=True, shard_size=5)
    add_trials(run, [small_trial()])
    work.train_trial(task)
    for shard in work.shards_left(task):
        work.certify(task, shard)
    command = ["run", "--grid", str(tmp_path / "grid.toml"), "--out", str(run.path)]
    assert run_in_turn(command, before=NO_FIGURE)[0] == [0]
    table = run.tables / "certified_accuracy.md"
    made, text = dict(listing(run.tables)), table.read_text(encoding="utf-8")
    assert run_in_turn(command, [*command, "--quiet"], [*command, "--json"])[0] == [0, 0, 0]
    assert dict(listing(run.tables)) == made  # nothing was made again
    table.unlink()
    assert run_in_turn(command, before=NO_FIGURE)[0] == [0]
    assert table.read_text(encoding="utf-8") == text
