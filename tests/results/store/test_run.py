from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from results import read_run
from results.store import reported
from results.store.folder import RunFolder, read_json, write_json, write_whole
from results.store.merge import MergeError, merge_run
from results.store.schema import CERTIFICATES, SCHEMA_VERSION, SchemaError
from tests.conftest import here, small_trial, write_fake_run


@pytest.fixture
def run(fake_run: RunFolder) -> RunFolder:
    merge_run(fake_run)
    return fake_run


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a machine that loses its power may leave it empty, under a name that says that it is whole."""
    path, seen = tmp_path / "x", []

    def fsync(descriptor: int) -> None:
        seen.append((os.pread(descriptor, 9, 0), path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    write_whole(path, lambda temporary: temporary.write_bytes(b"whole"))
    assert seen == [(b"whole", False)]
    assert path.read_bytes() == b"whole"


def test_a_url_is_read_like_a_path(run: RunFolder) -> None:
    url, path = read_run(here(run.path).as_uri()), read_run(run.path)
    assert url.certificates.drop(columns="counts").equals(path.certificates.drop(columns="counts"))
    assert url.descriptions == path.descriptions
    with pytest.raises(ValueError, match="nowhere://x: cannot be opened"):
        read_run("nowhere://x")


def test_several_runs_are_one_and_a_trial_of_both_stands_once(run: RunFolder, tmp_path: Path) -> None:
    other = write_fake_run(tmp_path / "other", [small_trial("macer")])
    merge_run(other)
    copy = tmp_path / "copy"
    shutil.copytree(here(run.path), copy)
    both = read_run(run.path, other.path, copy)
    assert both.trials["method"].tolist() == ["generalised_ld", "gaussian", "generalised_ld", "gaussian", "macer"]
    assert len(both.certificates) == 5 * 12
    assert not both.certificates.duplicated(["trial_id", "index"]).any()
    assert len(both.epochs) == 5


def test_one_trial_with_two_models_is_refused(run: RunFolder, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(here(run.path), copy)
    table = pq.read_table(copy / "trials.parquet")
    place = table.column_names.index("checkpoint_sha256")
    other = pa.array(["f" * 64] * len(table))
    pq.write_table(table.set_column(place, table.schema.field(place), other), copy / "trials.parquet")
    with pytest.raises(
        ValueError, match=r"two runs hold generalised_ld-sigma0\.25-seed0-\w+, each with weights of its own"
    ):
        read_run(run.path, copy)


def test_unfinished_trials_are_named(run: RunFolder) -> None:
    description = read_json(run.description)
    write_json(run.description, {**description, "trials": [*description["trials"], "macer-sigma0.25-seed0-0"]})
    assert read_run(run.path).missing == ("macer-sigma0.25-seed0-0",)


def test_the_parquet_files_alone_are_a_run(run: RunFolder, tmp_path: Path) -> None:
    for name in ("certificates", "trials", "epochs"):
        shutil.copy(here(run.path) / f"{name}.parquet", tmp_path)
    found = read_run(tmp_path)
    assert len(found.trials) == 4
    assert found.spectra.empty
    assert found.descriptions == ()


def one_is_lacking(lists: pa.ChunkedArray) -> pa.ChunkedArray:
    first, *others = lists.to_pylist()
    return pa.chunked_array([pa.array([[None, *first[1:]], *others], lists.type)])


@pytest.mark.parametrize(
    ("file", "column", "change", "reason"),
    [
        ("certificates", "radius", lambda values: pc.multiply(values, 1.01), "radius"),
        ("certificates", "seed", lambda values: pc.add(values, 1), "seed is not the trial's 0"),
        ("trials", "n", lambda values: pc.multiply(values, 10), "n = 20000, by its settings and rows 2000"),
        ("trials", "alpha", lambda values: pc.divide(values, 2.0), "alpha = 0.0005, by its settings and rows 0.001"),
        ("trials", "model", lambda values: pc.replace_substring(values, "tiny", "large"), "model = large, by its"),
        ("certificates", "index", lambda values: pc.min_element_wise(values, 10), "11 images in 12 rows$"),
        ("certificates", "checkpoint_sha256", lambda values: pc.utf8_reverse(values), "checkpoint_sha256 is not that"),
        ("certificates", "counts", lambda values: one_is_lacking(values), "a number of counts is missing"),
    ],
)
def test_files_alone_are_checked_from_their_counts(
    file: str,
    column: str,
    change: Callable[[pa.ChunkedArray], pa.ChunkedArray],
    reason: str,
    run: RunFolder,
    tmp_path: Path,
) -> None:
    """Who is sent them has no shards to make them of again."""
    for name in ("certificates", "trials", "epochs"):
        shutil.copy(here(run.path) / f"{name}.parquet", tmp_path)
    path = tmp_path / f"{file}.parquet"
    table = pq.read_table(path)
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, table.schema.field(place), change(table[column])), path)
    (tmp_path / "trials").mkdir()  # an empty folder makes no run of them
    with pytest.raises(MergeError, match=rf"{file}\.parquet: .*{reason}"):
        read_run(tmp_path)


def changed_schema(run: RunFolder, change: object) -> None:
    table = pq.read_table(run.certificates)
    pq.write_table(change(table), run.certificates)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda table: table.replace_schema_metadata({"smoothing_bench_schema": str(SCHEMA_VERSION + 1)}), "newer"),
        (lambda table: table.replace_schema_metadata({"smoothing_bench_schema": "1"}), "has schema version 1"),
        (lambda table: table.replace_schema_metadata(None), "no schema version"),
        (lambda table: table.drop_columns(["radius", "label"]), "lacks the columns label, radius"),
        (lambda table: table.append_column("odd", pa.array([1] * len(table))), "has the unknown column odd"),
        (lambda table: table.select(table.column_names[::-1]), "another order"),
        (
            lambda table: table.cast(
                CERTIFICATES.set(
                    CERTIFICATES.get_field_index("n"), pa.field("n", pa.float64(), nullable=False)
                ).with_metadata(CERTIFICATES.metadata)
            ),
            "column n is double, expected int64 without nulls",
        ),
    ],
)
def test_other_files_are_refused_in_a_sentence(change: object, reason: str, run: RunFolder) -> None:
    changed_schema(run, change)
    with pytest.raises(SchemaError, match=rf"certificates\.parquet: .*{reason}"):
        read_run(run.path)


def test_corrupt_missing_and_contradicting_files_are_refused(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="`bench run` or `bench report` writes it"):
        read_run(tmp_path / "nowhere")
    content = run.trials.read_bytes()
    run.trials.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"trials\.parquet: not readable as Parquet"):
        read_run(run.path)
    run.trials.write_bytes(content)
    pq.write_table(pq.read_table(run.certificates).slice(12), run.certificates)
    with pytest.raises(ValueError, match="do not hold the same trials"):
        read_run(run.path)
    write_json(run.description, [1])
    with pytest.raises(ValueError, match="must hold a JSON object"):
        read_run(run.path)


def test_a_report_is_stale_by_another_program_and_not_by_what_python_compiles(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, compiled = tmp_path / "results" / "store" / "reported.py", tmp_path / "results" / "__pycache__" / "x.pyc"
    for path in (program, compiled):
        path.parent.mkdir(parents=True)
        path.touch()
    monkeypatch.setattr(reported, "__file__", str(program))
    before, later = reported.sources(run), time.time() + 60
    os.utime(compiled, (later, later))
    os.utime(compiled.parent, (later, later))
    assert reported.sources(run) == before
    os.utime(program, (later, later))
    assert reported.sources(run) != before
