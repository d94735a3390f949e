"""The progress of a run on the screen: a live table on a terminal, a line per change elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from bench.runner.progress import AT_WORK, RunProgress, TrialProgress, read_progress, seconds_left
from results.printable import sigma_text
from results.report.terminal import Heading, Sheet
from results.store.folder import RunFolder
from results.store.records import WorkerRecord
from results.store.remote import RemotePath

STYLES = {
    "done": "green",
    "failed": "red",
    "training": "cyan",
    "certifying": "cyan",
    "waiting": "dim",
    "stopped": "dim",
}
COLUMNS = ("σ", "method", "stage", "epochs", "images", "shards", "img/s", "left", "workers")
SHORTEST_NAME = len("consistency")
"""The room that names of methods have; longer ones go over several lines."""
POLL_SECONDS = 1.0
POLL_SECONDS_OF_A_STORE = 10.0


def render(run: RunProgress, elapsed: float | None = None, stages: Collection[str] = STYLES) -> RenderableType:
    """The table that a person watches.

    Args:
        elapsed: seconds since the command began.
        stages: of the trials that have a row; all are counted.
    """
    rows = [_cells(trial) for trial in run.trials if trial.stage in stages]
    # A column in which nothing stands leaves its room to the others: 80 are few.
    filled = [place for place in range(len(COLUMNS)) if any(str(row[place]) not in ("", "–") for row in rows)]
    headings = [
        Heading(
            COLUMNS[place],
            "images/s" if COLUMNS[place] == "img/s" else "",
            right=COLUMNS[place] not in ("method", "stage", "workers"),
            least=SHORTEST_NAME if COLUMNS[place] == "method" else 0,
        )
        for place in filled
    ]
    sheet = Sheet(headings, [[row[place] for place in filled] for row in rows], gap=1)
    done = run.count("done")
    parts = [f"{done} of {len(run.trials)} done"]
    if failed := run.count("failed"):
        parts.append(f"{failed} failed")
    if elapsed is not None:
        parts.append(f"{duration(elapsed)} so far")
    left_over = seconds_left(run)
    if left_over and done < len(run.trials):
        parts.append(f"about {duration(left_over)} left" if run.holder else f"about {duration(left_over)} to go")
    return Group(sheet, Text(" · ".join(parts), "bold"), *(Text(sentence, "red") for sentence in run.left_out))


def _cells(trial: TrialProgress) -> list[str | Text]:
    rate, left = trial.images_per_second, trial.seconds_left
    return [
        sigma_text(trial.sigma),
        trial.label,
        Text(trial.stage, STYLES.get(trial.stage, "")),
        f"{trial.epochs}/{trial.epochs_wanted}" if trial.epochs_wanted else "–",
        f"{trial.images}/{trial.images_wanted}" if trial.images_wanted else "–",
        f"{trial.shards}" if trial.shards else "–",
        (f"{rate:.0f}" if rate >= 100 else f"{rate:.3g}") if rate else "",
        duration(left) if left else "",
        workers_in_short(trial.workers),
    ]


def workers_in_short(workers: list[WorkerRecord]) -> str:
    """How many there are, and how much each computes: "2 × 97 % CPU"."""
    there = [worker for worker in workers if worker.pid is not None]
    if not workers:
        return ""
    parts = []
    for name, values in (("GPU", [worker.gpu for worker in there]), ("CPU", [worker.cores for worker in there])):
        known = [value for value in values if value is not None]
        if known:
            parts.append(f"{100 * sum(known) / len(known):.0f} % {name}")
            break
    starting = len(workers) - len(there)
    text = " × ".join([str(len(there)), *parts])
    return f"{text}, {starting} starting" if starting else text


def as_json(run: RunProgress) -> dict[str, Any]:
    """What `bench status --json` prints."""
    return {
        "trials": [
            {
                **vars(trial),
                "workers": [dict(worker) for worker in trial.workers],
                "images_per_second": trial.images_per_second,
                "seconds_left": trial.seconds_left,
            }
            for trial in run.trials
        ],
        "done": run.count("done"),
        "failed": run.count("failed"),
        "left_out": run.left_out,
        "running": None if run.holder is None else asdict(run.holder),
        "seconds_left": seconds_left(run),
    }


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss, or m:ss."""
    whole = round(seconds)
    hours, minutes, seconds = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


@contextmanager
def shown(run: RunFolder, console: Console, *, quiet: bool) -> Iterator[None]:
    """Show the run's progress until the block ends: a live table on a terminal; a line per change elsewhere, as in a
    notebook, which keeps them."""
    if quiet:
        yield
        return
    started = time.monotonic()
    redrawn = console.is_terminal and not console.is_dumb_terminal and not console.is_jupyter
    watch = _watch_on_terminal if redrawn else _print_changes
    stop = threading.Event()
    thread = threading.Thread(target=watch, args=(run, console, stop, started), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _polls(run: RunFolder, stop: threading.Event) -> Iterator[RunProgress]:
    """The run's progress again and again, once more after the end."""
    period = POLL_SECONDS_OF_A_STORE if isinstance(run.path, RemotePath) else POLL_SECONDS
    last = False
    while not last:
        last = stop.wait(period)
        with suppress(OSError, ValueError):  # the next poll will tell; whoever watches must not disturb the run
            yield read_progress(run)


def _watch_on_terminal(run: RunFolder, console: Console, stop: threading.Event, started: float) -> None:
    with Live(console=console, auto_refresh=False, transient=True) as live:
        for progress in _polls(run, stop):
            elapsed = time.monotonic() - started
            table = render(progress, elapsed)
            if len(console.render_lines(table)) > console.height:
                table = render(progress, elapsed, AT_WORK)
            live.update(table, refresh=True)


def _print_changes(run: RunFolder, console: Console, stop: threading.Event, started: float) -> None:
    known: dict[str, str] = {}
    for progress in _polls(run, stop):
        done = progress.count("done")
        for trial in progress.trials:
            before = known.get(trial.trial_id, trial.stage if trial.stage == "done" else "waiting")
            if before != trial.stage:
                left = seconds_left(progress) if trial.stage == "done" and done < len(progress.trials) else None
                console.print(
                    f"{duration(time.monotonic() - started):>8}  σ={trial.sigma:<5g} {trial.label:<20} {trial.stage}"
                    f"  ({done} of {len(progress.trials)} done{f', about {duration(left)} left' if left else ''})",
                    highlight=False,
                    soft_wrap=True,
                )
            known[trial.trial_id] = trial.stage
