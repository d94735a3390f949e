"""How each kind of fault is made to happen. An injector says what it did, or nothing where there is nothing to
do it to; it raises NotHappened where the fault had no effect."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from tests.faults import damage
from tests.faults.plan import Fault
from tests.faults.processes import Command, NotHappened, is_gone, kill, stop, wait_for

if TYPE_CHECKING:
    from tests.faults.harness import DisturbedRun

NOT_TO_BE_WRITTEN = {
    "training": ["trials/*/checkpoint.safetensors", "trials/*", ""],
    "certification": ["trials/*/shards", "trials/*", "trials/*/shards/*.parquet"],
    "between": ["run.json", "trials/*/shards/*.parquet", "trials/*/trial.json", "certificates.parquet", ""],
}


@dataclass(frozen=True)
class Moment:
    """When a fault happens: to a command at work on a trial, or while none runs."""

    command: Command | None = None
    trial: str = ""
    undone: ExitStack | None = None
    """Takes back, once the command has ended, what no program can mend."""


def inject(fault: Fault, run: DisturbedRun, moment: Moment) -> str:
    verb, _, thing = fault.kind.partition(" ")
    if fault.kind in ("kill worker", "stop worker"):
        return _worker(fault, run, moment)
    if fault.kind == "kill node":
        return _node(run)
    if fault.kind == "stale lock":
        return _stale_lock(run)
    if fault.kind == "read-only":
        return _read_only(fault, run, moment)
    if moment.command is None:
        return _damage(verb, thing, fault, run)
    if fault.kind == "second command":
        return _second_command(run, moment.command)
    if fault.kind == "fill disk":
        return _fill_disk(run, moment)
    assert fault.kind in ("kill command", "interrupt")
    if fault.kind == "kill command":
        kill(moment.command.process)
    else:
        moment.command.process.send_signal(signal.SIGINT)
    return f"command {moment.command.process.pid}"


def _worker(fault: Fault, run: DisturbedRun, moment: Moment) -> str:
    workers = run.bench.marked.workers()
    if not workers:
        return ""
    worker = run.random.choice(workers)
    try:
        if fault.kind == "kill worker":
            kill(worker)
        else:
            stop(worker)
            assert moment.undone
            moment.undone.callback(_expect_gone, run, worker)
    except (NotHappened, psutil.NoSuchProcess):  # it ended by itself: another one, then
        return ""
    return f"worker {worker.pid}"


def _expect_gone(run: DisturbedRun, worker: psutil.Process) -> None:
    try:
        wait_for(lambda: is_gone(worker), "", limit=30)
    except NotHappened:
        run.bench.wrong(f"worker {worker.pid}, which was stopped, outlives its command")
        worker.kill()


def _node(run: DisturbedRun) -> str:
    """Kill one of the nodes that are not the head, and put a new one in its place, as an autoscaler does."""
    assert run.cluster
    number = run.random.choice(run.cluster.with_workers() or [2, 3])
    what = run.cluster.kill(number)
    run.cluster.start(number)
    return what


def _second_command(run: DisturbedRun, first: Command) -> str:
    second = run.start()
    code, complaint = second.wait(), second.complaint()
    if code == 0 and not first.alive():
        return ""  # it came too late
    if code != 2 or str(first.process.pid) not in complaint or len(complaint.splitlines()) > 1:
        run.bench.wrong(f"a second command beside {first.process.pid}: exit {code}: {complaint}")
    return f"beside {first.process.pid}: exit {code}: {complaint}"


def _fill_disk(run: DisturbedRun, moment: Moment) -> str:
    assert moment.undone
    filler = run.run.parent / "filler"
    moment.undone.callback(filler.unlink)
    return damage.fill_disk(filler)


def _read_only(fault: Fault, run: DisturbedRun, moment: Moment) -> str:
    patterns = NOT_TO_BE_WRITTEN[fault.stage]
    path = None
    for pattern in run.random.sample(patterns, len(patterns)):
        here = pattern.replace("*", moment.trial, 1) if moment.trial else pattern
        path = path or damage.pick(run.random, run.run, here, set())
    if path is None:
        return ""
    assert moment.undone
    moment.undone.enter_context(damage.read_only(path))
    return f"{path}: must not be written"


def _stale_lock(run: DisturbedRun) -> str:
    if not run.locks:
        return ""
    path = run.random.choice(sorted(run.locks))
    path.write_bytes(run.locks[path])
    return f"{path}: {run.locks[path].decode()}"


def _damage(verb: str, thing: str, fault: Fault, run: DisturbedRun) -> str:
    spared = _not_yet_mended(run)
    if verb == "stray":
        beside = run.random.choice([damage.SHARD, "trials/*/trial.json", "run.json"])
        path = damage.pick(run.random, run.run, beside, spared)
        return damage.leave_stray(run.random, path) if path else ""
    pattern = damage.SHARD if thing == "shard" else f"trials/*/{damage.TRAINING_FILES[thing]}"
    path = damage.pick(run.random, run.run, pattern, spared)
    if path is None:
        return ""
    fault.trial = path.relative_to(run.run).parts[1]
    if thing == "shard":
        fault.images_damaged = len(run.ledger.forget_shard(path))
    what = getattr(damage, verb)(run.random, path)
    run.ledger.pass_over(path)
    run.damaged[path] = damage.look_of(path)
    return str(what)


def _not_yet_mended(run: DisturbedRun) -> set[Path]:
    """Damaged shards, and folders of trials with a damaged file of the training: one fault is to be survived, not two
    that together take every copy."""
    spared = set()
    for path, look in run.damaged.items():
        if damage.look_of(path) == look:
            spared.add(path if path.parent.name == "shards" else path.parent)
    return spared
