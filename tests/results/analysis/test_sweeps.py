"""Which rows of a run are a sweep, and the figure of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bench.settings.trial import Trial
from results.analysis.groups import Group, certified_groups
from results.analysis.metrics import average_certified_radius
from results.analysis.sweeps import Sweep, find_sweeps
from results.report.figures import figures_of
from results.report.figures.sensitivity import figure_sensitivity
from results.report.write import write_report
from results.store.merge import merge_run
from results.store.run import read_run
from tests.conftest import small_trial, write_fake_run

BASE: dict[str, Any] = {"copies": 2, "strength": 5.0, "entropy_weight": 0.5}


def group(name: str, options: object, sigma: float = 0.25, seeds: int = 1, **settings: Any) -> Group:
    told = {"name": name, "method": "generalised", "options": options, "sigma": sigma, **settings}
    texts = [json.dumps({**told, "seed": seed}) for seed in range(seeds)]
    return Group(sigma, name, name, pd.DataFrame(), pd.DataFrame({"settings": texts}))


def found(*groups: Group) -> dict[tuple[str, float], dict[float, str]]:
    return {
        (sweep.option, sweep.sigma): {value: own.method for value, own in sweep.rows} for sweep in find_sweeps(groups)
    }


def test_rows_that_differ_in_one_option_from_a_base_are_sweeps_whatever_they_are_called() -> None:
    rows = [
        group("b", {**BASE, "strength": 20}),
        group("a", BASE),
        group("c", {**BASE, "strength": 1}),
        group("d", {**BASE, "entropy_weight": 0}),
        group("e", {**BASE, "entropy_weight": 2.0, "strength": 3}),  # two options
    ]
    assert found(*rows) == {
        ("strength", 0.25): {1.0: "c", 5.0: "a", 20.0: "b"},
        ("entropy_weight", 0.25): {0.0: "d", 0.5: "a"},
    }
    assert {sweep.base for sweep in find_sweeps(rows)} == {5.0, 0.5}


def test_each_sigma_has_its_own_base_and_seeds_are_one_row() -> None:
    rows = [
        group("a", {**BASE, "strength": 10}, 0.25, seeds=2), group("b", {**BASE, "strength": 5}, 0.25),
        group("a", BASE, 0.5), group("b", {**BASE, "strength": 2}, 0.5), group("c", {**BASE, "strength": 3}, 0.5),
    ]  # fmt: skip
    assert found(*rows) == {
        ("strength", 0.25): {5.0: "b", 10.0: "a"},
        ("strength", 0.5): {2.0: "b", 3.0: "c", 5.0: "a"},
    }
    assert [sweep.base for sweep in find_sweeps(rows)] == [10.0, 5.0]


@pytest.mark.parametrize(
    "other",
    [
        group("b", BASE),  # nothing differs
        group("b", {**BASE, "strength": 1, "copies": 4}),  # two options
        group("b", {key: value for key, value in BASE.items() if key != "strength"}),  # left to the default
        group("b", {**BASE, "strength": True}),
        group("b", {**BASE, "strength": "much"}),
        group("b", {**BASE, "strength": float("nan")}),
        group("b", {**BASE, "strength": 10**400}),
        group("b", {**BASE, "strength": 1}, method="consistency"),
        group("b", {**BASE, "strength": 1}, 0.5),
        group("b", {**BASE, "strength": 1}, train={"epochs": 3}),
        group("b", {**BASE, "strength": 1}, decomposition_ratio=0.1),
        group("b", [1]),
        group("b", {**BASE, "strength": 1}, method=None),
    ],
)
def test_what_is_no_sweep(other: Group) -> None:
    assert found(group("a", BASE), other) == {}


def test_where_the_data_is_does_not_matter_and_unlike_seeds_are_no_row() -> None:
    a, b = group("a", BASE, data="here"), group("b", {**BASE, "strength": 1}, data="there")
    assert found(a, b) == {("strength", 0.25): {1.0: "b", 5.0: "a"}}
    other = group("b", {**BASE, "strength": 2})
    b.trials.loc[1] = other.trials.iloc[0]
    assert found(a, b) == {}


def test_of_a_table_of_options_one_line_through_the_base_with_most_neighbours_is_taken() -> None:
    rows = [group(f"r{s}{e}", {**BASE, "strength": s, "entropy_weight": e}) for s in (1, 2) for e in (0, 1, 2)]
    assert found(*rows) == {
        ("entropy_weight", 0.25): {0.0: "r10", 1.0: "r11", 2.0: "r12"},
        ("strength", 0.25): {1.0: "r10", 2.0: "r20"},
    }


def test_of_two_recipes_the_one_with_more_rows_is_taken() -> None:
    short = [group(f"s{value}", {**BASE, "strength": value}, train={"epochs": 3}) for value in (1, 2)]
    long = [group(f"l{value}", {**BASE, "strength": value}, train={"epochs": 9}) for value in (1, 2, 3)]
    assert found(*short, *long) == {("strength", 0.25): {1.0: "l1", 2.0: "l2", 3.0: "l3"}}


def sweep_of(sigma: float, **options: Any) -> list[Trial]:
    base: dict[str, Any] = {"copies": 2, "strength": 5.0, "entropy_weight": 0.5}
    rows = {"base": base} | {f"{key}_{n}": {**base, key: v} for key, vs in options.items() for n, v in enumerate(vs)}
    return [
        small_trial("generalised", sigma, name=name, options=own, certify={"n": 2000, "n0": 10})
        for name, own in rows.items()
    ]


def test_the_figure_has_a_panel_for_each_option_and_a_line_for_each_sigma(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = [*sweep_of(0.5, strength=[1.0, 20.0]), *sweep_of(0.25, strength=[1.0, 20.0], entropy_weight=[0.0])]
    folder = write_fake_run(tmp_path / "run", trials)
    merge_run(folder)
    run = read_run(folder.path)
    figure = dict(figures_of(run))["sensitivity"]
    assert [panel.get_xlabel() for panel in figure.axes] == ["strength (λ)", "entropy_weight (η)"]
    strength, entropy = figure.axes
    assert (strength.get_xscale(), entropy.get_xscale()) == ("log", "linear")
    lines = [np.asarray(line.get_xydata()) for line in strength.lines if line.get_linestyle() != "None"]
    assert len(lines) == 2
    for sigma, line in zip((0.25, 0.5), lines, strict=True):
        assert line[:, 0].tolist() == [1, 5, 20]
        rows = run.certificates[run.certificates["sigma"] == sigma]
        for name, acr in zip(("strength_0", "base", "strength_1"), line[:, 1], strict=True):
            assert acr == pytest.approx(average_certified_radius(rows[rows["method"] == name]))
    monkeypatch.setattr("results.report.write.figures_of", lambda *_: iter([("sensitivity", figure)]))
    write_report(folder)
    assert (folder.figures / "sensitivity.png").exists()


def test_equal_certificates_have_no_interval_and_are_drawn(tmp_path: Path) -> None:
    folder = write_fake_run(tmp_path / "run", sweep_of(0.25, strength=[1.0]), images=4)
    merge_run(folder)
    [sweep] = find_sweeps(certified_groups(read_run(folder.path)))
    rows = [(value, Group(0.25, "r", "r", own.certificates.iloc[:1], own.trials)) for value, own in sweep.rows]
    [panel] = figure_sensitivity([Sweep("generalised", "strength", 0.25, sweep.base, tuple(rows))]).axes
    assert len(panel.collections) == 0
    assert len(panel.lines) == 2
