"""`bench audit`: what was altered is found, by a program that shares nothing with the one that wrote it."""

from __future__ import annotations

import ast
import csv
import json
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.special import betaincinv, ndtri
from typer.testing import CliRunner

import bench.cli  # noqa: F401  # which registers the commands
from bench.audit import independent
from bench.audit.independent import AuditError, audit
from bench.cli.base import app
from bench.runner.single import run_single
from results.report.update import update_report
from results.store.folder import RunFolder
from tests.conftest import edit_record, small_trial, without_figures

Rows = list[dict[str, Any]]
SETTINGS = {"n": 400, "n0": 20, "images": 40, "precision": "fp32"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a trained model under each estimator, with certified, abstained and misclassified images."""
    path = tmp_path_factory.mktemp("audited") / "run"
    train = {"epochs": 6, "decay_epochs": [5], "learning_rate": 0.1, "batch": 32, "images": 600, "precision": "fp32"}
    for name, estimator in (("plain", "fixed"), ("staged", "two-stage"), ("anytime", "anytime")):
        certify = SETTINGS | {"estimator": estimator, "beacon": "round-7" if name == "plain" else None}
        trial = small_trial("gaussian", name=name, train=train, certify=certify)
        assert run_single(trial, RunFolder(path), 16)
    with without_figures():
        update_report(RunFolder(path))
    rows = pq.read_table(path / "certificates.parquet")
    assert set(rows["status"].to_pylist()) == {"certified", "abstained", "misclassified"}
    return path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def forge(run: Path, change: Callable[[dict[str, Any]], None], *, status: str = "certified") -> None:
    """Change the first row of that status in certificates.parquet and in its shard alike."""
    table = pq.read_table(run / "certificates.parquet")
    rows: Rows = table.to_pylist()
    row = next(row for row in rows if row["status"] == status)
    place = row["trial_id"], row["index"]
    change(row)
    pq.write_table(pa.Table.from_pylist(rows, table.schema), run / "certificates.parquet")
    for shard in (run / "trials" / place[0] / "shards").glob("*.parquet"):
        kept = pq.read_table(shard)
        if place[1] in kept["index"].to_pylist():
            own = [row if old["index"] == place[1] else old for old in kept.to_pylist()]
            pq.write_table(pa.Table.from_pylist(own, kept.schema), shard)


def bound_of(row: dict[str, Any], alpha: float) -> None:
    """p_lower and radius as another alpha would give them."""
    row["p_lower"] = float(betaincinv(row["count_top"], row["n"] - row["count_top"] + 1, alpha))
    row["radius"] = float(row["sigma"] * ndtri(row["p_lower"]))


def test_a_run_in_order_passes(finished: Path) -> None:
    assert audit(finished) == {"trials": 3, "rows": 120, "imported": 0, "beacons": {"round-7": 1}}
    result = CliRunner().invoke(app, ["audit", str(finished)])
    assert result.exit_code == 0
    assert "120 certificates of 3 trials" in result.output
    assert "by their weights and the beacon round-7 noise is seeded of 1 trial" in " ".join(result.output.split())


def one_more(row: dict[str, Any]) -> None:
    """A count that is moved to the class, with the radius that belongs to it."""
    other = next(place for place, count in enumerate(row["counts"]) if count and place != row["selected"])
    row["counts"][other] -= 1
    row["counts"][row["selected"]] += 1
    row["count_top"] += 1


def one_less(row: dict[str, Any]) -> None:
    """An estimation that was ended although its outcome was open, and the image left out."""
    row["counts"][row["selected"]] -= 1
    row.update(n=row["n"] - 1, count_top=row["count_top"] - 1, status="abstained", radius=0.0, predicted=-1)
    row.update(correct=False, p_lower=0.0)


Forgery = tuple[Callable[[dict[str, Any]], None], str, str]
FORGERIES: dict[str, Forgery] = {
    "radius": (lambda row: row.update(radius=row["radius"] * 1.0001), "certified", "does not follow from"),
    "radius, less": (lambda row: row.update(radius=row["radius"] * 0.999), "certified", "does not follow from"),
    "twice alpha": (lambda row: bound_of(row, 0.002), "certified", "does not follow from"),
    "two-sided bound": (lambda row: bound_of(row, 0.0005), "certified", "does not follow from"),
    "two-sided radius": (
        lambda row: row.update(radius_two_sided=row["radius_two_sided"] * 1.0001),
        "certified",
        "radius_two_sided .* does not follow from counts",
    ),
    "two-sided radius, less": (
        lambda row: row.update(radius_two_sided=row["radius_two_sided"] * 0.999),
        "certified",
        "radius_two_sided .* does not follow from counts",
    ),
    "no two-sided radius": (lambda row: row.update(radius_two_sided=None), "certified", "radius_two_sided = None"),
    "p_lower alone": (lambda row: row.update(p_lower=row["p_lower"] + 1e-6), "certified", "is not that of radius"),
    "a count": (one_more, "certified", "does not follow from"),
    "counts": (lambda row: row["counts"].__setitem__(0, row["counts"][0] + 1), "certified", "are not of"),
    "the class": (lambda row: row.update(predicted=9 - row["predicted"]), "certified", "correct =|predicts"),
    "correct": (lambda row: row.update(correct=not row["correct"]), "certified", "correct ="),
    "the label": (lambda row: row.update(label=(row["label"] + 1) % 10), "certified", "correct ="),
    "n": (lambda row: row.update(n=row["n"] + 1), "certified", "are not of"),
    "n0": (lambda row: row.update(n0=30), "certified", "n0 = 30, its trial has 20"),
    "alpha": (lambda row: row.update(alpha=0.01), "certified", "alpha = 0.01, its trial has 0.001"),
    "sigma": (lambda row: row.update(sigma=0.5), "certified", "sigma = 0.5, its trial has 0.25"),
    "noise": (lambda row: row.update(noise_seed=row["noise_seed"] + 1), "certified", "not that of its weights and the"),
    "seed": (lambda row: row.update(seed=7), "certified", "seed = 7, its trial has 0"),
    "another's": (lambda row: row.update(method="staged"), "certified", "method = staged, its trial has plain"),
    "other data": (lambda row: row.update(dataset="cifar10"), "certified", "dataset = cifar10, its trial has"),
    "estimator": (lambda row: row.update(estimator="two-stage"), "certified", "estimator = two-stage, its trial has"),
    "weights": (lambda row: row.update(checkpoint_sha256="0" * 64), "certified", "of other weights"),
    "selection": (lambda row: row.update(selection_counts=[0] * 9 + [19]), "certified", "not the first of the most"),
    "a radius without": (lambda row: row.update(radius=0.1), "abstained", "without a certificate"),
    "a certificate without": (lambda row: row.update(status="certified"), "abstained", "is certified, with"),
    "ended early": (one_less, "certified", "abstention was not certain"),
    "estimated all the same": (lambda row: row.update(n=400), "misclassified", "says misclassified"),
    "not estimated": (lambda row: row.update(status="misclassified"), "certified", "says misclassified"),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_a_forged_row_is_found(what: str, run: Path) -> None:
    change, status, message = FORGERIES[what]
    forge(run, change, status=status)
    with pytest.raises(AuditError, match=message):
        audit(run)


def test_a_row_that_its_shard_does_not_have_is_found(run: Path) -> None:
    table = pq.read_table(run / "certificates.parquet")
    rows = table.to_pylist()
    bound_of(next(row for row in rows if row["status"] == "certified"), 0.002)
    pq.write_table(pa.Table.from_pylist(rows, table.schema), run / "certificates.parquet")
    with pytest.raises(AuditError, match=r"(radius|p_lower) is another in its shard"):
        audit(run)


Columns = dict[str, list[Any]]


def forge_settings(column: Columns, key: str, value: object) -> None:
    """In the first trial's, wherever the key is."""
    settings = json.loads(column["settings"][0])
    table = next(table for table in (settings, settings["certify"], settings["train"]) if key in table)
    table[key] = value
    column["settings"][0] = json.dumps(settings)


FORGED_COLUMNS: dict[str, tuple[Callable[[Columns], None], str]] = {
    "sigma": (lambda column: column.update(sigma=[0.5] * 3), "sigma of plain.* is 0.5, its own files have 0.25"),
    "seed": (lambda column: column.update(seed=[1] * 3), "seed of plain.* is 1, its own files have 0"),
    "n": (lambda column: column.update(n=[100_000] * 3), "n of plain.* is 100000, its own files have 400"),
    "n0": (lambda column: column.update(n0=[100] * 3), "n0 of plain.* is 100, its own files have 20"),
    "alpha": (lambda column: column.update(alpha=[1e-6] * 3), "alpha of plain.* is 1e-06, its own files have 0.001"),
    "images": (lambda column: column.update(images=[10_000] * 3), "images of plain.* is 10000, its own files have 40"),
    "dataset": (lambda column: column.update(dataset=["cifar10"] * 3), "dataset of plain.* is cifar10, its own"),
    "model": (lambda column: column.update(model=["resnet110"] * 3), "model of plain.* is resnet110, its own"),
    "title": (
        lambda column: column.update(title=["Ours"] * 3),
        "title of plain.* is Ours, its own files have Gaussian",
    ),
    "weights": (lambda column: column.update(checkpoint_sha256=["0" * 64] * 3), "checkpoint_sha256 of plain.* is 0000"),
    "cost": (lambda column: column.update(train_seconds=[0.5] * 3), r"train_seconds of plain.* is 0\.5, its own"),
    "a name": (lambda column: column["method"].reverse(), "method of plain.* is anytime, its own files have plain"),
    "beacon": (
        lambda column: column.update(settings=[text.replace("round-7", "round-8") for text in column["settings"]]),
        r"certify of plain.* is \{.*'beacon': 'round-8'.*\}, its own files have \{.*'beacon': 'round-7'",
    ),
    "epochs": (lambda column: column.update(epochs=[90] * 3), "epochs of plain.* is 90, its own files have"),
    "time": (lambda column: column.update(certify_seconds=[1.0] * 3), r"certify_seconds of plain.* is 1\.0, its own"),
    **{
        f"settings.{key}": (partial(forge_settings, key=key, value=value), f"{told}.*{value}.*, its own")
        for key, value, told in (
            ("n", 9999, "certify of plain.* is "),
            ("alpha", 0.5, "certify of plain.* is "),
            ("epochs", 90, "train of plain.* is "),
            ("sigma", 0.75, "sigma of plain.* is "),
            ("method", "macer", "method of plain.* is "),
        )
    },
}


@pytest.mark.parametrize("what", FORGED_COLUMNS)
def test_forged_columns_of_trials_are_found(what: str, run: Path) -> None:
    change, message = FORGED_COLUMNS[what]
    table = pq.read_table(run / "trials.parquet")
    columns = table.to_pydict()
    change(columns)
    pq.write_table(pa.Table.from_pydict(columns, table.schema), run / "trials.parquet")
    with pytest.raises(AuditError, match=f"trials.parquet: {message}"):
        audit(run)


def test_exchanged_names_are_found(run: Path) -> None:
    """Of two trials, wherever rows are named: in both Parquet files, in the shards, and with them in the tables."""
    exchanged = {"plain": "staged", "staged": "plain"}
    for path in [run / "trials.parquet", run / "certificates.parquet", *run.glob("trials/*/shards/*.parquet")]:
        table = pq.read_table(path)
        rows = [row | {"method": exchanged.get(row["method"], row["method"])} for row in table.to_pylist()]
        pq.write_table(pa.Table.from_pylist(rows, table.schema), path)
    with pytest.raises(AuditError, match=r"method of plain.* is staged, its own files have plain"):
        audit(run)


def trial_folder(run: Path) -> Path:
    return next(path for path in sorted((run / "trials").iterdir()) if path.name.startswith("plain"))


def drop_an_image(run: Path) -> None:
    folder = trial_folder(run)
    table = pq.read_table(run / "certificates.parquet")
    rows = table.to_pylist()
    first = next(row for row in rows if row["trial_id"] == folder.name)
    pq.write_table(
        pa.Table.from_pylist([row for row in rows if row is not first], table.schema), run / "certificates.parquet"
    )
    shard = sorted((folder / "shards").iterdir())[0]
    pq.write_table(pq.read_table(shard).slice(1), shard)


def swap_weights(run: Path) -> None:
    path = trial_folder(run) / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def edit_table(run: Path) -> None:
    path = run / "tables" / "certified_accuracy.csv"
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    lines[0]["acr"] = str(float(lines[0]["acr"]) + 1e-4)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)


def edit_training(run: Path) -> None:
    path = trial_folder(run) / "training.json"
    values = json.loads(path.read_text())
    values["test_images"] += 1
    path.write_text(json.dumps(values))


def edit_beacon(run: Path) -> None:
    path = trial_folder(run) / "trial.json"
    path.write_text(path.read_text().replace("round-7", "round-8"))
    table = pq.read_table(run / "trials.parquet")
    rows = [row | {"settings": row["settings"].replace("round-7", "round-8")} for row in table.to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows, table.schema), run / "trials.parquet")


def other_images(run: Path) -> None:
    edit_record(
        trial_folder(run) / "trial.json",
        certify=SETTINGS | {"estimator": "fixed", "alpha": 0.001, "images": 39, "beacon": None},
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_an_image, "not of the 40 images"),
        (swap_weights, "the weights are not those"),
        (edit_table, "acr of plain at 0.25 is"),
        (edit_training, "not those that its digest is of"),
        (other_images, "not of the 39 images"),
        (edit_beacon, "is not that of its weights and the beacon round-8"),
    ],
)
def test_an_altered_file_is_found(change: Callable[[Path], None], message: str, run: Path) -> None:
    change(run)
    with pytest.raises(AuditError, match=message):
        audit(run)


def test_the_command_ends_with_the_sentence_and_1(run: Path) -> None:
    swap_weights(run)
    result = CliRunner().invoke(app, ["audit", str(run)])
    assert result.exit_code == 1
    assert "the weights are not those of its training.json" in str(result.exception)


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_the_rule_of_two_stages_is_the_programs(step: int) -> None:
    from results.bounds.two_stage import sufficient_samples

    for n0, n, alpha in ((20, 400, 0.001), (100, 100_000, 0.001), (7, 33, 0.05)):
        for count in range(n0, -1, -step):
            assert independent._planned(count, n0, n, alpha) == sufficient_samples(count, n0, n, alpha)


@pytest.mark.parametrize(
    ("n", "counts"),
    [
        (1000, range(532, 1001, 9)),
        (3000, range(2950, 3001)),
        pytest.param(1000, range(532, 1001), marks=pytest.mark.slow),
    ],
)
def test_every_count_has_the_radius_that_the_program_gives_it(n: int, counts: range) -> None:
    """Of so many samples: intervals as narrow as a double's could not tell for each count; of 3000, the sum of two
    such."""
    for k in counts:
        bound = float(betaincinv(k, n - k + 1, 0.001))
        if bound >= 0.5:
            assert independent._is_radius(float(0.25 * ndtri(bound)) / 0.25, k, n, 0.001, 0.0), k


def test_every_bound_at_any_time_has_the_radius_that_the_program_gives_it() -> None:
    from results.bounds.anytime import Design, anytime_bound

    random = np.random.default_rng(0)
    for n in (400, 100_000):
        for t in (n // 32, n // 4, n // 2 + 1, n):
            k, count = int(random.integers(round(0.8 * t), t + 1)), int(random.integers(60, 101))
            own = Design.of(np.array([count]), 100, n, 0.001)
            r = float(ndtri(anytime_bound([k], [t], own, 0.001))[0])
            if r <= 0:
                continue
            design = independent._design(
                {"estimator": "anytime", "n": n, "alpha": 0.001}, {"selection_counts": [100 - count, count], "n0": 100}
            )
            assert independent._is_radius(r, k, t, 0.001, 0.0, design)
            assert not independent._is_radius(r + 1e-7, k, t, 0.001, 0.0, design)  # unsound
            assert not independent._is_radius(r - 1e-5, k, t, 0.001, 0.0, design)  # less than the counts give


def test_a_bound_of_one_size_is_not_accepted_of_an_image_that_was_stopped(run: Path) -> None:
    def fixed(row: dict[str, Any]) -> None:
        bound_of(row, 0.001)

    table = pq.read_table(run / "certificates.parquet")
    rows: Rows = table.to_pylist()
    rows.sort(key=lambda row: row["estimator"] != "anytime")  # the first certified row is one of them
    pq.write_table(pa.Table.from_pylist(rows, table.schema), run / "certificates.parquet")
    forge(run, fixed)
    with pytest.raises(AuditError, match=r"anytime.* does not follow from"):
        audit(run)


@pytest.mark.parametrize("n", [100, 100_000])
def test_intervals_agree_with_scipy_to_its_last_digits(n: int) -> None:
    for k in np.unique(np.linspace(n // 2 + n // 8, n, 7).astype(int)).tolist():
        r = float(ndtri(betaincinv(k, n - k + 1, 0.001)))
        assert independent._is_radius(r, k, n, 0.001, 0.0)
        assert not independent._is_radius(r + 1e-8, k, n, 0.001, 0.0)  # unsound
        assert not independent._is_radius(r - 1e-5, k, n, 0.001, 0.0)  # less than the counts give


def test_it_shares_no_code() -> None:
    source = Path(str(independent.__file__)).read_text(encoding="utf-8")
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            imported.add(node.module.split(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"pyarrow", "flint", "statsmodels"}
    first = source[: source.index("# --- what not every run has")]
    assert len(first.splitlines()) < 300  # five minutes
    assert len(source.splitlines()) < 525  # ten with all that some runs have
