"""The examples run: the ```python blocks of each page of docs, one after the other, beside a small finished run."""

from __future__ import annotations

import inspect
import re
import shutil
import textwrap
from pathlib import Path
from typing import Any

import pytest

import results
from results.report.write import write_report
from results.store.merge import merge_run
from tests.conftest import small_trial, write_fake_run

PAGES = sorted((Path(__file__).parent.parent / "docs").glob("*.md"))
FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    trials = [
        small_trial(method, sigma, certify={"n": 2000, "n0": 10})
        for sigma in (0.25, 0.5)
        for method in ("generalised_ld", "consistency", "gaussian")
    ]
    run = write_fake_run(tmp_path_factory.mktemp("docs") / "smoke", trials)
    merge_run(run)
    write_report(run)
    assert isinstance(run.path, Path)
    return run.path


@pytest.fixture
def beside_a_run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder with a run of its own, which examples may change."""
    shutil.copytree(finished, tmp_path / "runs" / "smoke")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("beside_a_run")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_examples_of_a_page_run(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": page.stem}
    for block in FENCE.finditer(text):
        if block["language"] == "python":
            line = text.count("\n", 0, block.start("text"))
            # So that a traceback names the page and its line.
            exec(compile("\n" * line + block["text"], str(page), "exec"), names)  # noqa: S102


@pytest.mark.usefixtures("beside_a_run")
def test_the_example_in_the_docstring_of_results_runs(capsys: pytest.CaptureFixture[str]) -> None:
    example = [line for line in inspect.getdoc(results).splitlines() if line.startswith("    ")]  # type: ignore[union-attr]
    exec(textwrap.dedent("\n".join(example)), {})  # noqa: S102
    assert "p_holm" in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
