"""What a worker group that trains together does when one of its processes fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cluster import GroupSize, Job, connected, run_jobs
from results.store.folder import RunFolder
from tests.bench.runner.group_work import OneRaises
from tests.conftest import small_trial
from tests.ranks import said_by_two_ranks


def test_the_error_of_one_rank_arrives_while_the_others_wait_for_it(tmp_path: Path) -> None:
    trial = small_trial()
    task: dict[str, Any] = {
        "folder": str(tmp_path), "trial_id": trial.trial_id, "settings": trial.model_dump_json(),
        "run": str(RunFolder(tmp_path).path), "plugins": [], "log": str(tmp_path / "log.txt"),
    }  # fmt: skip
    with connected(None, cores=2):
        failed = run_jobs([Job("job", task, task["log"])], OneRaises(), GroupSize(2, 1, 0))
    assert failed == {"job": "the loss became nan in epoch 0"}
    state = json.loads((tmp_path / "state.json").read_text())
    assert state == {"state": "failed", "error": "the loss became nan in epoch 0"}
    for waited_for in ("leave", "collective"):
        assert not (tmp_path / waited_for).exists(), waited_for


IMPORTS = """
import os, sys, time
from datetime import timedelta
from pathlib import Path
import torch
from bench.machine import processes
"""
WAITING = """
first = processes.join_group().is_main_process
cpu, ended = torch.device("cpu"), Path(sys.argv[1], "ended")
collectives = torch.distributed.group.WORLD._get_backend(cpu)
assert collectives.options._timeout == processes.COLLECTIVES_WITHIN
assert processes._waiting_room._group._get_backend(cpu).options._timeout == processes.LONGEST_WAIT
collectives._set_default_timeout(timedelta(seconds=2))

def look():
    time.sleep(3)
    return "found"

assert processes.agreed(look) == "found"
if first:
    time.sleep(3)
processes.wait_for_all()
while first and not ended.exists():
    time.sleep(0.1)
try:
    torch.distributed.all_reduce(torch.zeros(1))
except RuntimeError as error:
    print("too long" if "imed out" in str(error) or "by peer" in str(error) else error, flush=True)
ended.touch()
os._exit(0)  # a process whose group is broken may abort at its end
"""


def test_what_one_does_for_all_may_take_long_and_a_collective_may_not(tmp_path: Path) -> None:
    _, said = said_by_two_ranks(IMPORTS, WAITING, str(tmp_path))
    assert said == "too long\n"
