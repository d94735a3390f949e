"""A full grid's report: 12 trials, 10 000 images each."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from results.bounds.radius import certified_radius, lower_confidence_bound
from results.store.folder import RunFolder
from results.store.schema import CERTIFICATES, EPOCHS, TRIALS
from tests.conftest import fake_row, fake_training, here, small_trial, write_fake_run

IMAGES, N = 10_000, 100_000


def certificates(trial_id: str, method: str, sigma: float, number: int) -> pa.Table:
    random = np.random.default_rng(number)
    label, top = np.arange(IMAGES) % 10, random.beta(4, 1.5, IMAGES)
    right = random.random(IMAGES) < 0.8
    n = np.where(right, N, 0)
    count = random.binomial(n, top)
    counts = np.zeros((IMAGES, 10), dtype=np.int64)
    counts[np.arange(IMAGES), (label + 1) % 10] = n - count
    counts[np.arange(IMAGES), label] = count
    p_lower = np.where(right, lower_confidence_bound(count, np.maximum(n, 1), 0.001), 0.0)
    certified = p_lower >= 0.5
    predicted = np.where(certified, label, -1)
    same = dict(fake_row(small_trial("gaussian", sigma), f"{number:064x}", 0, 0))
    same |= {"trial_id": trial_id, "method": method}
    columns: dict[str, Any] = {name: [same[name]] * IMAGES for name in CERTIFICATES.names}
    columns |= {
        "index": range(IMAGES), "label": label, "selected": np.where(right, label, (label + 1) % 10),
        "predicted": predicted, "correct": certified, "radius": certified_radius(p_lower, sigma), "p_lower": p_lower,
        "count_top": count, "counts": counts.tolist(), "n": n, "alpha": [0.001] * IMAGES,
        "status": np.where(certified, "certified", np.where(right, "abstained", "misclassified")).tolist(),
    }  # fmt: skip
    return pa.table(columns, schema=CERTIFICATES)


def write_full_grid(folder: RunFolder) -> None:
    tables, trials, epochs = [], [], []
    for number in range(12):
        sigma, method = (0.25, 0.5)[number // 6], f"method_{number % 6}"
        trial_id, trial = f"{method}-sigma{sigma}", small_trial("gaussian", sigma)
        tables.append(certificates(trial_id, method, sigma, number))
        training = fake_training(trial, f"{number:064x}", IMAGES)
        row = {name: value for name, value in training if name in TRIALS.names}
        row |= {"trial_id": trial_id, "method": method, "title": method, "sigma": sigma, "seed": 0, "n": N, "n0": 100}
        row |= {"alpha": 0.001, "images": IMAGES, "dataset": "cifar10", "model": "resnet110", "certify_seconds": 1.0}
        trials.append(row | {"certify_samples_per_second": 1.0, "settings": trial.model_dump_json()})
        for epoch in range(90):
            row = {"trial_id": trial_id, "method": method, "sigma": sigma, "seed": 0, "epoch": epoch, "loss": 1.0}
            epochs.append(row | {"learning_rate": 0.1, "noisy_test_accuracy": 0.5, "seconds": 1.0})
    here(folder.path).mkdir()
    pq.write_table(pa.concat_tables(tables), folder.certificates)
    pq.write_table(pa.Table.from_pylist(trials, TRIALS), folder.trials)
    pq.write_table(pa.Table.from_pylist(epochs, EPOCHS), folder.epochs)


@pytest.mark.slow
def test_the_report_of_a_full_grid_takes_less_than_20_seconds_and_1_gb(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    write_full_grid(folder)
    program = """
import sys
from pathlib import Path
from bench.cli import main
from results.store import run
run._check_alone = lambda *files: None  # made-up settings, of which the counts are not
sys.argv = ["bench", "report", sys.argv[1]]
try:
    main()
except SystemExit as end:
    assert not end.code
# Not ru_maxrss, which begins with the memory of the process that forked this one.
print(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
"""
    before = processor_seconds()
    result = subprocess.run(
        [sys.executable, "-c", program, str(folder.path)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert processor_seconds() - before < 20  # whatever else the machine is doing
    assert int(result.stdout.split()[-2]) * 1024 < 1e9
    assert here(folder.page).stat().st_size < 10e6


def test_import_results_imports_nothing_that_takes_long() -> None:
    """Beside what the tables need: torch, matplotlib and scipy.stats take longer than all of that."""
    program = """
import sys
import pandas, pyarrow.parquet, pydantic, scipy.special
before = set(sys.modules)
from results import *
print(*(name for name in set(sys.modules) - before if name.partition(".")[0] not in sys.stdlib_module_names))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    imported = result.stdout.split()
    assert "results" in imported
    assert {name.partition(".")[0] for name in imported} <= {"results", "pydantic", "annotated_types", "rich"}


def test_report_and_compare_import_no_statistics_that_take_long(tmp_path: Path) -> None:
    """scipy.stats and statsmodels take longer than all that is computed of a small run."""
    trials = [small_trial(method, seed=seed) for method in ("gaussian", "macer") for seed in (0, 1)]
    program = """
import sys
from bench.cli import main
from results.report import write
write.figures_of = lambda *of: ()
for command in ("report", "compare"):
    sys.argv = ["bench", command, sys.argv[-1]]
    try:
        main()
    except SystemExit as end:
        assert not end.code
assert not {"scipy.stats", "statsmodels"} & sys.modules.keys()
"""
    folder = write_fake_run(tmp_path / "run", trials)
    result = subprocess.run(
        [sys.executable, "-c", program, str(folder.path)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "over 2 seeds" in result.stdout


def processor_seconds() -> float:
    """Of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
