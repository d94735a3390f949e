from __future__ import annotations

import csv
import inspect
import io
import math
import re
from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydantic import ValidationError
from rich.console import Console

import results
import results.report.figures
import results.report.tables
from results import Interval, average_certified_radius, certified_accuracy, read_run
from results.bounds.radius import certified_radius, largest_radius, lower_confidence_bound
from results.report import formats, subject, write
from results.report.caption import not_comparable
from results.report.formats import to_csv, to_latex, to_markdown, to_terminal
from results.report.table import Column, ResultTable, Row
from results.report.tables import table_beyond_acr, table_certified_accuracy, table_cost, tables_of
from results.report.write import FIGURES, TABLES, write_report
from results.store.folder import RunFolder, write_json, write_text
from results.store.merge import merge_run
from results.store.rows import EpochRow
from results.store.run import Run
from tests.conftest import edit_record, here, small_trial, trial_ids, write_fake_run

FORMULAS = ("robustness_gradient", "sample_weights", "class_overlap")
"""Figures that every run has."""


@pytest.fixture
def run(fake_run: RunFolder) -> Run:
    merge_run(fake_run)
    return on(read_run(fake_run.path), "cifar10")


def on(run: Run, dataset: str) -> Run:
    """The same numbers, as if of other data; published ones are of cifar10."""
    rows, trials = (frame.assign(dataset=dataset) for frame in (run.certificates, run.trials))
    return replace(run, certificates=rows, trials=trials)


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


def test_the_accuracy_table_has_the_rows_and_columns_of_the_thesis(run: Run) -> None:
    table = table_certified_accuracy(run)
    assert [(row.sigma, row.method) for row in table.rows] == [
        (0.25, "generalised_ld"), (0.25, "gaussian"), (0.5, "generalised_ld"), (0.5, "gaussian"),
    ]  # fmt: skip
    headings = [column.heading for column in table.columns]
    assert headings == ["ACR", "ACC", "0.25", "0.50", "0.75", "1.00", "1.25", "1.50", "1.75"]
    assert table.rows[0].published["acr"] == 0.542
    assert "n = 2 000, n0 = 10, alpha = 0.001" in table.setting[0]
    assert "12 test images" in table.setting[0]
    assert table.setting[0].startswith("tiny of width 4 on cifar10, ")
    assert "the network is not ResNet-110" in table.setting[1]
    for row in table.rows:
        rows = run.certificates[(run.certificates["sigma"] == row.sigma) & (run.certificates["method"] == row.method)]
        assert row.measured["acr"] == average_certified_radius(rows)
        assert row.measured["r0.50"] == 100 * certified_accuracy(rows, 0.5)


def test_radii_beyond_the_thesis_s_have_columns_where_a_row_has_any(run: Run) -> None:
    wide = run.trials.assign(n=10**9, sigma=1.0), run.certificates.assign(sigma=1.0)
    one = wide[0]["trial_id"] == wide[0]["trial_id"].iloc[0]
    rows = wide[1][wide[1]["trial_id"] == wide[0]["trial_id"].iloc[0]].assign(radius=2.3, correct=True)
    table = table_certified_accuracy(replace(run, trials=wide[0][one], certificates=rows))
    assert [column.heading for column in table.columns][-3:] == ["1.75", "2.00", "2.25"]
    assert [table.rows[0].measured[f"r{radius:.2f}"] for radius in (2.0, 2.25, 2.5)] == [100, 100, 0]
    both = [frame.assign(sigma=frame["sigma"].replace(0.25, 1.0)) for frame in (run.trials, run.certificates)]
    radii = both[1]["sigma"].map({0.5: 1.9, 1.0: 2.3})
    caption = table_certified_accuracy(
        replace(run, trials=both[0].assign(n=100_000), certificates=both[1].assign(radius=radii, correct=True))
    ).caption
    [limit] = [sentence for sentence in caption if "No radius can be above" in sentence]
    assert "which is 1.906 at σ = 0.5: beyond" in limit  # whose columns of 2.00 and 2.25 are empty
    theirs = table_certified_accuracy(replace(run, trials=wide[0][one], certificates=rows), "sun2025_logs").rows
    assert {row.published["r2.25"] for row in theirs if row.method == "sun"} == {18.31}


def test_the_caption_says_by_how_many_workers_models_were_trained(run: Run) -> None:
    alone = replace(run, trials=run.trials.assign(workers=1.0))
    assert "workers" not in table_certified_accuracy(alone).setting[0]
    two = replace(run, trials=run.trials.assign(workers=2.0))
    assert " by 2 workers, a part of each batch in each, certified on" in table_certified_accuracy(two).setting[0]


def test_the_cost_table_is_at_the_smallest_sigma(run: Run) -> None:
    table = table_cost(run)
    assert [row.method for row in table.rows] == ["gaussian", "generalised_ld"]
    assert table.rows[0].measured["runtime_hours"] == pytest.approx(0.01)
    assert table.rows[0].measured["memory_gb"] == pytest.approx(2)
    assert table.rows[0].published["memory_gb"] == 2.9
    assert table.rows[0].measured["parameters_millions"] == pytest.approx(1.5)
    assert table.rows[0].measured["model_mb"] == pytest.approx(6.1)
    assert table.rows[0].measured["certify_hours"] == pytest.approx(12 * 0.5 / 3600)  # twelve images of half a second
    assert any("resident" in sentence for sentence in table.caption)


def test_the_best_value_of_each_sigma_is_bold_and_a_tie_of_all_is_not(run: Run) -> None:
    table = table_certified_accuracy(run)
    acr, last = table.columns[0], table.columns[-1]
    for sigma in (0.25, 0.5):
        rows = [row for row in table.rows if row.sigma == sigma]
        assert [table.best(row, acr) for row in rows] == [
            row.measured["acr"] == max(other.measured["acr"] for other in rows) for row in rows
        ]
        assert not any(table.best(row, last) for row in rows)


def test_formats_hold_the_same_numbers(run: Run) -> None:
    table = table_certified_accuracy(run)
    acr = table.rows[0].measured["acr"]
    parsed = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert float(parsed[0]["acr"]) == acr
    assert float(parsed[0]["acr_published"]) == 0.542
    markdown = to_markdown(table)
    assert f"{acr:.3f}" in markdown
    assert "(0.542, " in markdown
    assert all(line.count("|") == 12 for line in markdown.splitlines() if line.startswith("|"))
    latex = to_latex(table)
    assert latex.count(r"\\") == 3 * len(table.rows) + 1  # measured, interval, published
    assert all(word in latex for word in (r"\toprule", r"\midrule", r"\bottomrule", "0.542"))
    assert "σ" not in latex
    console = Console(width=80, record=True)
    console.print(to_terminal(table))
    text = console.export_text()
    assert "0.542" in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_table_as_a_data_frame_is_its_csv(run: Run) -> None:
    frames = results.tables(run)
    assert list(frames) == ["certified_accuracy", "base_accuracy", "best_of_sigma", "cost", "beyond_acr", "convergence"]
    for table in tables_of(run):
        parsed = pd.read_csv(io.StringIO(to_csv(table)))
        made = frames[table.name].astype(object).where(frames[table.name].notna(), np.nan)
        pd.testing.assert_frame_equal(parsed.astype(object), made, rtol=1e-14)


def test_several_seeds_are_averaged(tmp_path: Path) -> None:
    folder = write_fake_run(tmp_path / "run", [small_trial(seed=seed) for seed in (0, 1)])
    merge_run(folder)
    run = read_run(folder.path)
    [row] = table_certified_accuracy(run).rows
    each = [average_certified_radius(rows) for _, rows in run.certificates.groupby("trial_id")]
    assert row.measured["acr"] == pytest.approx(sum(each) / 2)
    assert "mean of 2 training seeds" in table_certified_accuracy(run).setting[0]


def test_variants_of_one_method_are_told_apart(tmp_path: Path) -> None:
    trials = [
        small_trial("generalised_ld"),
        small_trial("generalised_ld", name="generalised_ld_tenth", decomposition_ratio=0.1),
    ]
    folder = write_fake_run(tmp_path / "run", trials)
    merge_run(folder)
    assert [row.title for row in table_certified_accuracy(read_run(folder.path)).rows] == [
        "generalised_ld",
        "generalised_ld_tenth",
    ]


def test_report_writes_every_file(fake_run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they show: tests/results/report/test_figures.py."""
    picture = io.BytesIO()
    Image.new("RGB", (1, 1)).save(picture, "png")
    monkeypatch.setattr(write, "drawn", lambda _: {"png": picture.getvalue(), "pdf": b"%PDF"})
    merge_run(fake_run)
    write_report(fake_run)
    names = sorted(path.name for folder in (fake_run.tables, fake_run.figures) for path in folder.iterdir())
    tables = [
        f"{table}.{kind}"
        for table in ("certified_accuracy", "base_accuracy", "best_of_sigma", "cost", "beyond_acr", "convergence")
        for kind in ("csv", "md", "tex")
    ]
    figures = [
        f"{figure}.{kind}"
        for figure in ("certified_accuracy_curves", "best_of_sigma", *FORMULAS, "p_a_distribution", "cost")
        for kind in ("pdf", "png")
    ]
    assert names == sorted(tables + figures)
    assert {name.partition(".")[0] for name in names} <= {*TABLES, *FIGURES}
    assert here(fake_run.page).stat().st_size > 10_000


@pytest.mark.usefixtures("_no_figures")
def test_a_report_removes_what_is_no_more_part_of_it_and_nothing_else(fake_run: RunFolder) -> None:
    former = [fake_run.tables / "seeds.tex", fake_run.figures / "sensitivity.pdf"]  # which this run has no data for
    own = [fake_run.tables / "mine.md", fake_run.figures / "sensitivity_2.png", fake_run.path / "seeds.md"]
    for path in [*former, *own]:
        write_text(path, "old")
    merge_run(fake_run)
    write_report(fake_run)
    assert not [path for path in former if path.exists()]
    assert all(path.read_text() == "old" for path in own)


def test_reports_know_the_names_of_all_tables_and_figures() -> None:
    """Else what a run has no data for any more would stay beside its report."""
    text = (Path(results.__file__).parents[1] / "docs" / "results.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `tables/(\w+)`", text, re.M) == list(TABLES)
    assert set(re.findall(r"^\| `figures/(\w+)`", text, re.M)) == set(FIGURES)
    for module, names in ((results.report.tables, TABLES), (results.report.figures, FIGURES)):
        source = inspect.getsource(module)
        assert all(f'"{name}"' in source for name in names)


def test_the_thesiss_numbers_stand_in_captions(run: Run) -> None:
    for table, number in ((table_certified_accuracy(run), "5.1"), (table_cost(run), "5.2")):
        assert table.caption[0] == f"As Table {number} of the thesis."
        assert number not in table.title
        assert rf"\label{{tab:{table.name.replace('_', '-')}}}" in to_latex(table)


@pytest.mark.usefixtures("_one_figure")
def test_a_report_written_again_is_the_same_to_the_last_byte(fake_run: RunFolder) -> None:
    merge_run(fake_run)
    files = (fake_run.tables, fake_run.figures)

    def written() -> dict[str, bytes]:
        write_report(fake_run)
        found = {path.name: path.read_bytes() for folder in files for path in folder.iterdir()}
        return found | {"page": fake_run.page.read_bytes()}

    assert written() == written()


@pytest.mark.usefixtures("_no_figures")
def test_a_report_finds_its_rows_and_its_caption_once(fake_run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    merge_run(fake_run)
    names = ("certified_groups", "caption")
    asked = {name: MagicMock(wraps=getattr(subject, name)) for name in names}
    for name in names:
        monkeypatch.setattr(subject, name, asked[name])
    assert len(write_report(fake_run)) > 3
    assert [asked[name].call_count for name in names] == [1, 1]


def test_a_table_among_others_is_the_same_as_alone(run: Run) -> None:
    trials = run.trials.assign(train_seconds=run.trials["train_seconds"].mask(run.trials["method"] == "gaussian"))
    for each in (run, replace(run, trials=trials)):
        among = {table.name: repr(table) for table in tables_of(each)}
        alone = [table_certified_accuracy(each), table_cost(each), table_beyond_acr(each)]
        assert [among[table.name] for table in alone] == [repr(table) for table in alone]


def in_their_setting(run: Run) -> Run:
    """The same certificates, taken for those of a ResNet-110 with 100 000 samples."""
    settings = run.trials["settings"].str.replace('"width": 4', '"width": 16')
    return replace(run, trials=run.trials.assign(model="resnet110", n=100_000, settings=settings))


def test_a_network_of_another_width_is_another_setting(run: Run) -> None:
    same = in_their_setting(run)
    assert not any("network" in reason for reason in not_comparable(same.trials))
    wider = same.trials["settings"].str.replace('"width": 16', '"width": 32')
    assert "the width of the network is not 16" in not_comparable(same.trials.assign(settings=wider))


def test_no_difference_from_numbers_of_another_setting_is_marked(run: Run) -> None:
    theirs, ours = (table_certified_accuracy(each) for each in (in_their_setting(run), run))
    [told] = [sentence for sentence in ours.caption if sentence.startswith("Published")]
    assert told.endswith("Ours is another setting, so no difference from them is marked.")
    assert "†" not in to_markdown(ours)
    assert "(0.542, " in to_markdown(ours)  # they stand there all the same
    [told] = [sentence for sentence in theirs.caption if sentence.startswith("Published")]
    assert "another setting" not in told
    assert "† marks" in told


def test_no_published_number_stands_beside_rows_of_other_data(run: Run) -> None:
    table = table_certified_accuracy(on(run, "synthetic"), "thesis")
    assert "†" in to_markdown(table_certified_accuracy(in_their_setting(run)))
    assert "published" not in to_csv(table) + to_markdown(replace(table, setting=[], caption=[]))
    assert "No published numbers stand here: they are of CIFAR-10." in table.caption
    assert "the data is not CIFAR-10" in table.setting[1]
    quarter = run.trials["sigma"] == 0.25
    both = replace(run, trials=run.trials.assign(dataset=run.trials["dataset"].where(quarter, "mine@1234")))
    assert {row.sigma for row in table_certified_accuracy(both, "thesis").rows if row.published} == {0.25}


def test_the_caption_says_why_columns_are_empty(run: Run) -> None:
    [sentence] = [
        sentence for sentence in table_certified_accuracy(run).caption if "No radius can be above" in sentence
    ]
    for sigma in (0.25, 0.5):
        assert f"{float(largest_radius(2000, 0.001, sigma)):.3f} at σ = {sigma:g}" in sentence
    wide = run.trials.assign(n=10**9, sigma=1.0)
    certificates = run.certificates.assign(sigma=1.0)
    one = wide["trial_id"].isin(wide["trial_id"][:2])
    alone = replace(
        run, trials=wide[one], certificates=certificates[certificates["trial_id"].isin(wide["trial_id"][:2])]
    )
    assert not any("No radius" in sentence for sentence in table_certified_accuracy(alone).caption)
    above = replace(run, certificates=run.certificates.assign(radius=2.0))  # as some published logs have it
    assert not any("No radius" in sentence for sentence in table_certified_accuracy(above).caption)


def test_intervals_hold_the_measured_value_and_mark_a_published_one_outside(run: Run) -> None:
    table = table_certified_accuracy(in_their_setting(run))
    for row in table.rows:
        for key, interval in row.intervals.items():
            assert not interval or interval.lower <= row.measured[key] <= interval.upper
            if key not in row.published:
                continue
            apart = row.difference_intervals[key]
            assert row.is_outside(key) == bool(apart and not apart.lower <= 0 <= apart.upper)
            if apart:
                assert apart.lower <= row.difference(key) <= apart.upper  # type: ignore[operator]
                assert apart.upper - apart.lower >= interval.upper - interval.lower - 1e-9
    [ours, *_] = table.rows
    assert ours.difference("acr") == pytest.approx(ours.measured["acr"] - 0.542)
    # 12 images at σ = .25 with n = 2000: nothing can be certified at 1.00, so there is no doubt about it
    assert ours.intervals["r1.00"] == Interval(0, 0)
    cell = next(line for line in to_markdown(table).splitlines() if line.startswith("| 0.25 | Ours")).split("|")[3]
    low, high = ours.intervals["acr"].lower, ours.intervals["acr"].upper
    assert f"[{low:.3f}, {high:.3f}] (0.542, " in cell
    assert ("†" in cell) == ours.is_outside("acr")


def test_the_spread_over_seeds_stands_beside_the_interval_and_not_in_it(tmp_path: Path) -> None:
    folder = write_fake_run(tmp_path / "run", [small_trial(seed=seed) for seed in (0, 1, 2)])
    merge_run(folder)
    table = table_certified_accuracy(read_run(folder.path))
    [row] = table.rows
    assert len(row.seeds["acr"]) == 3
    assert row.spread("acr") == pytest.approx(np.std(row.seeds["acr"], ddof=1))
    parsed = next(iter(csv.DictReader(io.StringIO(to_csv(table)))))
    assert [float(value) for value in parsed["acr_seeds"].split()] == row.seeds["acr"]
    assert f"sd {row.spread('acr'):.3f}" in to_markdown(table)
    assert "sd over the seeds" in to_markdown(table)
    assert replace(row, seeds={"weights_mb": [6.753672] * 3}).spread("weights_mb") == 0  # np.std alone says 1.09e-15


def test_without_an_interval_nothing_is_outside_of_it(run: Run) -> None:
    nothing = run.certificates.assign(correct=False, radius=0.0)
    row = table_certified_accuracy(replace(run, certificates=nothing)).rows[0]
    assert row.measured["acr"] == 0
    assert not row.intervals["acr"]
    assert not row.is_outside("acr")


def test_p_a_of_a_missed_selection_is_known_where_it_was_estimated(tmp_path: Path) -> None:
    certify = {"n": 2000, "n0": 10, "skip_misclassified": False}
    folder = write_fake_run(tmp_path / "run", [small_trial(certify=certify)])
    merge_run(folder)
    run = read_run(folder.path)
    rows = run.certificates
    missed = rows["selected"] != rows["label"]
    assert missed.any()
    assert (rows.loc[missed, "n"] > 0).all()
    # On those the label has all samples that the selected class has not.
    counts = rows["counts"].map(np.zeros_like)
    for index in rows.index:
        counts[index][rows["selected"][index]] = 2000 - 1900 * missed[index]
        counts[index][rows["label"][index]] += 1900 * missed[index]
    known = replace(run, certificates=rows.assign(counts=counts, count_top=np.where(missed, 100, 2000)))
    [row] = table_beyond_acr(known).rows
    assert row.measured["above_0.9"] == 100
    assert row.measured["above_0.99"] == pytest.approx(100 * (~missed).mean())


def test_rows_that_share_trained_models_are_told_in_the_caption(tmp_path: Path) -> None:
    trials = [small_trial(method, sigma) for sigma in (0.25, 0.5) for method in ("consistency", "ensemble", "gaussian")]
    folder = write_fake_run(tmp_path / "run", trials)
    for trial in trials:
        edit_record(folder.trial(trial.trial_id).training, members=[member.trial_id for member in trial.members])
    merge_run(folder)
    run = read_run(folder.path)
    expected = "Not independent, for they share trained models: consistency and ensemble at σ = 0.25 and 0.5."
    assert expected in table_certified_accuracy(run).setting
    assert expected in table_cost(run).setting
    alone = run.trials["method"] != "consistency"
    kept = run.certificates["method"] != "consistency"
    without = replace(run, trials=run.trials[alone], certificates=run.certificates[kept])
    assert not any("Not independent" in sentence for sentence in table_certified_accuracy(without).setting)


def test_a_budget_that_cannot_be_drawn_leaves_its_cell_empty(run: Run) -> None:
    n = 2 * 10**9
    rows = run.certificates
    many = rows.assign(n=rows["n"] * 10**6, count_top=rows["count_top"] * 10**6)
    p_lower = lower_confidence_bound(many["count_top"], many["n"].clip(lower=1), many["alpha"])
    many = many.assign(p_lower=p_lower, radius=certified_radius(p_lower, many["sigma"]))
    table = table_beyond_acr(replace(run, trials=run.trials.assign(n=n), certificates=many))
    for row in table.rows:
        assert f"acr_{n}" in row.measured
        assert "acr_1000" not in row.measured


@pytest.mark.parametrize(("column", "value"), [("n", 7), ("alpha", 0.05), ("images", 3), ("dataset", "other")])
def test_unlike_seeds_are_not_averaged(column: str, value: object, tmp_path: Path) -> None:
    folder = write_fake_run(tmp_path / "run", [small_trial(seed=seed) for seed in (0, 1)])
    merge_run(folder)
    run = read_run(folder.path)
    unlike = run.trials.copy()
    unlike[column] = [unlike[column].iloc[0], value]
    with pytest.raises(ValueError, match=rf"the seeds of gaussian at σ = 0.25 cannot be averaged: {column} is"):
        table_certified_accuracy(replace(run, trials=unlike))
    other = run.certificates["seed"] == 1
    moved = run.certificates.assign(index=run.certificates["index"] + other)
    with pytest.raises(ValueError, match="test images are different"):
        table_certified_accuracy(replace(run, certificates=moved))


def starred(table: ResultTable) -> set[str]:
    """The columns in which a row is the best."""
    return {column.key for column in table.columns if any(table.best(row, column) for row in table.rows)}


def test_only_equal_settings_are_ranked(run: Run) -> None:
    other = run.trials.copy()
    other.loc[other["method"] == "generalised_ld", "n"] = 1500
    assert not starred(table_certified_accuracy(replace(run, trials=other)))
    assert starred(table_certified_accuracy(run))
    budgets = [column.key for column in table_beyond_acr(replace(run, trials=other)).columns if "acr" in column.key]
    assert budgets == ["acr_1000", "acr_1500", "acr_2000"]


@pytest.mark.parametrize("column", ["n", "n0"])
def test_only_at_one_budget_are_rows_of_another_n_ranked(run: Run, column: str) -> None:
    """What is of all samples is more where there are more."""
    other = run.trials.copy()
    other.loc[other["method"] == "generalised_ld", column] = 1500
    table = table_beyond_acr(replace(run, trials=other))
    assert starred(table) == ({"acr_1000", "acr_1500"} if column == "n" else set())
    assert {"acr_1000", "acr_2000", "two_sided", "together"} <= starred(table_beyond_acr(run))


def test_float_and_sound_certificates_are_neither_ranked_nor_averaged(run: Run) -> None:
    own = run.certificates["method"] == "generalised_ld"
    pixels = run.certificates["lattice_pixels"].astype("Int64").where(~own, 3072)
    for make in (table_certified_accuracy, table_beyond_acr):
        assert not starred(make(replace(run, certificates=run.certificates.assign(lattice_pixels=pixels))))


def test_seeds_of_two_arithmetics_are_not_averaged(tmp_path: Path) -> None:
    folder = write_fake_run(tmp_path / "run", [small_trial(seed=seed) for seed in (0, 1)])
    merge_run(folder)
    run = read_run(folder.path)
    pixels = run.certificates["seed"].map({0: np.nan, 1: 3072.0}).astype("Int64")
    with pytest.raises(ValueError, match="cannot be averaged: their arithmetics are float and sound"):
        table_certified_accuracy(replace(run, certificates=run.certificates.assign(lattice_pixels=pixels)))


def test_two_trials_of_one_cell_are_refused(tmp_path: Path) -> None:
    runs = []
    for name, n in (("one", 40), ("two", 50)):
        trial = small_trial(certify={"n": n, "n0": 10, "images": 12})
        runs.append(write_fake_run(tmp_path / name, [trial]))
        merge_run(runs[-1])
    with pytest.raises(ValueError, match=r"two trials are gaussian at σ = 0.25 with seed 0"):
        table_certified_accuracy(read_run(*(folder.path for folder in runs)))


def test_trials_without_certificates_are_refused(run: Run) -> None:
    """Files that do not belong together, or one that somebody edited."""
    trials = run.trials.assign(sigma=run.trials["sigma"] * 3)
    with pytest.raises(ValueError, match="is among the trials and has no certificates"):
        table_certified_accuracy(replace(run, trials=trials))


def test_another_source_stands_beside_with_rows_for_what_the_run_lacks(run: Run) -> None:
    table = table_certified_accuracy(run, "sun2025_logs")
    rows = {(row.sigma, row.method): row for row in table.rows}
    assert rows[0.25, "gaussian"].published["acr"] == 0.4867
    assert rows[0.5, "cat_rs"].measured == {}
    assert (1.0, "cat_rs") not in rows
    assert [row.sigma for row in table.rows] == sorted(row.sigma for row in table.rows)
    assert any("logs of Sun et al. 2025" in sentence for sentence in table.caption)
    with pytest.raises(ValueError, match=r"unknown source of published numbers 'cohn'; known: thesis, cohen2019"):
        table_certified_accuracy(run, "cohn")


def test_another_source_stands_beside_costs_too(run: Run) -> None:
    table = table_cost(run, "sun2025_logs")
    gaussian = table.rows[0]
    assert gaussian.published == {
        "acr": 0.4867,
        "accuracy_percent": pytest.approx(gaussian.published["accuracy_percent"]),
    }
    assert table.notes == []
    assert any("logs of Sun et al. 2025" in sentence for sentence in table.caption)


def test_cost_has_throughput_hours_and_energy_where_it_is_known(run: Run) -> None:
    table = table_cost(run)
    row = table.rows[0]
    trial = run.trials[(run.trials["method"] == row.method) & (run.trials["sigma"] == 0.25)].iloc[0]
    assert row.measured["train_rate"] == 100
    assert row.measured["certify_rate"] == trial["certify_samples_per_second"]
    assert row.measured["worker_hours"] == pytest.approx((36 * 1 + trial["certify_seconds"]) / 3600)
    assert "energy_kwh" not in [column.key for column in table.columns]
    known = replace(run, trials=run.trials.assign(train_joules=3.6e6, certify_joules=1.8e6))
    assert table_cost(known).rows[0].measured["energy_kwh"] == pytest.approx(1.5)
    assert any(
        "accelerators' own counters, whatever else used them" in sentence for sentence in table_cost(known).caption
    )


def test_memory_of_an_accelerator_says_whose_count_it_is(run: Run) -> None:
    def memory(kind: str) -> str:
        caption = table_cost(replace(run, trials=run.trials.assign(memory_kind=kind))).caption
        [sentence] = [sentence for sentence in caption if sentence.startswith("Memory: ")]
        return sentence

    assert "peak resident memory" in memory("resident")
    assert "peak that torch allocated on accelerators" in memory("accelerator")


def test_beyond_acr_ranks_at_every_budget(run: Run) -> None:
    table = table_beyond_acr(run)
    assert [column.key for column in table.columns][:4] == ["acr_1000", "rank_1000", "acr_2000", "rank_2000"]
    for row in table.rows:
        rows = run.certificates[(run.certificates["sigma"] == row.sigma) & (run.certificates["method"] == row.method)]
        assert row.measured["acr_2000"] == pytest.approx(average_certified_radius(rows))
        assert row.measured["acr_1000"] < row.measured["acr_2000"]
        p_a = (rows["count_top"] / rows["n"].clip(lower=1)).where(rows["selected"] == rows["label"], 0)
        assert row.measured["above_0.9"] == pytest.approx(100 * (p_a > 0.9).mean())
    for sigma in (0.25, 0.5):
        assert sorted(row.measured["rank_1000"] for row in table.rows if row.sigma == sigma) == [1, 2]


def test_the_caption_names_what_is_missing(fake_run: RunFolder) -> None:
    first = trial_ids(fake_run)[0]
    write_json(fake_run.trial(first).state, {"state": "waiting"})
    merge_run(fake_run)
    assert f"Not finished, so not here: {first}." in table_certified_accuracy(read_run(fake_run.path)).setting
    for trial_id in trial_ids(fake_run):
        write_json(fake_run.trial(trial_id).state, {"state": "waiting"})
    merge_run(fake_run)
    with pytest.raises(ValueError, match=rf"no trial is finished.*not finished: {first}"):
        write_report(fake_run)


def test_latex_compiles_without_what_latex_does_not_know(run: Run) -> None:
    for table in (*tables_of(run), table_certified_accuracy(run, "aces2022_logs")):
        text = to_latex(table)
        assert text.isascii()
        columns = text.split(r"\begin{tabular}{")[1].split("}")[0]
        body = text.split(r"\toprule")[1].split(r"\bottomrule")[0]
        assert all(line.count("&") - line.count(r"\&") == len(columns) - 1 for line in body.splitlines() if "&" in line)


@pytest.mark.parametrize(
    ("sigma", "text"), [(0.25, "0.25"), (0.5, "0.50"), (0.125, "0.125"), (0.121, "0.121"), (64 / 255, "0.25098")]
)
def test_sigma_is_not_rounded_to_another(sigma: float, text: str) -> None:
    assert Row(sigma, "m", "M", {}).sigma_text == text


def test_equal_numbers_are_both_the_best_whatever_their_rounding() -> None:
    column = Column("r", "r", 1, "max")
    values = [100 * 219 / 500, sum(100 * count / 500 for count in (218, 219, 220)) / 3, 10.0]
    rows = [Row(0.25, name, name, {"r": value}) for name, value in zip("abc", values, strict=True)]
    table = ResultTable("t", "", [column], rows, [], [])
    assert [table.best(row, column) for row in rows] == [True, True, False]


def test_three_digits_are_three() -> None:
    column = Column("x", "x", None)
    assert [formats.number(value, column) for value in (0.1234, 99.94, 99.96, 1234.5)] == [
        "0.123",
        "99.9",
        "100",
        "1234",
    ]


def test_a_loss_may_be_negative() -> None:
    """That of `direct` is, where radii are large."""
    row = {"trial_id": "t", "method": "direct", "sigma": 0.25, "seed": 0, "epoch": 0, "learning_rate": 0.1}
    assert EpochRow(**row, loss=-2.4, noisy_test_accuracy=0.9, seconds=1).loss == -2.4  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        EpochRow(**row, loss=math.nan, noisy_test_accuracy=0.9, seconds=1)  # type: ignore[arg-type]
