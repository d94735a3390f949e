"""What a run is expected to cost, asked before it begins of a process of its own: torch stays out of the one that
waits."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bench.runner.display import duration
from bench.settings.options import RunOptions
from results.errors import BenchError
from results.store.records import ForecastRecord, TrialForecast

BUSY = 0.15
"""Of a machine's cores: what others take beyond that is told."""
FULL = 0.9
PATIENCE = 300.0
"""Seconds in which an answer must come."""


class Asked:
    """An answer that is being worked out."""

    def __init__(self, process: subprocess.Popen[str] | None) -> None:
        self._process = process

    def answer(self) -> ForecastRecord | None:
        """None where there is none: the run goes on without, and finds out itself what it costs."""
        if self._process is None:
            return None
        try:
            text, _ = self._process.communicate(timeout=PATIENCE)
            return record_of(json.loads(text)) if self._process.returncode == 0 else None
        except (subprocess.TimeoutExpired, OSError, ValueError, KeyError, BenchError):
            return None


@contextmanager
def asked(options: RunOptions, *, wanted: bool) -> Iterator[Asked]:
    """Ask `bench run --dry-run` while the block runs; nothing where it is not wanted."""
    if not wanted:
        yield Asked(None)
        return
    command = [sys.executable, "-m", "bench", "run", *options.arguments(), "--dry-run", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:  # noqa: S603
        try:
            yield Asked(process)
        finally:
            process.kill()


def record_of(forecast: Mapping[str, Any]) -> ForecastRecord:
    """What `bench.audit.forecast.forecast` found, as a run keeps it."""
    trials = {
        each["trial_id"]: TrialForecast(train_seconds=each["train_seconds"], certify_seconds=each["certify_seconds"])
        for each in forecast["trials"]
    }
    kept = {name: forecast[name] for name in ("start_seconds", "trial_seconds", "report_seconds", "others")}
    return ForecastRecord(trials=trials, **kept)


def in_words(forecast: ForecastRecord, only: Collection[str] | None = None) -> str:
    """What some of the trials, or all, will cost: one sentence without its full stop."""
    chosen = [each for name, each in forecast.trials.items() if only is None or name in only]
    train, certify = sum(each.train_seconds for each in chosen), sum(each.certify_seconds for each in chosen)
    besides = forecast.start_seconds + len(chosen) * forecast.trial_seconds + forecast.report_seconds
    whole = train + certify + besides
    told = (
        f"about {duration(whole)}: training {duration(train)}, certification at most {duration(certify)}, start, "
        f"trials' own and report {duration(besides)}"
    )
    others = forecast.others or 0.0
    if others > FULL:
        return f"{told}; others use all of this machine now, and how long it is beside them nobody can say"
    if others > BUSY:
        slower = duration(whole / (1 - others))
        return f"{told}; others use {100 * others:.0f} % of this machine now, and beside them it is about {slower}"
    return told
