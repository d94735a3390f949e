"""docs/benchmark: what its page, tables and figures say follows from the Parquet files beside them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from bench.settings.grid import load_grid
from results import read_run
from results.report.figures import figures_of
from results.report.formats import flat_columns, to_csv, to_markdown
from results.report.table import ResultTable
from results.report.tables import tables_of
from results.store.run import Run

FOLDER = Path(__file__).parents[2] / "docs" / "benchmark"
MOST_BYTES = 3_000_000


@pytest.fixture(scope="module")
def run() -> Run:
    return read_run(FOLDER)


@pytest.fixture(scope="module")
def made(run: Run) -> list[ResultTable]:
    return list(tables_of(run))


@pytest.fixture(scope="module")
def frames(made: list[ResultTable]) -> dict[str, pd.DataFrame]:
    """What `results.tables` gives of them."""
    return {table.name: pd.DataFrame(flat_columns(table)) for table in made}


@pytest.fixture(scope="module")
def claims(frames: dict[str, pd.DataFrame]) -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_claims", FOLDER / "claims.py")
    assert spec
    assert spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where dataclasses look
    spec.loader.exec_module(module)
    vars(module)["tables"] = lambda _: frames
    return module


def test_the_tables_are_those_of_the_certificates(made: list[ResultTable]) -> None:
    assert {path.name for path in (FOLDER / "tables").iterdir()} == {
        f"{table.name}.{suffix}" for table in made for suffix in ("md", "csv")
    }
    for table in made:
        assert (FOLDER / "tables" / f"{table.name}.md").read_text("utf-8") == to_markdown(table)
        assert (FOLDER / "tables" / f"{table.name}.csv").read_text("utf-8") == to_csv(table)


def test_the_figures_are_there_and_shown(run: Run) -> None:
    text = (FOLDER / "README.md").read_text("utf-8")
    shown = {path.stem for path in (FOLDER / "figures").iterdir()}
    assert shown <= {name for name, _ in figures_of(run, "thesis")}
    assert all(f"figures/{name}.png" in text for name in shown)


@pytest.mark.parametrize("part", ["summary", "claims", "questions", "convergence"])
def test_what_the_page_says_of_the_claims_is_computed(part: str, run: Run, claims: ModuleType) -> None:
    assert getattr(claims, part)(run) in (FOLDER / "README.md").read_text("utf-8")


def test_the_first_page_has_the_same_acr(frames: dict[str, pd.DataFrame]) -> None:
    acr = frames["certified_accuracy"].set_index(["method", "sigma"])["acr"]
    lines = (FOLDER.parents[1] / "README.md").read_text("utf-8").splitlines()
    for method in load_grid("lite").methods:
        [line] = [line for line in lines if line.startswith(f"| `{method}` |")]
        assert line.endswith(f"| {acr[method, 0.25]:.3f} | {acr[method, 0.5]:.3f} |"), method


def test_the_trials_are_those_of_the_grid_that_is_shipped(run: Run) -> None:
    """So whoever runs the page's commands makes the same ones."""
    [dataset] = set(run.trials["dataset"])
    methods = list(dict.fromkeys(run.trials["method"]))
    seeds = sorted(set(run.trials["seed"]))
    grid = load_grid("lite", [f"seeds={seeds}"], methods=methods)
    assert set(run.trials["trial_id"]) <= {trial.trial_id for trial in grid.trials(dataset)}


def test_nothing_of_a_machine_is_told_and_no_file_is_too_much(run: Run) -> None:
    for frame in (run.certificates, run.trials, run.epochs, run.spectra):
        for name in frame:
            texts = {text for text in frame[name] if isinstance(text, str)}
            assert not any(text.startswith(("/", "~")) or "/home" in text for text in texts), name
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < MOST_BYTES
