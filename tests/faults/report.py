"""What happened, as a table."""

from __future__ import annotations

from collections import defaultdict

from tests.faults.plan import Fault
from tests.faults.whole import Outcome


def as_text(outcome: Outcome) -> str:
    groups: dict[tuple[str, str], list[Fault]] = defaultdict(list)
    for fault in outcome.faults:
        groups[fault.kind, fault.stage].append(fault)
    lines = [f"{'fault':<26} {'stage':<14} {'times':>5} {'commands':>9} {'epochs again':>13} {'images again':>13}"]
    for (kind, stage), faults in sorted(groups.items()):
        commands, epochs, images = (
            max(getattr(fault, name) for fault in faults) for name in ("commands", "epochs_again", "images_again")
        )
        lines.append(f"{kind:<26} {stage:<14} {len(faults):>5} {commands:>9} {epochs:>13} {images:>13}")
    lines += [
        "",
        "commands: most until the run was whole again, the disturbed one included. again: most finished epochs and "
        "images of the fault's trial that were done a second time; images of damaged shards are not among them.",
        f"{len(outcome.faults)} faults of seed {outcome.seed}, {outcome.commands} commands, {outcome.seconds:.0f} s "
        f"({outcome.undisturbed_seconds:.0f} s of them undisturbed); {outcome.epochs_again} finished epochs and "
        f"{outcome.images_again} finished images done again, {outcome.images_damaged} images of damaged shards",
        *(f"skipped: {reason}" for reason in outcome.skipped),
        *(f"WRONG: {problem}" for problem in outcome.problems),
        "identical to the undisturbed run" if not outcome.problems else f"{len(outcome.problems)} things wrong",
    ]
    return "\n".join(lines)
