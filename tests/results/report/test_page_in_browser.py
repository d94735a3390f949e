"""report.html in a real headless Chromium, as a reader has it: opened from a file."""

from __future__ import annotations

import os
import re
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from results import certified_accuracy
from results.analysis.published import CIFAR10
from results.report.tables import table_certified_accuracy
from results.store.run import Run
from tests.results.report.pages import CELLS, HOSTILE, colour_of, random_run, thumbnails, write

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
IMAGES = 40


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS, timeout=0)
        yield started
        started.close()


@pytest.fixture(scope="module")
def run() -> Run:
    return random_run(IMAGES, imported=(("log", 0.25, 0),))


@pytest.fixture(scope="module")
def report(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(run, tmp_path_factory.mktemp("page") / "report.html", thumbnails(IMAGES - 1))


@contextmanager
def opened(browser: Browser, report: Path, **settings: Any) -> Iterator[Page]:
    """The page, once the certificates are unpacked and the charts drawn. Afterwards nothing must have failed or been
    asked of a network."""
    faults: list[str] = []
    context = browser.new_context(**settings)
    context.set_default_timeout(0)  # pytest has one
    page = context.new_page()
    page.on("console", lambda message: faults.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: faults.append(f"error: {error}"))
    page.on("requestfailed", lambda request: faults.append(f"failed: {request.url}"))
    page.on(
        "request",
        lambda request: faults.append(request.url) if not request.url.startswith(("file:", "data:")) else None,
    )
    page.on("dialog", lambda dialog: faults.append(f"dialog: {dialog.message}"))
    page.goto(report.as_uri())
    page.wait_for_selector(".verdicts")
    wait_for_charts(page)
    yield page
    page.wait_for_timeout(50)
    assert page.locator("#errors").is_hidden()
    assert faults == []
    context.close()


def wait_for_charts(page: Page) -> None:
    """They are drawn in the frame after the one in which their width is seen."""
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def make_wide(page: Page, width: int, height: int) -> None:
    page.set_viewport_size({"width": width, "height": height})
    page.wait_for_function(f"innerWidth == {width}")
    wait_for_charts(page)


def methods_of(table: Locator, sigma: str) -> list[str]:
    rows = table.locator("tbody tr").filter(has=table.page.locator(f"td.sigma:text-is('{sigma}')"))
    return rows.locator("th").all_inner_texts()


def table_of(page: Page, title: str) -> Locator:
    return page.locator("table.results").filter(has=page.get_by_role("heading", name=re.compile(title)))


def readout_of(chart: Locator) -> dict[str, str]:
    entries = chart.locator(".readout li")
    names, values = entries.locator(".who").all_inner_texts(), entries.locator(".value").all_inner_texts()
    return dict(zip(names, values, strict=True))


def test_the_first_table_sorts_inside_each_sigma(browser: Browser, report: Path, run: Run) -> None:
    rows = [row for row in table_certified_accuracy(run).rows if row.sigma == 0.25]
    with opened(browser, report) as page:
        table = table_of(page, "Certified accuracy")
        assert methods_of(table, "0.25") == [row.title for row in rows]
        header = table.get_by_role("columnheader", name="ACR")
        header.get_by_role("button").click()
        assert header.get_attribute("aria-sort") == "descending"
        by_acr = sorted(rows, key=lambda row: -row.measured["acr"])
        assert methods_of(table, "0.25") == [row.title for row in by_acr]
        page.keyboard.press("Enter")  # the button has the focus
        assert header.get_attribute("aria-sort") == "ascending"
        assert methods_of(table, "0.25") == [row.title for row in reversed(by_acr)]
        assert table.locator("[aria-sort]").count() == 1
        assert table.locator("td.sigma").all_inner_texts() == ["0.25"] * 3 + ["0.50"] * 2
        table.get_by_role("columnheader", name="σ").get_by_role("button").press("Space")
        assert methods_of(table, "0.25") == [row.title for row in rows]


def test_the_seeds_of_a_mean_are_there(browser: Browser, report: Path, run: Run) -> None:
    row = next(row for row in table_certified_accuracy(run).rows if row.seeds)
    with opened(browser, report) as page:
        seeds = table_of(page, "Certified accuracy").locator("details.seeds").first
        seeds.locator("summary").press("Enter")
        assert all(f"{value:.3f}" in seeds.inner_text() for value in row.seeds["acr"])


@pytest.mark.parametrize("how", ["pointer", "keys"])
def test_the_readout_is_certified_accuracy(browser: Browser, report: Path, run: Run, how: str) -> None:
    titles = dict(zip(run.trials["title"], run.trials["method"], strict=True))
    with opened(browser, report, viewport={"width": 1200, "height": 800}) as page:
        for place, sigma in enumerate((0.25, 0.5)):
            chart = page.locator("#curves .chart").nth(place)
            handle = chart.locator(".handle")
            if how == "pointer":
                handle.scroll_into_view_if_needed()
                box = handle.bounding_box()
                assert box is not None
                page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + box["height"] / 2)
            else:
                handle.focus()
                for key in ("Home", "PageUp", "PageUp", "ArrowRight", "ArrowRight", "ArrowLeft"):
                    page.keyboard.press(key)
            where = chart.locator(".readout p").inner_text()
            radius = float(where.removeprefix("radius "))
            largest = float(handle.get_attribute("aria-valuemax") or "nan")
            assert radius == pytest.approx((0.4 if how == "pointer" else 0.1) * largest, rel=0.05)
            assert handle.get_attribute("aria-valuetext") == where
            shown = readout_of(chart)
            at_sigma = run.certificates[run.certificates["sigma"] == sigma]
            assert {titles[title] for title in shown} == set(at_sigma["method"])
            for title, value in shown.items():
                rows = at_sigma[at_sigma["method"] == titles[title]]
                seeds = [certified_accuracy(own, radius) for _, own in rows.groupby("trial_id")]
                assert value == f"{100 * np.mean(seeds):.1f} %"


def test_a_toggle_hides_a_method_in_all_charts(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        lines = page.locator("path.line[data-method=generalised_ld]")
        assert lines.count() == 9  # two σ: certified accuracy, p_A, training accuracy, loss; the best of both
        toggle = page.get_by_role("button", name="Ours", exact=True)
        assert toggle.get_attribute("aria-pressed") == "true"
        toggle.press("Space")
        assert toggle.get_attribute("aria-pressed") == "false"
        assert lines.count() == 0
        assert page.locator("path.line[data-method=gaussian]").count() == 9
        assert all("Ours" not in readout_of(chart) for chart in page.locator(".chart:has(.readout)").all())
        assert "Ours" not in page.locator("#cost .plot").first.inner_text()
        toggle.click()
        assert lines.count() == 9
        assert page.locator(".band").count() == 0
        page.get_by_role("button", name="bands").click()
        assert page.locator(".band").count() == 7  # five of the test images; two of the seeds of one method


@pytest.mark.parametrize("image", [3, 57])
def test_the_explorer_shows_the_numbers_of_an_image(browser: Browser, report: Path, run: Run, image: int) -> None:
    with opened(browser, report) as page:
        page.get_by_label("Image", exact=True).fill(str(image))
        page.keyboard.press("Tab")
        assert page.locator(".about h4").inner_text() == f"Image {image}"
        for row in run.certificates[run.certificates["index"] == image].to_dict("records"):
            cells = page.locator(f"tr[data-trial='{row['trial_id']}'] td")
            assert_verdict(row, cells)


def assert_verdict(row: dict[Any, Any], cells: Locator) -> None:
    outcome, radius, p_lower, copies, counts = cells.all_inner_texts()
    if row["status"] == "misclassified":
        assert outcome == f"misclassified as {CIFAR10[int(row['selected'])]}; nothing estimated"
        assert (radius, p_lower, copies, counts) == ("–",) * 4
        return
    assert outcome.startswith("certified" if row["status"] == "certified" else "abstains")
    assert row["predicted"] < 0 or outcome.endswith(CIFAR10[row["predicted"]])
    assert (radius.strip(), p_lower) == (f"{row['radius']:.4f}", f"{row['p_lower']:.6f}")
    assert int(copies.replace("\u00a0", "")) == row["n"]
    if row["counts"] is None:
        assert counts == "counts unknown"
    else:
        said = cells.last.locator("svg").get_attribute("aria-label") or ""
        expected = [f"{name} {count}" for name, count in zip(CIFAR10, row["counts"], strict=True)]
        assert said.replace("\u00a0", "").split(", ") == expected


def test_the_explorer_filters_and_orders(browser: Browser, report: Path, run: Run) -> None:
    rows = run.certificates
    certifiers = rows.groupby("index")["correct"]
    some = certifiers.any() & ~certifiers.all()
    right = (rows["radius"] * rows["correct"]).groupby([rows["index"], rows["sigma"]])
    disagreement = (right.max() - right.min()).groupby("index").max()[some]
    with opened(browser, report) as page:
        status, heading = page.locator("#images [role=status]"), page.locator(".about h4")
        page.get_by_label("Which").select_option("some")
        assert status.inner_text() == f"1 of {some.sum()} images."
        page.get_by_label("Order").select_option("disagreement")
        assert heading.inner_text() == f"Image {disagreement.idxmax()}"
        page.get_by_role("button", name="Next").click()
        assert heading.inner_text() == f"Image {disagreement.sort_values(ascending=False, kind='stable').index[1]}"
        page.get_by_role("button", name="Previous").click()
        assert heading.inner_text() == f"Image {disagreement.idxmax()}"
        label = int(rows["label"].iloc[0])
        page.get_by_label("Which").select_option("all")
        page.get_by_label("Label").select_option(str(label))
        assert status.inner_text() == f"1 of {rows.loc[rows['label'] == label, 'index'].nunique()} images."
        page.get_by_label("Image", exact=True).fill("4")
        page.keyboard.press("Enter")
        assert "Image 4 is not among those certified" in status.inner_text()
        assert heading.inner_text() == "Image 3"


def shows_the_image(page: Page, place: int) -> None:
    """Waits until the picture is that of the image."""
    look = """colour => {
        const copy = new OffscreenCanvas(32, 32).getContext('2d');
        copy.drawImage(document.querySelector('canvas.thumbnail'), 0, 0);
        const pixel = copy.getImageData(16, 16, 1, 1).data;
        return colour.every((value, channel) => Math.abs(pixel[channel] - value) <= 8);
    }"""
    page.wait_for_function(look, arg=[int(value) for value in colour_of(place)])


def test_the_picture_is_that_of_the_image(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        for place in (0, 21):
            page.get_by_label("Image", exact=True).fill(str(3 * place))
            page.keyboard.press("Enter")
            shows_the_image(page, place)
        page.get_by_label("Image", exact=True).fill(str(3 * (IMAGES - 1)))
        page.keyboard.press("Enter")
        page.locator("canvas.thumbnail").wait_for(state="hidden")  # it has no picture


def test_light_and_dark(browser: Browser, report: Path) -> None:
    def background(page: Page) -> float:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return float(np.mean([int(part) for part in re.findall(r"\d+", colour)][:3]))

    with opened(browser, report, color_scheme="light") as page:
        assert background(page) > 240
        button = page.get_by_role("button", name="Dark theme")
        button.click()
        assert background(page) < 40
        assert page.get_by_role("button", name="Light theme").is_visible()
        page.emulate_media(color_scheme="dark")
        page.get_by_role("button", name="Light theme").click()
        assert background(page) > 240
    with opened(browser, report, color_scheme="dark") as page:
        assert background(page) < 40


def test_a_phone_needs_no_sideways_scrolling(browser: Browser, report: Path) -> None:
    with opened(browser, report, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True) as page:
        # Not innerWidth, which grows with a page that is too wide.
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        make_wide(page, 740, 360)
        page.wait_for_function("document.documentElement.scrollWidth <= 740")


def test_the_tab_key_reaches_every_kind_of_control(browser: Browser, report: Path) -> None:
    describe = """() => {
        const node = document.activeElement;
        const name = node.className || node.id || node.tagName;
        return [name, node.closest('section, header, .toolbar')?.id ?? '', getComputedStyle(node).outlineStyle];
    }"""
    with opened(browser, report) as page:
        reached = []
        for _ in range(250):
            page.keyboard.press("Tab")
            reached.append(page.evaluate(describe))
            if reached[-1][0] == "BODY":
                break
        names = {(name, where) for name, where, _ in reached}
        assert reached[0][0] == "skip"
        assert {
            ("theme", ""),
            ("BUTTON", "tables"),
            ("handle", "curves"),
            ("scroll", "tables"),
            ("SELECT", "images"),
        } <= names
        assert {("INPUT", "images"), ("BUTTON", "images")} <= names
        assert all(outline != "none" for name, _, outline in reached if name != "BODY")


def test_headings_descend_one_by_one_and_controls_have_names(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(node => +node.tagName[1])")
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))
        for role in ("button", "combobox", "spinbutton", "slider", "region", "img", "table"):
            nodes = page.get_by_role(role)
            assert nodes.count() > 0
            named = page.get_by_role(role, name=re.compile(r"\S"))
            assert named.count() == nodes.count(), role


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of one σ."""
    cells = tuple(cell for cell in CELLS if cell[1] == 0.25)
    return write(random_run(IMAGES, cells), tmp_path_factory.mktemp("single") / "report.html")


def test_epochs_are_whole(browser: Browser, tmp_path: Path) -> None:
    run = random_run(8)
    for epochs in (1, 2, 3, 6):
        few = replace(run, epochs=run.epochs[run.epochs["epoch"] < epochs])
        report = write(few, tmp_path / f"{epochs}.html", tables=[])
        with opened(browser, report, viewport={"width": 1400, "height": 800}) as page:
            ticks = page.locator("#training .plot").first.locator("text.tick[text-anchor=middle]").all_text_contents()
            assert ticks
            assert set(ticks) <= {str(epoch) for epoch in range(1, epochs + 1)}


def test_one_chart_stands_beside_another_where_there_is_one_sigma(browser: Browser, report: Path, single: Path) -> None:
    def places(page: Page, section: str) -> list[tuple[float, float]]:
        found: list[tuple[float, float]] = page.locator(f"#{section} .plot").evaluate_all(
            "nodes => nodes.map(node => [node.getBoundingClientRect().x, node.getBoundingClientRect().y])"
        )
        return found

    with opened(browser, single, viewport={"width": 1280, "height": 800}) as page:
        for section in ("curves", "training"):
            (left, top), (right, beside) = places(page, section)
            assert right > left + 400
            assert abs(top - beside) < 2
        plot, list_ = page.locator("#cost .plot").bounding_box(), page.locator("#cost .readout").bounding_box()
        assert plot is not None
        assert list_ is not None
        assert list_["x"] > plot["x"] + 400
        make_wide(page, 600, 800)
        (left, top), (right, below) = places(page, "curves")
        assert abs(left - right) < 2
        assert below > top + 200
    with opened(browser, report, viewport={"width": 1280, "height": 800}) as page:
        assert len({y for _, y in places(page, "curves")}) == 3  # σ beside σ, and the best of both between


def test_marks_of_another_setting_are_grey_and_say_why(browser: Browser, report: Path, tmp_path: Path) -> None:
    with opened(browser, report) as page:
        marks = page.locator("#curves circle.published")
        assert marks.count() == page.locator("#curves circle.published.apart").count() > 0
        assert (
            "published for another setting, since here the network is not ResNet-110"
            in page.locator("#curves").inner_text()
        )
        assert "for another setting" in page.locator("#curves .readout").first.inner_text()
    run = random_run(IMAGES)
    run = replace(run, trials=run.trials.assign(model="resnet110"))
    same = write(run, tmp_path / "same.html", tables=[table_certified_accuracy(run)])
    with opened(browser, same) as page:
        assert page.locator("#curves circle.published").count() > 0
        assert page.locator("#curves circle.published.apart").count() == 0
        assert "another setting" not in page.locator("#curves").inner_text()


def test_the_grid_can_be_copied(browser: Browser, tmp_path: Path) -> None:
    run = random_run(8)
    grid = {"methods": ["gaussian"], "sigmas": [0.25], "data": "synthetic", "train": {"epochs": 3}}
    description = run.descriptions[0].model_copy(update={"grid": grid})
    report = write(replace(run, descriptions=(description,)), tmp_path / "report.html", tables=[])
    with opened(browser, report) as page:
        page.get_by_role("button", name="Copy").click()
        page.locator("#settings").get_by_role("status").filter(has_text=re.compile(r"Copied|Selected")).wait_for()
        assert tomllib.loads(page.evaluate("String(getSelection())")) == grid


def test_paper_is_white_and_no_chart_or_table_is_wider(browser: Browser, report: Path, single: Path) -> None:
    for page_file in (report, single):
        with opened(browser, page_file, viewport={"width": 1280, "height": 800}, color_scheme="dark") as page:
            page.get_by_role("button", name="Light theme").click()
            page.get_by_role("button", name="Dark theme").click()
            page.emulate_media(media="print")
            make_wide(page, 703, 1000)  # A4 without its margins
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(253, 253, 252)"
            wide = page.locator("table:visible, svg:visible, pre:visible, img:visible, p:visible").evaluate_all(
                "nodes => nodes.filter(node => node.getBoundingClientRect().right > 704).map(node => node.outerHTML)"
            )
            assert wide == []
            headings = page.locator("table.results").first.locator("thead th")
            assert headings.nth(2).inner_text() == "ACR"
            assert page.locator("table.results button:visible").count() == 0  # which are not repeated on the next sheet


AXE = Path(os.environ.get("AXE_CORE", "node_modules/axe-core/axe.min.js"))


@pytest.mark.skipif(not AXE.exists(), reason="no axe-core: npm install --no-save axe-core, or AXE_CORE names its file")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_nothing(browser: Browser, report: Path, scheme: Any, width: int) -> None:
    with opened(browser, report, viewport={"width": width, "height": 800}, color_scheme=scheme) as page:
        page.evaluate(AXE.read_text(encoding="utf-8") + "; window.axe = axe; 0")
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        assert len(found["passes"]) > 20
        assert [(fault["id"], [node["html"] for node in fault["nodes"]]) for fault in found["violations"]] == []


def test_hostile_text_is_shown_as_text(browser: Browser, tmp_path: Path) -> None:
    run = random_run(8, title=HOSTILE, dataset=HOSTILE, command=HOSTILE)
    with opened(browser, write(run, tmp_path / "report.html")) as page:
        assert page.locator("img").count() == 0
        shown = table_of(page, "Certified accuracy").locator("th[scope=row]").first.text_content()
        assert shown == HOSTILE
        assert page.get_by_role("heading", level=1).text_content() == f"resnet20 on {HOSTILE}"


def test_an_error_is_seen(browser: Browser, report: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    text = report.read_text(encoding="utf-8")
    broken.write_text(re.sub(r'(id="certificates">)[^<]{40}', r"\1", text), encoding="utf-8")
    page = browser.new_page()
    page.set_default_timeout(0)
    page.goto(broken.as_uri())
    page.locator("#errors").wait_for(state="visible")
    assert "This page has a fault" in page.locator("#errors").inner_text()
    page.close()
