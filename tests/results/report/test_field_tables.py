"""What the field reports beside ACR: the base classifier, the best of several σ, how far seeds move certificates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from results import certified_accuracy, read_run
from results.analysis.base_classifier import suspicions
from results.analysis.envelope import envelopes
from results.analysis.groups import certified_groups
from results.analysis.seeds import compare_seeds
from results.report.caption import caption
from results.report.figures.curves import figure_certified_accuracy, figure_envelope
from results.report.figures.style import drawn
from results.report.formats import to_csv, to_latex, to_markdown, to_terminal
from results.report.page.charts import charts
from results.report.page.words import caveats, table_content
from results.report.subject import Subject
from results.report.tables import table_base_accuracy, table_certified_accuracy, table_envelope, table_seeds, tables_of
from results.store.folder import RunFolder
from results.store.merge import merge_run
from results.store.run import Run
from tests.conftest import small_trial, write_fake_run
from tests.results.report.test_figures import texts_of


@pytest.fixture
def run(fake_run: RunFolder) -> Run:
    merge_run(fake_run)
    return read_run(fake_run.path)


@pytest.fixture
def seeds(tmp_path: Path) -> Run:
    """One method with three seeds, and another with one."""
    trials = [small_trial("gaussian", seed=seed, certify={"n": 2000, "n0": 10}) for seed in (0, 1, 2)]
    folder = write_fake_run(tmp_path / "run", [*trials, small_trial("macer", certify={"n": 2000, "n0": 10})])
    merge_run(folder)
    return read_run(folder.path)


def same_weights(run: Run) -> Run:
    """As if one model had been certified with the noise of each seed."""
    one = {"checkpoint_sha256": "0" * 64}
    return replace(run, trials=run.trials.assign(**one), certificates=run.certificates.assign(**one))


def with_radii(run: Run, radii: dict[float, float]) -> Run:
    """All images correct at a radius for each σ."""
    rows = run.certificates.assign(correct=True, radius=run.certificates["sigma"].map(radii))
    return replace(run, certificates=rows)


def test_the_base_classifier_stands_beside_the_smoothed_one(run: Run) -> None:
    table = table_base_accuracy(run)
    assert [(row.sigma, row.method) for row in table.rows] == [
        (row.sigma, row.method) for row in table_certified_accuracy(run).rows
    ]
    for row in table.rows:
        rows = run.certificates[(run.certificates["sigma"] == row.sigma) & (run.certificates["method"] == row.method)]
        assert row.measured["clean"] == pytest.approx(100 * 10 / 12)  # as the fake rows have it
        assert row.measured["noisy"] == pytest.approx(100 * 8 / 12)
        assert row.measured["smoothed"] == pytest.approx(100 * certified_accuracy(rows, 0))
        assert row.intervals["noisy"].lower < row.measured["noisy"] < row.intervals["noisy"].upper
    assert table.warnings == []
    assert [table.name for table in tables_of(run)][:2] == ["certified_accuracy", "base_accuracy"]


def test_imported_rows_have_no_base_classifier(run: Run) -> None:
    gone = run.certificates["method"] == "gaussian"
    some = replace(run, certificates=run.certificates.assign(base_noisy=run.certificates["base_noisy"].mask(gone)))
    assert {row.method for row in table_base_accuracy(some).rows} == {"generalised_ld"}
    none = run.certificates.assign(base_clean=None, base_noisy=None)
    assert "base_accuracy" not in [table.name for table in tables_of(replace(run, certificates=none))]


def test_what_the_accuracies_give_away_is_said_in_every_form(run: Run) -> None:
    many = pd.concat([run.certificates.assign(index=run.certificates["index"] + 12 * k) for k in range(40)])
    rows = many.assign(base_clean=many["label"], base_noisy=(many["label"] + 1) % 10)
    wrong = replace(run, certificates=rows.reset_index(drop=True))
    table = table_base_accuracy(wrong)
    assert len(table.warnings) == 4
    assert "not trained with this noise" in table.warnings[0]
    on_page = [" ".join(table_content(table)["caption"]), caveats(Subject(wrong))[4]]
    for text in (to_markdown(table), to_latex(table), *on_page):
        assert "the base classifier is right on 100.0" in text


def test_a_class_that_no_image_is_taken_for_is_told(run: Run) -> None:
    many = pd.concat([run.certificates.assign(index=run.certificates["index"] + 12 * k) for k in range(40)])
    known = many.assign(label=many["index"] % 10, base_clean=many["index"] % 10, base_noisy=many["index"] % 10)
    rows = known.assign(selected=known["label"]).reset_index(drop=True)
    assert suspicions(rows) == []
    gone = (rows["method"] == "gaussian") & (rows["sigma"] == 0.5) & rows["label"].isin([3, 4])
    lost = rows.assign(selected=rows["selected"].mask(gone, 5))
    images = "to which 96 of 480 images belong. So its training has collapsed."
    assert suspicions(lost) == [f"gaussian at σ = 0.5: no image is taken for classes 3 and 4, {images}"]
    again = pd.concat([rows, lost.assign(seed=1)])
    assert suspicions(again) == [f"gaussian at σ = 0.5: no image is taken for with seed 1 classes 3 and 4, {images}"]
    assert table_base_accuracy(replace(run, certificates=lost)).warnings == suspicions(lost)


def test_the_best_of_several_sigma_by_hand(run: Run) -> None:
    # σ = .25 certifies 12 images at .6, σ = .5 certifies one at 1.1 and the others at .3
    rows = run.certificates
    radius = np.where(rows["sigma"] == 0.25, 0.6, np.where(rows["index"] == 0, 1.1, 0.3))
    changed = replace(run, certificates=rows.assign(correct=True, radius=radius))
    table = table_envelope(changed)
    assert [row.title for row in table.rows] == ["Ours", "Gaussian"]
    for row in table.rows:
        assert row.sigmas == (0.25, 0.5)
        assert [row.measured[f"r{r:.2f}"] for r in (0, 0.5, 0.75, 1, 1.25)] == pytest.approx(
            [100, 100, 100 / 12, 100 / 12, 0]
        )
        assert row.best_sigmas == {"r0.00": 0.25, "r0.25": 0.25, "r0.50": 0.25, "r0.75": 0.5, "r1.00": 0.5}
    assert not any(table.best(row, column) for row in table.rows for column in table.columns)  # a tie of all
    console = Console(width=80, record=True)
    console.print(to_terminal(table))
    text = console.export_text()
    assert "0.25, 0.5 Ours" in text
    assert max(map(len, text.splitlines())) <= 80
    markdown = to_markdown(table)
    assert "| 0.25, 0.5 | Ours | 100.0 (σ = 0.25) |" in markdown
    assert "8.3 (σ = 0.5)" in markdown
    assert "r1.00_sigma" in to_csv(table)
    assert r"{\scriptsize $\sigma$ = 0.5}" in to_latex(table)
    assert table_content(table)["rows"][0]["sigmas"] == "0.25, 0.5"
    assert table_content(table)["rows"][0]["cells"][3]["sigma"] == "σ = 0.5"
    [panel] = charts(changed, certified_groups(changed), [])["envelope"]
    assert panel["title"] == "best of σ = 0.25, 0.5"
    values = panel["lines"][0]["values"]
    assert values[round(0.6 / panel["step"])] == 100
    assert values[round(0.6 / panel["step"]) + 1] == values[round(1.1 / panel["step"])] == 8.3
    assert values[-1] == 0
    figure = figure_envelope(changed)
    assert drawn(figure)["png"]
    [axes] = figure.axes
    x, y = map(np.asarray, axes.lines[0].get_data())
    assert np.interp(0.55, x, y) == 100
    assert list(np.asarray(axes.lines[1].get_xdata())) == [0.6]  # from there on another σ


def test_there_is_no_best_of_one_sigma_or_of_unlike_settings(run: Run, seeds: Run) -> None:
    assert envelopes(certified_groups(seeds)) == []
    assert "best_of_sigma" not in [table.name for table in tables_of(seeds)]
    trials = run.trials.assign(n=run.trials["n"].where(run.trials["sigma"] == 0.25, 1000))
    assert envelopes(certified_groups(replace(run, trials=trials))) == []
    per_input = [
        frame.assign(sigma=frame["sigma"].where(frame["sigma"] == 0.25, 0.0))
        for frame in (run.trials, run.certificates)
    ]
    assert envelopes(certified_groups(replace(run, trials=per_input[0], certificates=per_input[1]))) == []
    wide = with_radii(run, {0.25: 0.5, 0.5: 3.2})
    further = [column.heading for column in table_envelope(wide).columns if not column.on_terminal]
    assert further == ["2.00", "2.25", "2.50", "3.00"]


def test_how_far_certificates_move_between_seeds(seeds: Run) -> None:
    table = table_seeds(seeds)
    [row] = table.rows
    own = seeds.certificates[seeds.certificates["method"] == "gaussian"]
    accuracies = [100 * certified_accuracy(rows, 0.25) for _, rows in own.groupby("trial_id")]
    assert (row.measured["r0.25_lowest"], row.measured["r0.25_highest"]) == (min(accuracies), max(accuracies))
    assert row.measured["seeds"] == 3
    correct = own.pivot_table(index="index", columns="seed", values="correct").astype(bool)
    radius = own.pivot_table(index="index", columns="seed", values="radius")
    spread = (radius.max(axis=1) - radius.min(axis=1))[correct.all(axis=1)]
    assert row.measured["largest_spread"] == pytest.approx(spread.max())
    assert row.measured["largest_spread"] > row.measured["median_spread"] > 0
    assert row.measured["by_some_percent"] == pytest.approx(100 * (correct.any(axis=1) & ~correct.all(axis=1)).mean())
    assert row.title == "Gaussian"
    assert "one training seed" in texts_of(figure_certified_accuracy(seeds))
    assert "mean of 3 or 1 training seeds" in table.setting[0] or "mean of 1 or 3 training seeds" in table.setting[0]
    [panel] = charts(seeds, certified_groups(seeds), [])["certified"]
    line = next(line for line in panel["lines"] if line["method"] == "gaussian")
    assert line["lowest"][0] == pytest.approx(
        min(100 * rows["correct"].mean() for _, rows in own.groupby("seed")), abs=0.05
    )
    assert line["highest"] != line["lowest"]
    assert "lowest" not in next(line for line in panel["lines"] if line["method"] == "macer")


def test_seeds_of_one_models_noise_are_called_so(seeds: Run) -> None:
    run = same_weights(seeds)
    assert [row.title for row in table_seeds(run).rows] == ["Gaussian, certification seeds"]
    assert "one certification seed" in texts_of(figure_certified_accuracy(run))
    table = table_certified_accuracy(run)
    assert "certification seeds; " in table.setting[0]
    assert "mean over the certification seeds" in to_markdown(table)
    assert "mean over the training seeds" in to_markdown(table_certified_accuracy(seeds))


def test_seeds_of_the_certification_alone_tell_no_methods_apart(seeds: Run) -> None:
    both, own = seeds.trials[seeds.trials["method"] == "gaussian"], seeds.certificates
    own = own[own["method"] == "gaussian"]
    run = replace(
        seeds,
        trials=pd.concat([both, both.assign(trial_id=both["trial_id"] + "-b", method="macer_b")]),
        certificates=pd.concat([own, own.assign(trial_id=own["trial_id"] + "-b", method="macer_b")]),
    )
    assert set(compare_seeds(run)["seeds"]) == {3}
    assert compare_seeds(same_weights(run)).empty


def _said(run: Run) -> str:
    return " ".join(caption(run))


def test_a_models_origin_is_told_of_all(run: Run) -> None:
    assert " or elsewhere, certified on " not in _said(run)
    device = run.trials["device"].where(run.trials.index > 0)
    assert " or elsewhere, certified on " in _said(replace(run, trials=run.trials.assign(device=device)))
