"""What a run is expected to cost, asked before it begins of a process of its own: torch stays out of the one that
waits, and is imported there while this one starts Ray."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from bench.runner.display import duration
from bench.settings.options import RunOptions
from results.store.records import ForecastRecord, TrialForecast

BUSY = 0.15
"""Of a machine's cores: what others take beyond that is told."""
FULL = 0.9
ONCE_TOLD = """
import json, sys
from bench.audit.forecast import forecast
from bench.runner.grid import trials_of
from bench.settings.options import RunOptions
options = RunOptions.model_validate_json(sys.argv[1])
trials, _, _ = trials_of(options)
print(json.dumps(forecast(trials, options.workers, options.cpus_per_worker, ready=sys.stdin.readline)))
"""
"""What is asked of the process: to measure once it is told to by a line."""
PATIENCE = 300.0
"""Seconds in which the answer must come."""


@contextmanager
def asking(options: RunOptions) -> Iterator[Callable[[], ForecastRecord | None]]:
    """What gives the forecast of `bench run --dry-run` for the same options, which is measured when it is called:
    nothing else should compute then. It gives None where there is no answer: the run goes on without, and finds out
    itself what it costs."""
    command = [sys.executable, "-c", ONCE_TOLD, options.model_dump_json()]
    with subprocess.Popen(  # noqa: S603
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as asked:  # its output is small and comes at its end
        try:
            yield partial(_answer, asked)
        finally:
            asked.kill()


def _answer(asked: subprocess.Popen[str]) -> ForecastRecord | None:
    try:
        return record_of(json.loads(asked.communicate("\n", timeout=PATIENCE)[0]))
    except (subprocess.SubprocessError, OSError, ValueError, KeyError):
        return None


def record_of(forecast: Mapping[str, Any]) -> ForecastRecord:
    """What `bench.audit.forecast.forecast` found, as a run keeps it."""
    trials = {
        each["trial_id"]: TrialForecast(train_seconds=each["train_seconds"], certify_seconds=each["certify_seconds"])
        for each in forecast["trials"]
    }
    kept = {name: forecast[name] for name in ("start_seconds", "trial_seconds", "report_seconds", "at_once", "others")}
    return ForecastRecord(trials=trials, **kept)


def in_words(forecast: ForecastRecord, only: Collection[str] | None = None) -> str:
    """What some of the trials, or all, will cost: one sentence without its full stop."""
    chosen = [each for name, each in forecast.trials.items() if only is None or name in only]
    train, certify = sum(each.train_seconds for each in chosen), sum(each.certify_seconds for each in chosen)
    at_once = min(forecast.at_once, max(1, len(chosen)))
    train, certify = train / at_once, certify / at_once
    besides = forecast.start_seconds + len(chosen) * forecast.trial_seconds / at_once + forecast.report_seconds
    whole = train + certify + besides
    beside = f", {at_once} trials at a time" if at_once > 1 else ""
    told = (
        f"about {duration(whole)}{beside}: training {duration(train)}, certification at most {duration(certify)}, "
        f"start, trials' own and report {duration(besides)}"
    )
    others = forecast.others or 0.0
    if others > FULL:
        return f"{told}; others use all of this machine now, and how long it is beside them nobody can say"
    if others > BUSY:
        slower = duration(whole / (1 - others))
        return f"{told}; others use {100 * others:.0f} % of this machine now, and beside them it is about {slower}"
    return told
