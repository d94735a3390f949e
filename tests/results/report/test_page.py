"""What is in the file, without a browser; tests/results/report/test_page_in_browser.py opens it in one."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import ArrayLike
from PIL import Image

from results import average_certified_radius, certified_accuracy, compare
from results.analysis.comparison import leads
from results.analysis.groups import Group, certified_groups, setting_of
from results.report.page import Picture, write_page
from results.report.page.charts import POINTS, radius_step
from results.report.page.images import STATUSES
from results.report.page.words import _best, _chance, summary, verdict
from results.report.subject import Subject
from results.report.table import Column, ResultTable, Row
from results.report.tables import table_certified_accuracy
from results.store.run import Run
from tests.results.report.pages import CELLS, HOSTILE, NO_THUMBNAILS, Parts, colour_of, random_run, thumbnails, write


@pytest.fixture(scope="module")
def run() -> Run:
    return random_run()


@pytest.fixture(scope="module")
def page(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """Of that run."""
    return Parts(write(run, tmp_path_factory.mktemp("page") / "report.html", thumbnails(3)))


def test_packed_certificates_are_those_of_the_run(tmp_path: Path) -> None:
    whole = random_run(imported=(("log", 0.25, 0),))
    run = replace(whole, certificates=whole.certificates.drop(index=5))  # one trial lacks an image
    parts = Parts(write(run, tmp_path / "report.html", tables=[]))
    packed = gzip.decompress(base64.b64decode(parts.data("certificates")))

    def array(place: dict[str, Any]) -> np.ndarray[Any, Any]:
        return np.frombuffer(packed, np.dtype(place["type"]), place["length"], place["offset"])

    [dataset] = parts.content["images"]
    index, label = array(dataset["index"]), array(dataset["label"])
    assert len(dataset["trials"]) == run.certificates["trial_id"].nunique()
    for trial in dataset["trials"]:
        rows = run.certificates[run.certificates["trial_id"] == trial["trial"]]
        at = np.searchsorted(index, rows["index"])
        assert (np.delete(array(trial["status"]), at) == 0).all()
        assert (label[at] == rows["label"]).all()
        assert [STATUSES[code] for code in array(trial["status"])[at]] == rows["status"].tolist()
        for name in ("radius", "p_lower", "predicted", "n"):
            assert (array(trial[name])[at] == rows[name]).all()
        assert (array(trial["selected"])[at] == rows["selected"].fillna(-1)).all()
        if trial["counts"] is None:
            assert trial["trial"].startswith("log")
        else:
            counts = array(trial["counts"]).reshape(len(index), trial["num_classes"])
            assert counts[at].tolist() == [list(row) for row in rows["counts"]]


def test_lines_are_the_metric_at_every_radius(run: Run, page: Parts) -> None:
    panels = page.content["charts"]["certified"]
    for group in certified_groups(run):
        panel = next(panel for panel in panels if panel["title"] == f"σ = {group.sigma:g}")
        line = next(line for line in panel["lines"] if line["method"] == group.method)
        for place, value in enumerate(line["values"]):
            radius = round(place * panel["step"], 12)
            expected = np.mean([certified_accuracy(rows, radius) for rows in group.seeds])
            assert value == pytest.approx(100 * expected, abs=0.0501)
        assert line["values"][-1] == 0
        half = 100 * math.sqrt(math.log(2 * len(group.seeds) / 0.05) / 2 / group.certificates["index"].nunique())
        assert np.allclose(line["lower"], np.maximum(np.array(line["values"]) - half, 0), atol=0.101)
        assert np.allclose(line["upper"], np.minimum(np.array(line["values"]) + half, 100), atol=0.101)


@pytest.mark.parametrize("largest", [1e-4, 0.25, 0.953, 1.0, 1.906, 3.81, 381.0])
def test_the_step_of_radii_is_round_and_fine_enough(largest: float) -> None:
    step = radius_step(largest)
    assert largest / POINTS <= step < 2.6 * largest / POINTS
    assert round(100 / step) * step == pytest.approx(100)


def test_text_of_the_run_stays_text(tmp_path: Path) -> None:
    run = random_run(title=HOSTILE, dataset=HOSTILE, command=HOSTILE)
    parts = Parts(write(run, tmp_path / "report.html", thumbnails(4, HOSTILE)))
    assert not any(tag == "img" for tag, _ in parts.tags)
    assert not any(name.startswith("on") for _, attributes in parts.tags for name in attributes)
    assert parts.text.count("<script") == parts.text.count("</script>") == len(parts.scripts)
    assert not any("\u2028" in script for _, script in parts.scripts)
    assert parts.content["tables"][0]["rows"][0]["title"] == HOSTILE
    assert parts.content["images"][0]["name"] == HOSTILE


def test_nothing_is_loaded_and_no_other_script_may_run(page: Parts) -> None:
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:,"))
    [policy] = [meta["content"] or "" for tag, meta in page.tags if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none';")
    running = [text for attributes, text in page.scripts if "type" not in attributes]
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in running]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    assert f"script-src {allowed};" in policy
    assert "@import" not in page.text


def test_equal_runs_give_equal_pages(tmp_path: Path) -> None:
    first, second = (write(random_run(), tmp_path / name, thumbnails(40)) for name in ("one.html", "two.html"))
    assert first.read_bytes() == second.read_bytes()


def test_a_page_is_small(tmp_path: Path) -> None:
    images, pictures = 1500, 1100
    path = write(random_run(images), tmp_path / "report.html", thumbnails(pictures))
    # With 450 bytes for each photograph, 12 trials of 10 000 images stay below 10 MB.
    assert path.stat().st_size < 300_000 + 40 * images * len(CELLS)


def test_tiles_hold_the_thumbnails(tmp_path: Path) -> None:
    count = 1100  # more than a sheet
    parts = Parts(write(random_run(), tmp_path / "report.html", thumbnails(count), tables=[]))
    tiles = parts.content["tiles"]["cifar10"]
    assert tiles["index"] == [3 * place for place in range(count)]
    sheets = [Image.open(io.BytesIO(base64.b64decode(parts.data(name)))) for name in tiles["sheets"]]
    for place in (0, 39, 40, 999, 1000, 1099):
        within = place % tiles["tiles"]
        left, top = within % tiles["columns"] * tiles["pitch"], within // tiles["columns"] * tiles["pitch"]
        tile = sheets[place // tiles["tiles"]].crop((left, top, left + tiles["size"], top + tiles["size"]))
        assert np.asarray(tile).mean(axis=(0, 1)) == pytest.approx(colour_of(place), abs=4)


def test_pages_of_runs_that_lack_things(tmp_path: Path) -> None:
    imported = Parts(write(random_run(cells=(), imported=(("log", 0.25, 0),)), tmp_path / "imported.html")).content
    assert imported["images"][0]["trials"][0]["counts"] is None
    assert imported["charts"]["accuracy"] == imported["charts"]["cost"] == []
    assert any("Imported certificates" in sentence for sentence in imported["caveats"])
    whole = random_run()
    abstained: dict[str, Any] = {
        "radius": 0.0,
        "p_lower": 0.0,
        "predicted": -1,
        "correct": False,
        "status": "abstained",
    }
    run = replace(whole, certificates=whole.certificates.assign(**abstained))
    write_page(run, [table_certified_accuracy(run)], NO_THUMBNAILS, tmp_path / "abstained.html")
    charts = Parts(tmp_path / "abstained.html").content["charts"]
    assert all(line["values"] == [0.0] * len(line["values"]) for line in charts["certified"][0]["lines"])


def test_settings_say_what_differs_and_whose_it_is(tmp_path: Path) -> None:
    content = Parts(write(random_run(title="First"), tmp_path / "report.html", tables=[])).content["settings"]
    assert content["shared"] == [["dataset", "cifar10"]]
    assert content["differing"] == [{"key": "options.of", "values": [["First", "First"], ["Gaussian", "Gaussian"]]}]


def test_a_picture_is_in_the_page_with_its_words(run: Run, page: Parts, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    pictures = [Picture("First", "what it shows", b"png 1"), Picture(HOSTILE, HOSTILE, b"png 2")]
    write_page(run, [table_certified_accuracy(run)], NO_THUMBNAILS, path, pictures)
    parts = Parts(path)
    assert parts.content["pictures"][0] == {"title": "First", "words": "what it shows"}
    assert parts.content["pictures"][1]["title"] == HOSTILE
    assert [base64.b64decode(parts.data(f"picture-{place}")) for place in (0, 1)] == [b"png 1", b"png 2"]
    assert page.content["pictures"] == []


def test_a_page_says_what_is_missing(page: Parts) -> None:
    content = page.content
    assert any("a-trial-that-is-not-finished" in sentence for sentence in content["caveats"])
    assert ["Trials", "6 finished, 1 not finished"] in content["summary"]["facts"]


@pytest.mark.parametrize("other", ["n", "images", "estimator", "arithmetic"])
@pytest.mark.parametrize("place", [0, 2])
def test_the_largest_acr_is_among_those_that_compare(other: str, place: int) -> None:
    """Wherever one stands that does not, as a log of another n, other images, another estimator or arithmetic."""
    radii = np.random.default_rng(0).gamma(2, 0.25, (3, 100))
    radii[place] += 1
    groups = groups_with(radii)
    group = groups[place]
    if other == "n":
        group.trials["n"] = 100_000
    elif other == "images":
        group.certificates["index"] += 100
    elif other == "estimator":
        group.certificates["estimator"] = "two-stage"
    else:
        group.certificates["lattice_pixels"] = 3072
    [lead] = leads(groups)
    ahead, behind = (groups[number].method for number in sorted({0, 1, 2} - {place}, key=lambda k: -radii[k].mean()))
    assert (lead.best.method, lead.next and lead.next.method, lead.others) == (ahead, behind, 1)
    rows = [Row(0.25, name, name, {"acr": own.mean()}) for name, own in zip("abc", radii, strict=True)]
    table = ResultTable("certified_accuracy", "", [Column("acr", "ACR", 3, "max")], rows, [], [])
    [card] = _best([table], [lead])
    assert (card["title"], card["aside"]) == (ahead, "(1 of another setting not counted)")
    [card] = _best([table], [replace(lead, others=0)])
    assert card["aside"] == ""
    [said] = verdict([lead])[:1]
    assert f"{ahead} has the largest ACR, " in said
    assert "(1 of another setting not counted)" in said
    assert setting_of(group, "n") != setting_of(groups[1], "n")


def with_radii(run: Run, method: str, sigma: float, factor: float) -> Run:
    """The run with the radii of a method at a σ so many times as large."""
    rows = run.certificates
    own = (rows["method"] == method) & (rows["sigma"] == sigma)
    return replace(run, certificates=rows.assign(radius=rows["radius"].where(~own, factor * rows["radius"])))


def test_two_sentences_say_who_is_best_by_how_much_and_whether_by_chance() -> None:
    run = random_run(200, cells=tuple(cell for cell in CELLS if cell[2] == 0))
    run = with_radii(run, "generalised_ld", 0.25, 3.0)
    first, second = summary(Subject(run), [])["verdict"]
    acrs = {(group.sigma, group.title): average_certified_radius(group.certificates) for group in certified_groups(run)}
    assert acrs[0.25, "Ours"] > 2 * acrs[0.25, "Gaussian"]
    ahead = acrs[0.25, "Ours"] - acrs[0.25, "Gaussian"]
    assert first.startswith(
        f"At σ = 0.25 Ours has the largest ACR, {acrs[0.25, 'Ours']:.3f}: {ahead:.3f} (95\u00a0% interval "
    )
    assert " above Gaussian; at σ = 0.5 " in first
    assert second.startswith("At σ = 0.25 that is more than chance explains (p < 0.0001), and at σ = 0.5 that is ")
    assert "on 200 test images, corrected for all pairs of methods; each was trained once" in second
    # The page of `bench compare`, but for the correction: two pairs.
    table = compare(run)
    for lead in leads(certified_groups(run)):
        row = table[(table["sigma"] == lead.sigma) & (table["quantity"] == "acr")].iloc[0]
        assert lead.p_value == pytest.approx(min(1.0, 2 * row["p_value"]))
        assert abs(lead.difference) == pytest.approx(abs(row["difference"]))
    both = replace(run, certificates=run.certificates[run.certificates["method"] == "gaussian"])
    both = replace(both, trials=both.trials[both.trials["method"] == "gaussian"])
    [alone] = summary(Subject(both), [])["verdict"]
    assert alone.startswith("At σ = 0.25 Gaussian is alone, with ACR")


def groups_with(radii: ArrayLike) -> list[Group]:
    """Groups a, b, … of one σ with these radii, (groups, images)."""
    groups = []
    for name, own in zip("abcdef", np.asarray(radii), strict=False):
        rows = pd.DataFrame({"trial_id": name, "label": 0, "correct": True, "estimator": "fixed", "radius": own})
        rows["lattice_pixels"] = np.nan
        trial = {"trial_id": name, "method": name, "sigma": 0.25, "dataset": "d", "images": len(own)}
        trials = pd.DataFrame([trial | {"n": 9, "n0": 9, "alpha": 0.1}])
        groups.append(Group(0.25, name, name, rows.assign(index=range(len(own))), trials))
    return groups


def test_equal_methods_are_told_apart_by_chance_in_one_of_twenty_pages() -> None:
    told = 0
    for repeat in range(40):
        radii = np.random.default_rng(repeat).gamma(2, 0.25, (6, 100))
        [lead] = leads(groups_with(radii))
        told += lead.p_value < 0.05
        [lead] = leads(groups_with(radii + 0.4 * (np.arange(6) == repeat % 6)[:, None]))
        assert lead.p_value < 0.05  # and a method that is better is told from them
        assert lead.best.method == "abcdef"[repeat % 6]
    assert told <= 5  # of 40 with one of twenty each: more than that in one of a hundred


@pytest.mark.parametrize("differing", [2, 100])
def test_too_few_images_decide_nothing(differing: int) -> None:
    """Where few differ, or all by as much, there is no test."""
    first = np.full(100, 0.5)
    [lead] = leads(groups_with([first, first - 0.1 * (np.arange(100) < differing)]))
    assert math.isnan(lead.p_value)
    assert _chance(lead) == "on too few images to tell it from chance"


def test_published_points_of_another_setting_are_greyed_with_the_reason(run: Run, page: Parts, tmp_path: Path) -> None:
    grey = page.content["charts"]["certified"][0]["lines"]
    assert all(line["apart"] == ["the network is not ResNet-110"] for line in grey if line["points"])

    def certified(run: Run) -> list[dict[str, Any]]:
        path = write(run, tmp_path / "report.html", tables=[table_certified_accuracy(run)])
        lines: list[dict[str, Any]] = Parts(path).content["charts"]["certified"][0]["lines"]
        return lines

    same = replace(run, trials=run.trials.assign(model="resnet110"))
    lines = certified(same)
    assert [line["points"] for line in lines] == [line["points"] for line in grey]
    assert any(line["points"] for line in lines)
    assert all(line["apart"] == [] for line in lines)
    copy = replace(
        same,
        certificates=same.certificates.assign(dataset="cifar10-jpeg@1"),
        trials=same.trials.assign(dataset="cifar10-jpeg@1", n=1000),
    )
    [reasons] = {tuple(line["apart"]) for line in certified(copy)}
    assert len(reasons) == 2
