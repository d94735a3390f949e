"""The whole of it: one undisturbed run, disturbed ones, a poisoned shard, and the comparison."""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.faults import damage
from tests.faults.cluster import ThreeNodes
from tests.faults.comparison import differences
from tests.faults.harness import Bench, DisturbedRun
from tests.faults.plan import Act, Fault, again
from tests.faults.poison import poison
from tests.faults.processes import Marked

GRID = """
methods = ["generalised_ld", "ensemble", "consistency", "gaussian"]
sigmas = [0.5]
model = "tiny"
width = 8
[train]
epochs = 5
decay_epochs = [4]
learning_rate = 0.1
batch = 128
images = 800
[certify]
n0 = 20
n = 5000
images = 80
"""
FEWER = GRID.replace('"generalised_ld", "ensemble", "consistency", "gaussian"', '"generalised_ld", "ensemble"').replace(
    "n = 5000", "n = 2000"
)
"""All kinds of files of a run, of four trainings in place of five, and two trials in place of four."""
DISK_MEGABYTES = 64
MOST_RUNS = 4
"""On one machine, and on a cluster: further ones take the faults that found no moment in the first."""


@dataclass(frozen=True)
class Outcome:
    """What was done, and what was wrong."""

    seed: int
    faults: list[Fault]
    commands: int
    seconds: float
    undisturbed_seconds: float
    epochs_again: int
    images_again: int
    images_damaged: int
    skipped: list[str]
    """Kinds of faults that cannot be made to happen here, with the reason."""
    problems: list[str]


def disturb(
    folder: Path, seed: int, local: list[Act], cluster: list[Act], *, poisoned: bool = True, grid: str = GRID
) -> Outcome:
    """Run, disturb, compare. `folder` is made; nothing of it is removed.

    Args:
        seed: of the moments and victims.
        local, cluster: what happens to a run on one machine, and to one on a cluster of three nodes, as `plan.draw`
            gives it.
        poisoned: whether a shard of the first run also kills whoever certifies it.
        grid: its text.
    """
    started = time.monotonic()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # commands would inherit that it is ignored
    random = Random(seed)
    (folder / "logs").mkdir(parents=True)
    (folder / "grid.toml").write_text(grid)
    temporary = Path(tempfile.mkdtemp(prefix="f", dir="/tmp"))  # Ray's sockets have room for short names only
    marked = Marked(temporary)
    bench = Bench(folder, marked)
    done: list[DisturbedRun] = []
    skipped: list[str] = []
    with ExitStack() as undone:
        undone.callback(shutil.rmtree, temporary, ignore_errors=True)
        undone.callback(marked.end_all)
        try:
            undone.enter_context(damage.small_disk(folder / "small", DISK_MEGABYTES))
        except OSError as error:
            skipped.append(f"fill disk: {error}")
            local = [act for act in local if not (act.last and act.last.kind == "fill disk")]
        undisturbed = folder / "undisturbed"
        command = bench.start(undisturbed, "--shard-size", "2")
        if command.wait():
            raise AssertionError(f"the undisturbed run failed: {command.complaint()}")
        undisturbed_seconds = time.monotonic() - started
        nodes = None
        for name, acts in (("local", local), ("cluster", cluster)):
            for number in range(MOST_RUNS):
                if name == "cluster" and nodes is None:
                    nodes = ThreeNodes(marked, folder)
                run = (folder / "small" if name == "local" else folder) / f"{name}{number}"
                done.append(DisturbedRun(bench, run, random, nodes))
                done[-1].play(acts)
                _compare(undisturbed, run, bench)
                if name == "local" and not number and poisoned:
                    poison(done[-1])
                    _compare(undisturbed, run, bench, "after a poisoned shard: ")
                acts = again(done[-1].left)
                if not done[-1].left:
                    break
            for fault in done[-1].left:
                bench.wrong(f"{fault.kind} ({fault.stage}) did not happen")
    happened = [fault for run in done for fault in run.done]
    return Outcome(
        seed=seed,
        faults=happened,
        commands=bench.commands,
        seconds=time.monotonic() - started,
        undisturbed_seconds=undisturbed_seconds,
        epochs_again=sum(run.epochs_again for run in done),
        images_again=sum(run.images_again for run in done),
        images_damaged=sum(fault.images_damaged for fault in happened),
        skipped=skipped,
        problems=bench.problems,
    )


def _compare(undisturbed: Path, run: Path, bench: Bench, when: str = "") -> None:
    for difference in differences(undisturbed, run):
        bench.wrong(f"{when}{difference}")
