"""One disturbed run: acts are played, commands judged, lost work counted."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from random import Random

from tests.faults import inject
from tests.faults.cluster import ThreeNodes
from tests.faults.plan import Act, Fault
from tests.faults.processes import Command, Marked, NotHappened, wait_for
from tests.faults.watch import Ledger, states, working_on

MOST_COMMANDS = 4
"""Until the run is whole again."""
SPREAD = {"training": 1.5, "certification": 1.5, "merge": 3.0}
"""A fault happens up to so many seconds after its stage was first seen."""
ENDS_WITH = {"kill command": {-9}, "interrupt": {130}, "fill disk": {1, 2}, "read-only": {0, 1, 2}}


class Bench:
    """Starts commands on one grid, and keeps what was wrong."""

    def __init__(self, folder: Path, marked: Marked) -> None:
        self.folder, self.marked = folder, marked
        self.problems: list[str] = []
        self.commands = 0

    def start(self, run: Path, *options: str, **environment: str) -> Command:
        self.commands += 1
        log = self.folder / "logs" / f"{self.commands:03d}-{run.name}"
        grid = str(self.folder / "grid.toml")
        given = ("--out", str(run), "--workers", "2", "--cpus-per-worker", "1", *options)
        given = (*given, "--quiet")  # what it will cost is not asked each time
        return Command(self.marked, log, "run", "--grid", grid, *given, **environment)

    def wrong(self, sentence: str) -> None:
        self.problems.append(sentence)
        print(f"WRONG: {sentence}", flush=True)


class DisturbedRun:
    """One folder, and the same command again and again."""

    def __init__(self, bench: Bench, run: Path, random: Random, cluster: ThreeNodes | None = None) -> None:
        self.bench, self.run, self.random, self.cluster = bench, run, random, cluster
        self.ledger = Ledger(run)
        self.left: list[Fault] = []
        """Faults that found no moment."""
        self.postponed: list[Fault] = []
        """Damage that found no file yet."""
        self.done: list[Fault] = []
        self.open: list[Fault] = []
        """Those after which no command has succeeded yet."""
        self.damaged: dict[Path, object] = {}
        """Files that nobody has mended yet, as they were then."""
        self.locks: dict[Path, bytes] = {}
        """Locks of commands, as they were while they ran."""
        self.epochs_again, self.images_again = 0, 0

    def play(self, acts: list[Act]) -> None:
        """All acts that have anything to disturb, then the same command until it succeeds.

        Raises:
            NotHappened: it does not.
        """
        code = 1
        for act in acts:
            if code or act.before or self.postponed or (act.last and act.last.stage == "between"):
                code = self._play(act)
            else:
                self.left += [*act.during, *([act.last] if act.last else [])]
        while code or self.open or self.postponed:
            if any(fault.commands >= MOST_COMMANDS for fault in self.open):
                raise NotHappened(f"{self.run} is not whole after {MOST_COMMANDS} commands")
            done = len(self.done)
            code = self._play(Act())
            if not code and len(self.done) == done:  # no command will make what they would damage
                self.left += self.postponed
                self.postponed = []

    def start(self) -> Command:
        if self.cluster is None:
            return self.bench.start(self.run, "--shard-size", "2")
        options = ("--shard-size", "2", "--address", self.cluster.address)
        return self.bench.start(self.run, *options, RAY_AUTH_TOKEN_PATH=self.cluster.token)

    def note(self, fault: Fault, what: str, trial: str = "") -> None:
        """A fault has happened."""
        fault.what, fault.trial = what, trial
        self.open.append(fault)
        self.done.append(fault)
        print(f"{self.run.name}: {fault.kind} ({fault.stage}): {what}", flush=True)

    def _play(self, act: Act) -> int:
        """One command and what happens before and during it. Returns its exit status."""
        if not act.hurried:
            self._wait_for_quiet()
            self.ledger.look()
            before, self.postponed = self.postponed + act.before, []
            for fault in before:
                self._inject(fault, inject.Moment())
        with ExitStack() as undone:
            if act.last and act.last.stage == "between":
                self._inject(act.last, inject.Moment(undone=undone))
            command = self.start()
            waiting, ending = list(act.during), act.last if act.last and not act.last.what else None
            self._disturb(command, waiting, ending, undone)
            self.left += [*waiting, *([ending] if ending and not ending.what else [])]
            code = command.wait()
            self._judge(command, code, act.last.kind if act.last and act.last.what else "")
        self._account(whole=code == 0)
        return code

    def _wait_for_quiet(self) -> None:
        """Until no process of an earlier command can write any more."""
        marked = self.bench.marked
        wait_for(lambda: not (marked.workers() if self.cluster else marked.processes()), "the end of an ended command")

    def _disturb(self, command: Command, waiting: list[Fault], ending: Fault | None, undone: ExitStack) -> None:
        """Each fault at a random moment of its stage; `ending`, once the others are done."""
        worked = False
        chosen: Fault | None = None
        due = 0.0
        while command.alive() and (waiting or (ending and not ending.what)):
            trial, stage = self._doing(command, worked)
            worked = worked or bool(trial)
            fitting = [fault for fault in waiting or ([ending] if ending else []) if fault.stage == stage]
            if chosen not in fitting:
                chosen = self.random.choice(fitting) if fitting else None
                together = len(fitting) > 1 and self.random.random() < 0.4
                due = time.monotonic() + (0.0 if together else self.random.uniform(0, SPREAD.get(stage, 0.0)))
            elif chosen and time.monotonic() >= due:
                self.ledger.look()
                self.locks |= {path: path.read_bytes() for path in self.run.glob("lock-*.json")}
                self._inject(chosen, inject.Moment(command, trial, undone))
                if chosen.what and chosen in waiting:
                    waiting.remove(chosen)
                chosen = None
            time.sleep(0.03)

    def _doing(self, command: Command, worked: bool) -> tuple[str, str]:
        """Trial and stage. Merge is where the command has worked and no trial is left to work on."""
        now = working_on(self.run, command.started)
        if now:
            return now
        busy = any(state.get("state") in ("waiting", "running") for state in states(self.run).values())
        return "", "merge" if worked and not busy else "other"

    def _inject(self, fault: Fault, moment: inject.Moment) -> None:
        what = inject.inject(fault, self, moment)
        if what:
            self.note(fault, what, fault.trial or moment.trial)
        elif fault.stage == "between" and moment.undone is None:
            self.postponed.append(fault)

    def _judge(self, command: Command, code: int, ending: str) -> None:
        complaint = command.complaint()
        if code not in ENDS_WITH.get(ending, {0}):
            self.bench.wrong(
                f"{command.stderr}: exit {code} after {ending or 'nothing that ends it'}: {complaint[-800:]}"
            )
        elif code in (1, 2) and not complaint:
            self.bench.wrong(f"{command.stderr}: exit {code} without a word")
        if "(raylet)" in command.stdout.read_text(errors="replace"):
            self.bench.wrong(f"{command.stdout}: Ray speaks on stdout")
        if "Traceback" in complaint:
            self.bench.wrong(f"{command.stderr}: a traceback: {complaint[-800:]}")

    def _account(self, *, whole: bool) -> None:
        """Count this command; where it succeeded, also what it did again, trial by trial."""
        for fault in self.open:
            fault.commands += 1
        if not whole:
            return
        self.ledger.look()
        for name, counted in (("epochs", self.ledger.epochs_again), ("images", self.ledger.images_again)):
            for trial, number in counted.items():
                hit = [fault for fault in self.open if fault.trial == trial]
                # A finished epoch is lost only with its checkpoint, a finished image only with its shard.
                allowed = sum(fault.may_lose_an_epoch for fault in hit) if name == "epochs" else 0
                if number > allowed:
                    kinds = ", ".join(fault.kind for fault in hit) or "nothing"
                    self.bench.wrong(f"{self.run}: {number} finished {name} of {trial} done again after {kinds}")
                for fault in hit:
                    setattr(fault, f"{name}_again", number)
        self.epochs_again += self.ledger.epochs_again.total()
        self.images_again += self.ledger.images_again.total()
        self.ledger.epochs_again.clear()
        self.ledger.images_again.clear()
        self.open.clear()
