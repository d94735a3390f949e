"""Epochs to a common level of accuracy, and the table of them."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from results.analysis.convergence import common_level, epochs_to_level, final_accuracies
from results.report.formats import to_csv, to_latex, to_markdown
from results.report.tables import can_compare_training, table_convergence, tables_of
from results.report.write import write_report
from results.store.folder import RunFolder
from results.store.merge import merge_run
from results.store.run import Run, read_run
from results.store.schema import EPOCHS, write_table
from tests.conftest import small_trial, write_fake_run


def epochs_of(**accuracies: list[float]) -> pd.DataFrame:
    rows = [
        {"trial_id": trial, "epoch": epoch, "noisy_test_accuracy": accuracy}
        for trial, each in accuracies.items()
        for epoch, accuracy in enumerate(each)
    ]
    return pd.DataFrame(rows)


def test_epochs_to_a_level_by_hand() -> None:
    fast, slow = epochs_of(a=[0.3, 0.58, 0.57, 0.6]), epochs_of(b=[0.2, 0.4, 0.5, 0.56], c=[0.2, 0.5, 0.57, 0.58])
    assert final_accuracies(slow) == [0.56, 0.58]
    level = common_level([slow, fast])
    assert level == pytest.approx(0.57)  # 95 % of .6, not of .57, the mean of the other row
    assert epochs_to_level(fast, level) == [2]
    assert epochs_to_level(slow, level) == [None, 3]  # just at the level is reached
    assert epochs_to_level(slow.iloc[::-1], 0.5) == [2, 3]  # c, b: in the order of the rows


def test_the_level_is_of_final_accuracies_not_of_the_best_ones() -> None:
    falling = epochs_of(a=[0.9, 0.5])
    assert common_level([falling]) == pytest.approx(0.475)
    assert epochs_to_level(falling, 0.475) == [1]


def written(path: Path, accuracies: dict[tuple[str, float, int], list[float]]) -> RunFolder:
    """A merged run with these accuracies of (method, σ, seed); none: trained elsewhere."""
    trials = {key: small_trial(key[0], key[1], seed=key[2]) for key in accuracies}
    folder = write_fake_run(path, list(trials.values()))
    for key, trial in trials.items():
        same = {"trial_id": trial.trial_id, "method": key[0], "sigma": key[1], "seed": key[2], "seconds": 1.0}
        rows = [
            {**same, "epoch": epoch, "learning_rate": 0.1, "loss": 1.0, "noisy_test_accuracy": accuracy}
            for epoch, accuracy in enumerate(accuracies[key])
        ]
        write_table(folder.trial(trial.trial_id).epochs, pa.Table.from_pylist(rows, EPOCHS))
    merge_run(folder)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Run:
    accuracies = {
        ("gaussian", 0.25, 0): [0.2, 0.7, 0.8],
        ("gaussian", 0.25, 1): [0.2, 0.4, 0.8],
        ("macer", 0.25, 0): [0.5, 0.5, 0.6, 0.7],
        ("macer", 0.25, 1): [0.5, 0.5, 0.6, 0.9],
        ("gaussian", 0.5, 0): [0.3, 0.4],
    }
    return read_run(written(tmp_path / "run", accuracies).path)


def test_the_table_compares_rows_of_one_sigma_with_one_level(run: Run) -> None:
    table = table_convergence(run)
    cells = {(row.sigma, row.method): row.measured for row in table.rows}
    assert cells[0.25, "gaussian"] == pytest.approx(
        {"final_percent": 80, "epochs": 3, "level_percent": 76, "epochs_to_level": 3}
    )
    assert cells[0.25, "macer"] == pytest.approx({"final_percent": 80, "epochs": 4, "level_percent": 76})
    assert cells[0.5, "gaussian"]["epochs_to_level"] == 2  # its own level, 38 %
    assert [row.seeds["epochs"] for row in table.rows if row.method == "macer"] == [[4, 4]]
    assert "95\u00a0%" in table.caption[0]


def test_what_is_not_reached_is_a_dash_and_empty_in_csv(run: Run) -> None:
    table = table_convergence(run)
    markdown, latex = to_markdown(table), to_latex(table)
    [line] = [line for line in markdown.splitlines() if "MACER" in line and line.startswith("| 0.25")]
    assert line.endswith("| 76.0 | – |")
    assert latex.isascii()
    assert "-- \\\\" in latex
    parsed = pd.read_csv(io.StringIO(to_csv(table)))
    assert parsed.loc[parsed["method"] == "macer", "epochs_to_level"].isna().all()


@pytest.mark.usefixtures("_no_figures")
def test_a_run_of_one_row_or_of_models_trained_elsewhere_has_no_such_table(run: Run, tmp_path: Path) -> None:
    assert can_compare_training(run)
    assert "convergence" in [table.name for table in tables_of(run)]
    one = written(tmp_path / "one", {("gaussian", 0.25, 0): [0.4], ("gaussian", 0.5, 0): [0.3]})
    assert not can_compare_training(read_run(one.path))
    two = written(tmp_path / "two", {("gaussian", 0.25, 0): [0.4], ("macer", 0.25, 0): []})
    assert not can_compare_training(read_run(two.path))
    write_report(two)
    assert not (two.tables / "convergence.md").exists()


def test_one_epoch_is_enough(tmp_path: Path) -> None:
    folder = written(tmp_path / "run", {("gaussian", 0.25, 0): [0.4], ("macer", 0.25, 0): [0.0]})
    table = table_convergence(read_run(folder.path))
    assert [row.measured.get("epochs_to_level") for row in table.rows] == [None, 1]
