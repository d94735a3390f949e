"""A disturbed run beside an undisturbed one."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
from safetensors import safe_open

MEASURED = {
    "certificates.parquet": {"seconds", "joules"},
    "trials.parquet": {
        "train_seconds",
        "train_samples_per_second",
        "train_joules",
        "memory_bytes",
        "member_memory_bytes",
        "certify_seconds",
        "certify_samples_per_second",
        "certify_joules",
    },
    "epochs.parquet": {"seconds"},
    "spectra.parquet": set(),
    "thumbnails.parquet": set(),
}
"""The columns that may differ."""


def differences(undisturbed: Path, disturbed: Path) -> list[str]:
    """What a run has lost, has double, has otherwise, or has left half-written; each as a sentence."""
    found = []
    for name, measured in MEASURED.items():
        left, right = (pd.read_parquet(run / name).drop(columns=list(measured)) for run in (undisturbed, disturbed))
        try:
            pd.testing.assert_frame_equal(left, right, check_exact=True)
        except AssertionError as error:
            found.append(f"{disturbed / name} differs: {' '.join(str(error).split())}")
    certificates = pd.read_parquet(disturbed / "certificates.parquet")
    if certificates.duplicated(["trial_id", "index"]).any():
        found.append(f"{disturbed}: certificates are double")
    for kind in ("checkpoint_sha256", "training_id"):
        for path in undisturbed.glob("trials/*/training.json"):
            other = disturbed / path.relative_to(undisturbed)
            if json.loads(path.read_text())[kind] != json.loads(other.read_text())[kind]:
                found.append(f"{other}: {kind} differs")
    return found + _untidy(undisturbed, disturbed)


def _untidy(undisturbed: Path, disturbed: Path) -> list[str]:
    """Files that should not be there, that are missing, or that do not read back."""
    found = []
    for path in sorted(disturbed.rglob("*")):
        if not path.is_file() or ".set-aside" in path.name:
            continue
        if path.name.startswith("."):
            found.append(f"{path}: a temporary file is left")
        try:
            if path.suffix == ".parquet":
                pq.read_table(path)
            elif path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".safetensors":
                with safe_open(path, framework="numpy") as tensors:
                    for name in tensors.keys():  # noqa: SIM118  # not a dict
                        tensors.get_tensor(name)
            elif not path.stat().st_size and path.suffix != ".txt":
                found.append(f"{path}: is empty")
        except Exception as error:  # whatever a reader raises, it cannot read the file
            found.append(f"{path}: does not read back: {error}")
    names = [
        {str(path.relative_to(run)) for path in run.rglob("*") if _is_kept(path)} for run in (undisturbed, disturbed)
    ]
    found += [f"{disturbed}: {name} is missing" for name in sorted(names[0] - names[1])]
    found += [f"{disturbed}: {name} should not be there" for name in sorted(names[1] - names[0])]
    return found


def _is_kept(path: Path) -> bool:
    """Whether every finished run of the same grid has such a file. Shards may be cut otherwise, and the last checkpoint
    of a finished training is not needed any more."""
    kept = path.is_file() and ".set-aside" not in path.name and path.parent.name != "shards"
    return kept and path.name != "checkpoint.safetensors"
