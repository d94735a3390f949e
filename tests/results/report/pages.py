"""Runs in memory, their pages, and what a page consists of."""

from __future__ import annotations

import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from results.bounds.radius import certified_radius, lower_confidence_bound
from results.report.page import write_page
from results.report.table import ResultTable
from results.report.tables import tables_of
from results.store.records import RunRecord
from results.store.run import Run
from results.store.schema import CERTIFICATES, EPOCHS, THUMBNAILS, TRIALS

N, ALPHA = 100_000, 0.001
HOSTILE = '</script><img src=x onerror="alert(1)">\u2028{{script}}<!--'
NO_THUMBNAILS = THUMBNAILS.empty_table().to_pandas()
Cell = tuple[str, float, int]
"""Method, σ, seed."""
CELLS: tuple[Cell, ...] = (
    ("generalised_ld", 0.25, 0), ("gaussian", 0.25, 0), ("gaussian", 0.25, 1),
    ("generalised_ld", 0.5, 0), ("gaussian", 0.5, 0), ("gaussian", 0.5, 1),
)  # fmt: skip


def random_run(images: int = 40, cells: tuple[Cell, ...] = CELLS, imported: tuple[Cell, ...] = (), **texts: str) -> Run:
    """A run in memory, whose counts are multinomial draws of random class probabilities.

    Args:
        imported: cells without counts, as of another program's log.
        texts: `title` of the first cell's method, `dataset`, `command`.
    """
    certificates = [_rows(cell, images, place) for place, cell in enumerate(cells)]
    certificates += [_without_counts(_rows(cell, images, 99)) for cell in imported]
    dataset = texts.get("dataset", "cifar10")
    names = {"generalised_ld": "Ours", "gaussian": "Gaussian", (cells + imported)[0][0]: texts.get("title", "Ours")}
    epochs = [
        {"trial_id": _trial_id(cell), "method": cell[0], "sigma": cell[1], "seed": cell[2], "epoch": epoch}
        | {"learning_rate": 0.1, "loss": 2.0 / (epoch + 1), "noisy_test_accuracy": 0.1 * epoch, "seconds": 1.0}
        for cell in cells
        for epoch in range(4 if cell[0] == "generalised_ld" else 6)
    ]
    trials = [_trial(cell, names.get(cell[0], cell[0]), dataset, images) for cell in cells]
    unknown = ("train_seconds", "workers", "device", "memory_bytes", "member_memory_bytes", "memory_kind")
    trials += [_trial(cell, names.get(cell[0], cell[0]), dataset, images) | dict.fromkeys(unknown) for cell in imported]
    description = RunRecord(trials=[], command=["bench", texts.get("command", "run")], versions={"torch": "2.11"})
    return Run(
        pd.concat(certificates, ignore_index=True).assign(dataset=dataset).reindex(columns=CERTIFICATES.names),
        pd.DataFrame(trials).reindex(columns=TRIALS.names),
        pd.DataFrame(epochs, columns=EPOCHS.names),
        descriptions=(description,),
        missing=("a-trial-that-is-not-finished",),
    )


def thumbnails(images: int, dataset: str = "cifar10") -> pd.DataFrame:
    """Pictures of one colour each, which differs from image to image."""
    rows = []
    for index in range(images):
        file = io.BytesIO()
        Image.new("RGB", (32, 32), colour_of(index)).save(file, "PNG")
        rows.append({"dataset": dataset, "index": 3 * index, "png": file.getvalue()})
    return pd.DataFrame(rows, columns=THUMBNAILS.names)


def write(
    run: Run, path: Path, pictures: pd.DataFrame = NO_THUMBNAILS, tables: list[ResultTable] | None = None
) -> Path:
    """A page with all tables of the run, or with those given: to make them takes longer than all the rest."""
    write_page(run, list(tables_of(run)) if tables is None else tables, pictures, path)
    return path


def _trial_id(cell: Cell) -> str:
    return f"{cell[0]}-sigma{cell[1]:g}-seed{cell[2]}"


def colour_of(index: int) -> tuple[int, int, int]:
    return (index * 37 % 200 + 20, index * 91 % 200 + 20, 128)


def _rows(cell: Cell, images: int, place: int) -> pd.DataFrame:
    random = np.random.default_rng([place, images])
    labels = np.random.default_rng(images).integers(10, size=images)
    weights = 1.5 * random.gumbel(size=(images, 10))
    weights[np.arange(images), labels] += 4 + random.normal(size=images) * 2
    probabilities = np.exp(weights) / np.exp(weights).sum(axis=1, keepdims=True)
    counts = random.multinomial(N, probabilities)
    selected = probabilities.argmax(axis=1)
    skipped = selected != labels
    counts[skipped] = 0
    top = counts[np.arange(images), selected]
    p_lower = np.where(skipped, 0.0, lower_confidence_bound(top, N, ALPHA))
    certified = p_lower >= 0.5
    predicted = np.where(certified, selected, -1)
    return pd.DataFrame(
        {
            "trial_id": _trial_id(cell),
            "method": cell[0],
            "sigma": cell[1],
            "seed": cell[2],
            "split": "test",
            "index": 3 * np.arange(images),
            "label": labels,
            "predicted": predicted,
            "status": np.where(skipped, "misclassified", np.where(certified, "certified", "abstained")),
            "correct": predicted == labels,
            "radius": certified_radius(p_lower, cell[1]),
            "radius_two_sided": np.nan,
            "radius_soft": np.nan,
            "lattice_pixels": np.nan,
            "p_lower": p_lower,
            "selected": selected,
            "count_top": top,
            "n": np.where(skipped, 0, N),
            "n0": 100,
            "alpha": ALPHA,
            "estimator": "fixed",
            "classifier": "network",
            "selection_counts": list(counts),
            "counts": list(counts),
            "soft_weights": None,
            "base_clean": probabilities.argmax(axis=1),
            "base_noisy": selected,
            "seconds": 0.5,
            "joules": np.nan,
            "precision": "fp32",
            "engine": "eager",
            "batch": 64,
            "device": "a machine",
            "device_kind": "cpu",
            "noise": "philox4x64-10/1",
            "noise_seed": 0,
            "torch_version": "2.11",
            "checkpoint_sha256": "0" * 64,
        }
    )


def _without_counts(rows: pd.DataFrame) -> pd.DataFrame:
    status = np.where(rows["predicted"] >= 0, "certified", "abstained")
    return rows.assign(
        status=status, n=N, selected=np.nan, count_top=np.nan, counts=None, estimator="imported", base_clean=np.nan
    )


def _trial(cell: Cell, title: str, dataset: str, images: int) -> dict[str, Any]:
    settings = {"name": cell[0], "sigma": cell[1], "seed": cell[2], "dataset": dataset, "options": {"of": title}}
    return {
        "trial_id": _trial_id(cell),
        "method": cell[0],
        "title": title,
        "sigma": cell[1],
        "seed": cell[2],
        "dataset": dataset,
        "model": "resnet20",
        "n": N,
        "n0": 100,
        "alpha": ALPHA,
        "images": images,
        "members": [],
        "train_seconds": 3600.0 * (1 + cell[2]),
        "train_samples_per_second": 1000.0,
        "memory_bytes": 2_000_000_000,
        "member_memory_bytes": 2_000_000_000,
        "memory_kind": "resident",
        "certify_seconds": 1800.0,
        "certify_samples_per_second": 900.0,
        "workers": 1,
        "device": "a machine",
        "train_precision": "fp32",
        "torch_version": "2.11",
        "checkpoint_sha256": "0" * 64,
        "settings": json.dumps(settings),
    }


class Parts(HTMLParser):
    """The elements of a page, as a browser's parser finds them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)

    def handle_endtag(self, tag: str) -> None:
        self.tags.append((f"/{tag}", {}))

    def data(self, name: str) -> str:
        return next(text for attributes, text in self.scripts if attributes.get("id") == name)

    @property
    def content(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.data("content"))
        return content
