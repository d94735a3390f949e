"""run.json: which trials form a run, and how it came about."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from bench.settings import Trial
from results.folder import RunFolder, write_json, write_text

PACKAGES = ("torch", "torchvision", "accelerate", "ray", "numpy", "scipy", "statsmodels", "pandas", "pyarrow")


class RunError(ValueError):
    """A run that cannot start; the message is one sentence for the user."""


def add_trials(run: RunFolder, trials: list[Trial], **details: object) -> None:
    """Write run.json and every trial.json. What an earlier command left in the folder stays part of the run, except
    for trials that these replace (same method, σ and seed, other settings).

    Raises:
        RunError: the folder holds something else.
    """
    cells = {(trial.name, trial.sigma, trial.seed) for trial in trials}
    kept = [trial for trial in _earlier_trials(run) if (trial.name, trial.sigma, trial.seed) not in cells]
    everything = [*kept, *trials]
    for trial in trials:
        for part in [trial, *trial.members]:
            write_text(run.trial(part.trial_id).settings, part.model_dump_json(indent=2) + "\n")
    write_json(
        run.description,
        {
            "trials": [trial.trial_id for trial in everything],
            "members": {
                trial.trial_id: [member.trial_id for member in trial.members] for trial in everything if trial.members
            },
            "command": sys.argv,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "git_commit": _git_commit(),
            "versions": {package: _version(package) for package in PACKAGES},
            **details,
        },
    )


def _earlier_trials(run: RunFolder) -> list[Trial]:
    if not run.description.exists():
        # A command that was killed before it wrote run.json leaves trials alone.
        if run.path.is_dir() and any(path.name != "trials" for path in run.path.iterdir()):
            raise RunError(f"{run.path} is not empty and holds no run.json: give --out another folder")
        return []
    return [Trial.model_validate_json(run.trial(name).settings.read_text()) for name in run.trial_ids()]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Commit of the program's own checkout, with + where it has changes; None for an installed package."""
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip()
