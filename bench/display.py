"""The progress of a run on the screen: a live table on a terminal, a line per change elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bench.progress import TrialProgress, read_progress, seconds_left
from results.folder import RunFolder

STYLES = {
    "done": "green",
    "failed": "red",
    "training": "cyan",
    "certifying": "cyan",
    "waiting": "dim",
    "stopped": "dim",
}
POLL_SECONDS = 1.0


def render(trials: list[TrialProgress], workers: int, elapsed: float | None = None) -> RenderableType:
    """The table that a person watches."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, justify in (
        ("σ", "right"),
        ("method", "left"),
        ("stage", "left"),
        ("epochs", "right"),
        ("images", "right"),
    ):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]  # rich wants a literal
    for trial in trials:
        epochs = f"{trial.epochs}/{trial.epochs_wanted}" if trial.epochs_wanted else "–"
        images = f"{trial.images}/{trial.images_wanted}" if trial.images_wanted else "–"
        stage = Text(trial.stage, STYLES[trial.stage])
        table.add_row(f"{trial.sigma:g}", trial.label, stage, epochs, images)
    done = sum(trial.stage == "done" for trial in trials)
    parts = [f"{done} of {len(trials)} done"]
    if elapsed is not None:
        parts.append(f"{duration(elapsed)} so far")
    left = seconds_left(trials, workers)
    if left and done < len(trials):
        parts.append(f"about {duration(left)} left")
    return Group(table, Text(" · ".join(parts), "bold"))


def duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes, seconds = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


@contextmanager
def shown(run: RunFolder, workers: int, console: Console) -> Iterator[None]:
    """Show the run's progress until the block ends: a live table on a terminal, a line per change elsewhere."""
    started = time.monotonic()

    def picture() -> RenderableType:
        return render(read_progress(run), workers, time.monotonic() - started)

    if console.is_terminal:
        with Live(get_renderable=picture, console=console, refresh_per_second=1 / POLL_SECONDS, transient=True):
            yield
        return
    stop = threading.Event()
    thread = threading.Thread(target=_print_changes, args=(run, console, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _print_changes(run: RunFolder, console: Console, stop: threading.Event) -> None:
    started, known = time.monotonic(), {(p.sigma, p.label): p.stage for p in read_progress(run)}
    last = False
    while not last:
        last = stop.wait(POLL_SECONDS)
        for trial in read_progress(run):
            if known[trial.sigma, trial.label] != trial.stage:
                known[trial.sigma, trial.label] = trial.stage
                done = sum(stage == "done" for stage in known.values())
                console.print(
                    f"{duration(time.monotonic() - started):>8}  σ={trial.sigma:<5g} {trial.label:<24} {trial.stage}"
                    f"  ({done} of {len(known)} done)",
                    highlight=False,
                )
