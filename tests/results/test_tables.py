from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread
from rich.console import Console

from results import average_certified_radius, certified_accuracy, published, read_run
from results.figures import curve
from results.folder import RunFolder
from results.formats import to_csv, to_latex, to_markdown, to_terminal
from results.merge import merge_run
from results.report import write_report
from results.run import Run
from results.tables import table_5_1, table_5_2
from tests.conftest import small_trial, write_fake_run

LOGS = Path(__file__).parents[3] / "shared" / "reference" / "logs"


@pytest.fixture
def run(fake_run: RunFolder) -> Run:
    merge_run(fake_run)
    return read_run(fake_run.path)


def certificates(radii: list[float], correct: list[bool]) -> pd.DataFrame:
    return pd.DataFrame({"trial_id": "t", "radius": radii, "correct": correct})


def test_metrics_by_hand() -> None:
    rows = certificates([0.5, 0.49996, 0.8, 0.0], [True, True, False, False])
    assert certified_accuracy(rows, 0) == 0.5
    assert certified_accuracy(rows, 0.5) == 0.25  # .49996 is not .5
    assert certified_accuracy(rows, 0.51) == 0
    assert average_certified_radius(rows) == pytest.approx((0.5 + 0.49996) / 4)


def test_metrics_refuse_what_has_no_answer() -> None:
    with pytest.raises(ValueError, match="no certificates"):
        certified_accuracy(certificates([], []), 0)
    with pytest.raises(ValueError, match="radius = -1"):
        certified_accuracy(certificates([0.1], [True]), -1)
    two = pd.concat([certificates([0.1], [True]), certificates([0.2], [True]).assign(trial_id="u")])
    with pytest.raises(ValueError, match="several trials"):
        average_certified_radius(two)


def test_the_area_under_the_curve_is_the_acr() -> None:
    random = np.random.default_rng(0)
    radii, correct = random.uniform(0, 1, 500), random.random(500) < 0.7
    at, accuracy = curve(radii, correct)
    assert (np.diff(accuracy) <= 0).all()
    area = (np.diff(at) * accuracy[1:]).sum()
    assert area == pytest.approx(average_certified_radius(certificates(radii.tolist(), correct.tolist())))
    for radius in (0.0, 0.25, 0.9):
        expected = certified_accuracy(certificates(radii.tolist(), correct.tolist()), radius)
        assert accuracy[np.searchsorted(at, radius)] == expected


@pytest.mark.skipif(not LOGS.is_dir(), reason="the published logs are not part of the repository")
def test_metrics_of_a_published_log() -> None:
    log = pd.read_csv(LOGS / "jeong2020_consistency_cifar10_resnet110_sigma0.25_full.tsv", sep="\t")
    rows = certificates(log["radius"].tolist(), (log["correct"] == 1).tolist())
    assert average_certified_radius(rows) == pytest.approx(0.552, abs=5e-4)
    assert certified_accuracy(rows, 0) == pytest.approx(0.758, abs=5e-4)


def test_table_5_1_has_the_rows_and_columns_of_the_thesis(run: Run) -> None:
    table = table_5_1(run)
    assert [(row.sigma, row.method) for row in table.rows] == [
        (0.25, "ours"), (0.25, "gaussian"), (0.5, "ours"), (0.5, "gaussian"),
    ]  # fmt: skip
    headings = [column.heading for column in table.columns]
    assert headings == ["ACR", "ACC", "0.25", "0.50", "0.75", "1.00", "1.25", "1.50", "1.75"]
    assert table.rows[0].published["acr"] == 0.542
    assert "n = 2 000, n0 = 10, alpha = 0.001" in table.caption[0]
    assert "12 test images" in table.caption[0]
    assert "not CIFAR-10" in table.caption[1]
    for row in table.rows:
        rows = run.certificates[(run.certificates["sigma"] == row.sigma) & (run.certificates["method"] == row.method)]
        assert row.measured["acr"] == average_certified_radius(rows)
        assert row.measured["r0.50"] == 100 * certified_accuracy(rows, 0.5)


def test_table_5_2_has_costs_at_the_smallest_sigma(run: Run) -> None:
    table = table_5_2(run)
    assert [row.method for row in table.rows] == ["gaussian", "ours"]
    assert table.rows[0].measured["runtime_hours"] == pytest.approx(0.01)
    assert table.rows[0].measured["memory_gb"] == pytest.approx(2)
    assert table.rows[0].published["memory_gb"] == 2.9
    assert any("resident" in sentence for sentence in table.caption)


def test_the_best_value_of_each_sigma_is_bold_and_a_tie_of_all_is_not(run: Run) -> None:
    table = table_5_1(run)
    acr, last = table.columns[0], table.columns[-1]
    for sigma in (0.25, 0.5):
        rows = [row for row in table.rows if row.sigma == sigma]
        assert [table.best(row, acr) for row in rows] == [
            row.measured["acr"] == max(other.measured["acr"] for other in rows) for row in rows
        ]
        assert not any(table.best(row, last) for row in rows)


def test_formats_hold_the_same_numbers(run: Run) -> None:
    table = table_5_1(run)
    acr = table.rows[0].measured["acr"]
    parsed = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert float(parsed[0]["acr"]) == acr
    assert float(parsed[0]["acr_published"]) == 0.542
    markdown = to_markdown(table)
    assert f"{acr:.3f}" in markdown
    assert "(0.542)" in markdown
    assert all(line.count("|") == 12 for line in markdown.splitlines() if line.startswith("|"))
    latex = to_latex(table)
    assert latex.count(r"\\") == len(table.rows) + 1
    assert all(word in latex for word in (r"\toprule", r"\midrule", r"\bottomrule", "0.542"))
    assert "σ" not in latex
    console = Console(width=80, record=True)
    console.print(to_terminal(table))
    text = console.export_text()
    assert "(0.542)" in text
    assert "…" not in text


def test_several_seeds_are_averaged(tmp_path: Path) -> None:
    folder = write_fake_run(tmp_path / "run", [small_trial(seed=seed) for seed in (0, 1)])
    merge_run(folder)
    run = read_run(folder.path)
    [row] = table_5_1(run).rows
    each = [average_certified_radius(rows) for _, rows in run.certificates.groupby("trial_id")]
    assert row.measured["acr"] == pytest.approx(sum(each) / 2)
    assert "mean of 2 training seeds" in table_5_1(run).caption[0]


def test_variants_of_one_method_are_told_apart(tmp_path: Path) -> None:
    trials = [small_trial("ours"), small_trial("ours", name="ours_tenth", decomposition_ratio=0.1)]
    folder = write_fake_run(tmp_path / "run", trials)
    merge_run(folder)
    assert [row.title for row in table_5_1(read_run(folder.path)).rows] == ["Ours [ours]", "Ours [ours_tenth]"]


def test_report_writes_every_file(fake_run: RunFolder) -> None:
    merge_run(fake_run)
    write_report(fake_run)
    names = sorted(path.name for folder in (fake_run.tables, fake_run.figures) for path in folder.iterdir())
    assert names == sorted(
        [f"table_5_{number}.{kind}" for number in (1, 2) for kind in ("csv", "md", "tex")]
        + ["figure_5_1.pdf", "figure_5_1.png"]
    )
    picture = imread(fake_run.figures / "figure_5_1.png")
    assert picture.shape[1] > 1000
    assert picture.std() > 0.01  # not blank


def test_published_numbers_are_as_printed() -> None:
    assert published.table_5_1()[0.5, "ours"]["r1.75"] == 23.5
    assert published.table_5_2()[0.25, "macer"] == {
        "acr": 0.449, "accuracy_percent": 71.4, "memory_gb": 9.4, "runtime_hours": 7.6,
    }  # fmt: skip
    assert math.isclose(published.table_5_2()[0.25, "ensemble"]["acr"], 0.532)
