"""`bench watch` before a reader: the page follows the run without being loaded again, until it is the report."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from results.report.figures.illustrations import figure_class_overlap
from results.report.update import update_report
from results.store.folder import RunFolder
from tests.bench.runner.test_watch import finish, run, served  # noqa: F401

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@pytest.fixture
def browser() -> Iterator[Browser]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"], timeout=0
        )
        yield started
        started.close()


def test_the_page_follows_the_run(
    browser: Browser,
    run: RunFolder,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = [("class_overlap", figure_class_overlap())]  # of those that the page shows as pictures
    monkeypatch.setattr("results.report.write.figures_of", lambda *_: one)
    faults: list[str] = []
    with served(run) as server:
        page = browser.new_page()
        page.set_default_timeout(0)  # pytest has one
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text))
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith((server.url, "data:", "blob:")) else faults.append(request.url)
            ),
        )
        page.goto(server.url)
        results = page.locator("table.results").first.locator("tbody th")
        page.wait_for_selector(".verdicts")
        assert results.all_inner_texts() == ["Ours", "Gaussian"]
        assert page.locator("#progress .said").inner_text().startswith("2 of 4 trials done")
        page.get_by_role("button", name="Gaussian").click()
        page.evaluate("window.kept = true")
        finish(run, 2)
        page.get_by_text("3 of 4 trials done").wait_for()
        assert results.all_inner_texts() == ["Ours", "Gaussian", "Ours"]
        # two curves, their distributions, the best of two σ
        page.wait_for_function("document.querySelectorAll('#curves path.line').length == 5")
        assert page.locator("path.line[data-method=gaussian]").count() == 0  # what was hidden stays so
        assert page.locator(".toolbar").count() == 1
        assert page.evaluate("window.kept")  # it was not loaded again
        finish(run, 3)
        update_report(run)
        page.wait_for_selector("#progress", state="detached")
        page.wait_for_selector(".verdicts")
        assert results.count() == 4
        assert page.locator("#figures img").count() > 0
        assert not page.evaluate("window.kept")
        assert page.locator("#errors").is_hidden()
    assert faults == []
