"""The examples of docs/*.md run: the ```python blocks of a page, one after the other, beside a small finished run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

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
        for method in ("ours", "consistency", "gaussian")
    ]
    run = write_fake_run(tmp_path_factory.mktemp("docs") / "smoke", trials)
    merge_run(run)
    write_report(run)
    assert isinstance(run.path, Path)
    return run.path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_examples_of_a_page_run(
    page: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = page.read_text(encoding="utf-8")
    shutil.copytree(finished, tmp_path / "runs" / "smoke")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": page.stem}
    for block in FENCE.finditer(text):
        if block["language"] == "python":
            line = text.count("\n", 0, block.start("text"))
            # So that a traceback names the page and its line.
            exec(compile("\n" * line + block["text"], str(page), "exec"), names)  # noqa: S102


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
