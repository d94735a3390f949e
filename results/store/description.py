"""run.json: which trials form a run, and how it came about."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from results.errors import BenchError, StoreError
from results.printable import as_utf8, shortened
from results.store.folder import AnyPath, RunFolder, read_json, remove_leftovers
from results.store.lock import RunLock
from results.store.packages import PACKAGES
from results.store.records import RunRecord
from results.store.secrecy import masked
from results.store.settings import AnyTrial, read_trial_settings

log = logging.getLogger(__name__)
SHOWN = 3
"""Settings in which two trials differ that a message names."""


class RunError(BenchError):
    """A run that cannot start; the message is one sentence for the user."""


def check_room(run: RunFolder, *, fresh: bool = False) -> None:
    """See that the folder is that of a run, or empty.

    Args:
        fresh: what it holds is to be deleted.

    Raises:
        RunError: it holds something else.
    """
    if not fresh:
        _earlier(run)
        return
    if not run.has_contents():
        return
    if not run.description.exists():
        raise RunError(f"{run.path} holds no run.json: --fresh deletes runs only")
    with suppress(StoreError):  # it may be damaged
        if "trials" not in read_json(run.description):  # whatever version of this program wrote it
            raise RunError(f"{run.description} is not of a run: --fresh deletes runs only")


def add_trials(
    run: RunFolder, trials: Sequence[AnyTrial], *, replace: bool = True, fresh: bool = False, **details: Any
) -> None:
    """Write run.json and every trial.json. What an earlier command left in the folder stays part of the run, except
    for trials that these replace (same method, σ and seed, other settings) and those whose folder was deleted; a
    warning tells of either.

    Args:
        fresh: delete what an earlier command left, once no report is being made of it.

    Raises:
        RunError: the folder holds something else, or a trial to be replaced although `replace` is false.
    """
    if not fresh:
        _write(run, _earlier(run), trials, replace=replace, **details)
        return
    with RunLock(run, name="report", wait=True):
        run.clear()
        _write(run, RunRecord(trials=[]), trials, replace=replace, **details)


def _write(run: RunFolder, earlier: RunRecord, trials: Sequence[AnyTrial], *, replace: bool, **details: Any) -> None:
    kept = _kept(run, earlier.trials, trials, replace=replace)
    members = {name: ids for name, ids in earlier.members.items() if name in kept}
    teachers = {name: teacher for name, teacher in earlier.teachers.items() if name in kept}
    for trial in trials:
        for part in [trial, *trial.needed]:
            _write_settings(run.trial(part.trial_id).settings, part)
            if part.members:
                members[part.trial_id] = [member.trial_id for member in part.members]
            if part.teacher:
                teachers[part.trial_id] = part.teacher.trial_id
    record = earlier.model_copy(
        update={
            "trials": [*kept, *(trial.trial_id for trial in trials)],
            "members": members,
            "teachers": teachers,
            "command": [as_utf8(word) for word in masked(sys.argv)],
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "git_commit": git_commit(),
            "versions": {package: version_of(package) for package in PACKAGES},
            **details,
        }
    )
    record.write(run.description)


def _kept(run: RunFolder, names: Sequence[str], trials: Sequence[AnyTrial], *, replace: bool) -> list[str]:
    """Those trials of an earlier command that are still there and that `trials` do not replace."""
    here = {(trial.name, trial.sigma, trial.seed): trial for trial in trials}
    kept: list[str] = []
    replaced: dict[str, list[str]] = {}
    for name in names:
        if not (path := run.trial(name).settings).exists():
            if all(trial.trial_id != name for trial in trials):
                log.warning("%s: %s has been deleted, and is no longer part of the run", run.path, name)
            continue
        settings = read_trial_settings(path)
        trial = here.get((settings.name, settings.sigma, settings.seed))
        if trial is None:
            kept.append(name)
        elif trial.trial_id != name:
            replaced.setdefault(differing(settings, trial), []).append(name)
    for difference, ids in replaced.items():
        which = ids[0] + (f" and {len(ids) - 1} more" if len(ids) > 1 else "")
        if not replace:
            raise RunError(f"{run.path} has {which} already ({difference}): give another name or --out")
        log.warning(
            "%s: %s of an earlier command %s replaced (%s)",
            run.path,
            which,
            "is" if len(ids) == 1 else "are",
            difference,
        )
    return kept


def _earlier(run: RunFolder) -> RunRecord:
    if run.description.exists():
        return RunRecord.read(run.description)
    # A command that was killed before it wrote run.json leaves trials alone.
    remove_leftovers(run.path)
    if run.has_contents():
        raise RunError(f"{run.path} is not empty and holds no run.json: give --out another folder")
    return RunRecord(trials=[])


def _write_settings(path: AnyPath, trial: AnyTrial) -> None:
    """Unless they stand there already: by its time a file tells whether the report is older."""
    try:
        if read_trial_settings(path).model_dump() == trial.model_dump():
            return
    except (FileNotFoundError, StoreError):
        pass
    trial.write(path)


def differing(there: AnyTrial, here: AnyTrial) -> str:
    """The settings in which two trials differ, as certify.n = 1000 there, 2000 here."""
    old, new = _flat(there.model_dump(mode="json")), _flat(here.model_dump(mode="json"))
    found = [
        f"{key} = {shortened(old[key]) if key in old else 'not given'} there, "
        f"{shortened(new[key]) if key in new else 'not given'} here"
        for key in {**new, **old}
        if key != "data" and (key not in old or key not in new or old[key] != new[key])  # data may move
    ]
    more = [f"{len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return "; ".join([*found[:SHOWN], *more]) or "the same settings by another version of this program"


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Without tables in it: what is in them is named as certify.n."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def version_of(package: str) -> str | None:
    """Of an installed package; None where it is not."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """Commit of the program's own checkout, with + where it has changes; None for an installed package. A copy sent to
    a cluster finds in BENCH_GIT_COMMIT what it is a copy of."""
    if sent := os.environ.get("BENCH_GIT_COMMIT"):
        return sent
    options: dict[str, Any] = {"cwd": Path(__file__).parent, "capture_output": True, "check": True, "timeout": 10}
    options |= {"encoding": "utf-8", "errors": "replace"}
    try:
        # An installed package may lie in an environment within the checkout of something else.
        subprocess.run(["git", "ls-files", "--error-unmatch", "description.py"], **options)
        commit = subprocess.run(["git", "describe", "--always", "--abbrev=40", "--dirty=+"], **options)
    except (OSError, subprocess.SubprocessError):
        return None
    return str(commit.stdout.strip())
