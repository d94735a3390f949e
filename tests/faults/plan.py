"""Which faults, how often, in what order: drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random


@dataclass
class Fault:
    """One fault, and what came of it."""

    kind: str
    stage: str
    """training, certification, merge: of a command that runs; between: while none runs."""
    what: str = ""
    """What was done to which process or file; empty: not yet done."""
    trial: str = ""
    commands: int = 0
    """Commands until the run was whole again, the disturbed one included."""
    epochs_again: int = 0
    images_again: int = 0
    """Finished work of its trial that was done again by those commands."""
    images_damaged: int = 0
    """In the shard that it damaged, which is certified again."""

    @property
    def may_lose_an_epoch(self) -> bool:
        return self.kind.partition(" ")[2] in ("checkpoint", "model", "training record", "epochs", "spectrum")


@dataclass
class Act:
    """What happens before and during one command."""

    before: list[Fault] = field(default_factory=list)
    during: list[Fault] = field(default_factory=list)
    last: Fault | None = None
    """Ends the command."""
    hurried: bool = False
    """The command is started while processes of the one before may still live."""


# Of 110 faults, so many of each kind at least; the rest damages files.
EXPECTED_TO_GO_ON = {
    ("kill worker", "training"): 7,
    ("kill worker", "certification"): 9,
    ("stop worker", "training"): 2,
    ("stop worker", "certification"): 2,
    ("second command", "training"): 1,
    ("second command", "certification"): 1,
}
ENDING = {
    ("kill command", "training"): 2,
    ("kill command", "certification"): 2,
    ("kill command", "merge"): 1,
    ("interrupt", "training"): 1,
    ("interrupt", "certification"): 1,
    ("fill disk", "training"): 1,
    ("fill disk", "certification"): 1,
    ("read-only", "training"): 1,
    ("read-only", "certification"): 1,
    ("read-only", "between"): 2,
}
NODES = {("kill node", "training"): 1, ("kill node", "certification"): 2}
STALE_LOCKS = {("stale lock", "between"): 2}
DAMAGE = (
    *("truncate shard", "flip shard", "empty shard", "delete shard", "stray file") * 2,
    *("truncate checkpoint", "flip checkpoint", "delete checkpoint"),
    *("truncate model", "flip model", "delete model"),
    *("truncate training record", "flip training record", "delete training record"),
    *("truncate epochs", "flip epochs", "delete epochs"),
    *("truncate spectrum", "flip spectrum", "delete spectrum"),
)
TOGETHER = 2
"""Moments of training at which a command's workers are killed or stopped: a third in a row rightly ends the trial."""


def draw(random: Random, faults: int) -> tuple[list[Act], list[Act]]:
    """The acts of a run on one machine, and those of a run on a cluster of three nodes; each ends with a command that
    nothing ends. `faults` together, or as many as make each kind happen."""

    def some(kinds: dict[tuple[str, str], int]) -> list[Fault]:
        return [Fault(*kind) for kind, count in kinds.items() for _ in range(max(1, round(count * faults / 110)))]

    endings = some(ENDING)
    nodes = some(NODES)
    others = some(EXPECTED_TO_GO_ON)
    between = some(STALE_LOCKS)
    between += [
        Fault(random.choice(DAMAGE), "between")
        for _ in range(faults - len(endings) - len(nodes) - len(others) - len(between))
    ]
    random.shuffle(endings)
    # What ends a command in training comes first, while there is something to train. Where a trial must not be written,
    # the others are trained nevertheless.
    place = {"training": 0, "between": 2, "certification": 2, "merge": 3}
    endings.sort(key=lambda fault: place[fault.stage] + (fault.kind == "read-only" and fault.stage == "training"))
    local = [*(Act(last=ending) for ending in endings), Act()]
    cluster = [Act(during=nodes), Act()]
    trained = sum(fault.stage == "training" for fault in endings)
    for fault in others:
        acts = local[: trained + 2] if fault.stage == "training" else local[trained:]
        fitting = [act for act in (*acts, cluster[0]) if _fits(fault, act)]
        random.choice(fitting or [cluster[0]]).during.append(fault)
    for act in local[1:-1]:
        act.hurried = random.random() < 0.3
    calm = [act for act in (*local[1:], cluster[1]) if not act.hurried]
    for fault in between:
        random.choice(calm).before.append(fault)
    return local, cluster


def _fits(fault: Fault, act: Act) -> bool:
    if act.last and act.last.stage == "between":  # it may end at once
        return False
    return fault.stage != "training" or sum(other.stage == "training" for other in act.during) < TOGETHER


def again(left: list[Fault]) -> list[Act]:
    """Acts of a further run, for faults that found no moment in theirs."""
    endings = [fault for fault in left if (fault.kind, fault.stage) in ENDING]
    acts = [Act(), *(Act(last=ending) for ending in endings if ending.stage == "between")]
    acts = [*(Act(last=ending) for ending in endings if ending.stage != "between"), *acts]
    for fault in left:
        if fault in endings:
            continue
        if fault.stage == "between":
            acts[-1].before.append(fault)
        else:
            next((act for act in acts if _fits(fault, act)), acts[0]).during.append(fault)
    return acts
