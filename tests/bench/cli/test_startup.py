"""What answers at once: commands that look things up, and every refusal of a wrong option, name or grid."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.runner import work
from bench.runner.state import trial_task
from results.store.description import add_trials
from results.store.folder import RunFolder, listing, location
from results.store.merge import merge_run
from tests.conftest import here, small_trial, trial_ids
from tests.s3 import bucket, s3_server  # noqa: F401

PROGRAM = """
import json, sys, time
from pathlib import Path
from bench.cli import main
ended = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["bench", *arguments]
    try:
        main()
    except SystemExit as end:
        ended.append(int(end.code or 0))
    heavy = sorted({"torch", "ray"} & sys.modules.keys())
    assert not heavy, f"{arguments} imports {heavy}"
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(json.dumps([ended, time.process_time(), int(peak.split()[1]) / 1024]))
"""


ONE_FIGURE = """
from itertools import islice
from results.report import write
figures_of = write.figures_of
write.figures_of = lambda *of: islice(figures_of(*of), 1)
"""
"""Before the program: its reports have the first of their figures alone, which take longer than all the rest."""


def run_in_turn(*commands: list[str], before: str = "") -> tuple[list[int], float, float]:
    """Exit statuses; seconds of a processor and peak megabytes of the one process that ran them."""
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


def test_refusals_need_neither_torch_nor_ray(tmp_path: Path) -> None:
    (tmp_path / "wrong.toml").write_text(
        'methods = ["generalised_ld"]\nsigmas = [0.5]\n[rows.generalised_ld]\noptions = {strength = -1}\n'
    )
    (tmp_path / "trial.json").write_text("{}")
    (tmp_path / "thesis.tex").touch()
    smoke = ["run", "--grid", "smoke"]
    commands = [
        ["run", "--grid", "smok"],
        ["run", "--grid", str(tmp_path / "wrong.toml")],
        [*smoke, "--methods", "macr"],
        [*smoke, "--set", "model=resnet21"],
        [*smoke, "--set", "train.images=99999"],
        [*smoke, "--sigmas", "a"],
        [*smoke, "--data", str(tmp_path / "nowhere")],
        [*smoke, "--gpus-per-worker", "2"],
        [*smoke, "--out", str(tmp_path)],
        ["submit", "--grid", "smok", "--out", "/run"],
        ["tune", "--grid", "smok", "--budget", "9"],
        ["tune", "--grid", "smoke"],
        ["tune", "--grid", "smoke", "--budget", "0"],
        ["tune", "--grid", "smoke", "--budget", "9", "--held-out", "1"],
        ["trial", str(tmp_path / "trial.json"), "--out", str(tmp_path / "run")],
        ["certify", "--model", "a:b", "--alpha", "1"],
        ["certify", "--model", str(tmp_path / "none")],
        ["verify", str(tmp_path)],
        ["attack", str(tmp_path)],
        ["perf", "certify", "--model", "resnet21"],
        ["status", str(tmp_path)],
        ["report", str(tmp_path)],
        ["import", str(tmp_path / "none"), "--method", "a", "--sigma", "1", "--out", str(tmp_path / "run")],
        ["compare", str(tmp_path)],
    ]
    ended, _, _ = run_in_turn(*commands)
    assert ended == [2] * len(commands)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis.tex", "trial.json", "wrong.toml"]


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
    assert run_in_turn(command, before=ONE_FIGURE)[0] == [0]
    table = run.tables / "certified_accuracy.md"
    made, text = dict(listing(run.tables)), table.read_text(encoding="utf-8")
    assert run_in_turn(command, [*command, "--quiet"], [*command, "--json"])[0] == [0, 0, 0]
    assert dict(listing(run.tables)) == made  # nothing was made again
    table.unlink()
    assert run_in_turn(command, before=ONE_FIGURE)[0] == [0]
    assert table.read_text(encoding="utf-8") == text
