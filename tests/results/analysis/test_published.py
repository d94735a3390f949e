from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from results.analysis import published
from results.bounds.radius import largest_radius

REFERENCE = Path(__file__).parents[4] / "shared" / "reference"
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="the sources are not part of the repository")


def test_numbers_are_as_printed() -> None:
    assert published.reference()[0.5, "generalised_ld"]["r1.75"] == 23.5
    assert published.costs()[0.25, "macer"] == {
        "acr": 0.449, "accuracy_percent": 71.4, "memory_gb": 9.4, "runtime_hours": 7.6,
    }  # fmt: skip
    assert published.costs()[0.25, "ensemble"]["acr"] == 0.532
    assert published.reference("zhai2020")[0.25, "macer"]["acr"] == 0.556


def test_every_source_has_numbers_and_a_citation() -> None:
    assert set(published.published_numbers()["source"]) == set(published.SOURCES)
    for name, source in published.SOURCES.items():
        assert published.reference(name)
        assert source.citation
        assert source.setting


def test_what_is_said_of_the_thesiss_numbers_follows_from_them_and_is_said_once() -> None:
    sentences = [*published.ACCURACY_NOTES, *published.COST_NOTES]
    assert len(set(sentences)) == len(sentences)
    said = " ".join(sentences)
    numbers, costs = published.reference(), published.costs()
    ours, theirs, ensemble = (numbers[0.5, name] for name in ("generalised_ld", "consistency", "ensemble"))
    assert f"is {ours['r0.00'] - theirs['r0.00']:.1f} at" in said
    assert f"ACR gains {ours['acr'] - theirs['acr']:.3f}" in said
    assert f"is {numbers[0.25, 'generalised_ld']['acr'] - numbers[0.25, 'consistency']['acr']:.3f} by" in said
    hours = costs[0.25, "generalised_ld"]["runtime_hours"] / costs[0.25, "ensemble"]["runtime_hours"]
    assert f"= {100 * hours:.0f} %" in said
    assert numbers[0.25, "ensemble"]["r0.50"] > numbers[0.25, "generalised_ld"]["r0.50"]
    assert [key for key, value in ensemble.items() if value > ours[key]] == ["r1.00", "r1.25"]
    assert [key for key, value in theirs.items() if value > ours[key]] == ["r1.75"]
    for sigma, best in ((0.25, "gaussian_ld"), (0.5, "gaussian")):
        accuracies = {name: row["r0.00"] for (at, name), row in numbers.items() if at == sigma}
        assert max(accuracies, key=accuracies.__getitem__) == best
    topics = (
        "0.535 0.34 24.3 MNIST 0.556 seeds σ²/10 5-fold 2.6 3.3 3.4 0.627 4.1 centre 38 0.5\u00a0h approximated 55.4"
    )
    missing = [word for word in topics.split(" ") if word.replace("\u00a0", " ") not in said]
    assert missing == []


def test_what_is_said_of_logs_follows_from_them() -> None:
    rows = published.published_numbers()
    smoothmix = rows[(rows["source"] == "jeong2021_logs") & (rows["variant"] != "")].set_index("sigma")["acr"]
    said = " ".join(published.SOURCES["jeong2021_logs"].notes)
    assert f"{smoothmix[0.5]:.3f} there and {smoothmix[0.25]:.3f} at 0.25" in said
    largest = rows[rows["source"] == "aces2022_logs"].groupby("sigma")["largest_radius"].max()
    assert largest[0.25] == round(float(largest_radius(100_000, 0.0005, 0.25)), 3)
    by_others = rows[(rows["method"] == "gaussian") & (rows["sigma"] == 0.25)].set_index("source")["acr"]
    assert published.SOURCES["sun2025_logs"].setting.endswith("Gaussian with four noise samples")
    assert by_others["sun2025_logs"] > by_others["jeong2023_logs"] + 0.05  # which has one


def test_a_reference_is_of_one_recipe() -> None:
    rows = published.published_numbers()
    plain = (rows["variant"] == "") & (rows["network"] == "resnet110") & (rows["trained_sigma"] == rows["sigma"])
    assert not rows[plain].duplicated(["source", "method", "sigma"]).any()
    assert published.reference("jeong2020_logs")[0.25, "consistency"]["acr"] == 0.5519  # λ = 20, not 10


@needs_reference
def test_all_published_logs_are_there_digit_by_digit() -> None:
    theirs = pd.read_csv(REFERENCE / "published_logs.csv").sort_values("path", ignore_index=True)
    ours = published.published_numbers()
    ours = ours[ours["source"].str.endswith("_logs")].sort_values("where", ignore_index=True)
    assert ours["where"].tolist() == theirs["path"].tolist()
    same = {"acr": "acr", "sigma": "certify_sigma", "images": "n_rows", "largest_radius": "max_radius"}
    same |= {"network": "arch"} | {name: name for name in published.RADIUS_COLUMNS}
    for name, column in same.items():
        assert ours[name].tolist() == theirs[column].tolist(), name


@needs_reference
def test_the_thesis_and_the_papers_are_there_cell_by_cell() -> None:
    for number, found in (("5_1", published.reference()), ("5_2", published.costs())):
        for row in pd.read_csv(REFERENCE / f"thesis_table_{number}.csv").to_dict("records"):
            method = row.pop("method")
            cell = found[row.pop("sigma"), "generalised_ld" if method == "ours" else method]
            assert cell == row
    printed = pd.read_csv(REFERENCE / "published_tables.csv", dtype={"sigma": str})
    printed = printed[(printed["sigma"] != "best") & ~printed["source"].str.contains("commented-out")]
    ours = published.published_numbers()
    for part, source in (("RuntianZ", "zhai2020"), ("Sun", "sun2025"), ("locuslab", "cohen2019")):
        theirs = printed[printed["source"].str.startswith(part)]
        for name in ("acr", *published.RADIUS_COLUMNS):
            expected, there = theirs[name].dropna(), ours.loc[ours["source"] == source, name].dropna()
            assert sorted(there) == sorted(expected), (source, name)
