"""A shard that kills every worker that gets it: here, by somebody who watches for them."""

from __future__ import annotations

import time

from tests.faults.harness import DisturbedRun
from tests.faults.plan import Fault
from tests.faults.processes import Command, kill
from tests.faults.watch import states

ATTEMPTS = 3


def poison(run: DisturbedRun) -> None:
    """On a finished run: certify an ensemble and a part of the other trials again, in shards that take longer than it
    takes to see who is at them; kill whoever is at the first shard of the ensemble. That trial ends as failed, the
    others complete; the same command then completes it too."""
    run.ledger.look()
    images = sorted({index for _, index in run.ledger.images})  # before some are forgotten
    for path in run.run.glob("trials/*/shards/*.parquet"):
        if path.parts[-3].startswith("ensemble") or run.random.random() < 0.2:
            run.ledger.forget_shard(path)
            path.unlink()
    [folder] = run.run.glob("trials/ensemble*")
    shard = images[: 3 * len(images) // 4]
    doing = f"images {shard[0]} to {shard[-1]}"
    command = run.bench.start(run.run, "--shard-size", str(len(shard)))
    killed: list[int] = []
    while command.alive():
        _kill_whoever_is_at(doing, folder.name, run, killed)
        time.sleep(0.03)
    code, complaint = command.wait(), command.complaint()
    told = [line for line in complaint.splitlines() if line.startswith("failed: ensemble")]
    if code != 1 or len(killed) != ATTEMPTS or len(told) != 1 or doing not in told[0]:
        run.bench.wrong(f"poisoned {doing}, {len(killed)} times: exit {code}: {complaint}")
    status = Command(run.bench.marked, run.bench.folder / "logs" / "status", "status", str(run.run))
    status.wait()
    shown = " ".join(status.stdout.read_text().split() + status.complaint().split())
    if "failed" not in shown or doing not in shown:
        run.bench.wrong(f"bench status does not tell of the poisoned {doing}: {shown}")
    left = {path.parts[-2] for path in run.run.glob("trials/*/state.json")}
    if left != {folder.name}:
        run.bench.wrong(f"a poisoned shard of {folder.name} keeps others from their end: {sorted(left)}")
    run.play([])


def _kill_whoever_is_at(doing: str, trial: str, run: DisturbedRun, killed: list[int]) -> None:
    for worker in states(run.run).get(trial, {}).get("workers", []):
        if worker.get("doing") != doing or worker["pid"] in killed:
            continue
        for process in run.bench.marked.workers():
            if process.pid == worker["pid"]:
                kill(process)
                killed.append(process.pid)
                run.note(Fault("poisoned shard", "certification"), f"worker {process.pid}", trial)
