from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from results import read_run
from results.bounds.anytime import Design, anytime_bound
from results.bounds.radius import certified_radius, lower_confidence_bound
from results.bounds.two_stage import sufficient_samples
from results.store.folder import RunFolder, TrialFolder, read_json, write_json
from results.store.merge import MergeError, merge_run
from results.store.schema import CERTIFICATES, SCHEMA_VERSION, SchemaError
from results.store.shards import evenly_spaced, repair_shards
from tests.conftest import edit_record, here, small_trial, trial_ids, two_sided, write_fake_run, write_odd_shard


def first_trial(run: RunFolder) -> TrialFolder:
    return run.trial(trial_ids(run)[0])


def rewrite(run: RunFolder, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """Change the third row of the first shard of the first trial."""
    folder = first_trial(run)
    path = folder.shard_files()[0]
    rows = pq.read_table(path).to_pylist()
    rows[2] |= change(rows[2])
    return write_odd_shard(folder, pa.Table.from_pylist(rows, CERTIFICATES))


def test_merge_gives_one_row_per_trial_and_image_in_order(fake_run: RunFolder) -> None:
    assert merge_run(fake_run) == []
    run = read_run(fake_run.path)
    assert len(run.certificates) == 4 * 12
    for _, rows in run.certificates.groupby("trial_id"):
        assert rows["index"].tolist() == list(range(12))
    assert len(run.trials) == len(run.epochs) == 4
    assert run.certificates["radius"].dtype == float
    assert run.certificates["correct"].dtype == bool
    assert pd.api.types.is_string_dtype(run.certificates["method"])
    assert (run.certificates["counts"].map(sum) == run.certificates["n"]).all()
    assert pq.read_schema(fake_run.certificates).metadata[b"smoothing_bench_schema"] == str(SCHEMA_VERSION).encode()


def test_a_row_says_whose_variant_it_is(tmp_path: Path) -> None:
    """As its method's class says, or where the grid gives a variant of a method another name."""
    names = {"gaussian": "gaussian", "gaussian_ld": "gaussian_ld", "wide": "gaussian", "tenth": "gaussian_ld"}
    trials = [small_trial(method, name=name, certify={"n": 2000, "n0": 10}) for name, method in names.items()]
    run = write_fake_run(tmp_path / "run", trials)
    for trial in trials:
        record = run.trial(trial.trial_id).training
        edit_record(record, variant_of=trial.objective.variant_of, colour_group=None)
    merge_run(run)
    found = read_run(run.path).trials
    assert found["variant_of"].fillna("").tolist() == ["", "gaussian", "gaussian", "gaussian"]
    assert found["colour_group"].isna().all()


@pytest.mark.parametrize("shards", [[range(7), range(7, 12)], [range(0, 12, 2), range(1, 12, 2)]])
def test_shards_of_another_size_or_that_interleave_merge_to_the_same(shards: list[range], fake_run: RunFolder) -> None:
    merge_run(fake_run)
    before = read_run(fake_run.path).certificates
    folder = first_trial(fake_run)
    table = pa.concat_tables(pq.read_table(path) for path in folder.shard_files())
    for path in folder.shard_files():
        path.unlink()
    for shard in shards:
        write_odd_shard(folder, table.take(list(shard)))
    merge_run(fake_run)
    pd.testing.assert_frame_equal(before, read_run(fake_run.path).certificates)


def fewer(row: dict[str, Any], n: int, top: int) -> dict[str, Any]:
    """The row with other counts, and all that follows from them."""
    counts = [0] * 10
    counts[row["selected"]], counts[(row["selected"] + 1) % 10] = top, n - top
    p_lower = float(lower_confidence_bound(top, n, row["alpha"]))
    certified = p_lower >= 0.5
    predicted = row["selected"] if certified else -1
    return {
        "n": n,
        "counts": counts,
        "count_top": top,
        "radius_two_sided": None if n < 2000 else two_sided(counts, row["selected"], row["alpha"], row["sigma"]),
        "p_lower": p_lower,
        "radius": float(certified_radius(p_lower, row["sigma"])),
        "status": "certified" if certified else "abstained",
        "predicted": predicted,
        "correct": predicted == row["label"],
    }


def test_merge_takes_an_estimation_that_ended_when_abstention_was_certain(fake_run: RunFolder) -> None:
    rewrite(fake_run, lambda row: fewer(row, 1400, 300))
    merge_run(fake_run)
    row = read_run(fake_run.path).certificates.iloc[2]
    assert (row["n"], row["status"], row["radius"]) == (1400, "abstained", 0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda row: {"counts": [row["counts"][0] + 1, *row["counts"][1:]]}, "the counts do not sum to n"),
        (lambda row: {"radius": row["sigma"] * 4}, "the radius is above its limit"),
        (lambda row: {"radius": row["radius"] + 1e-6}, "radius does not follow from p_lower"),
        (
            lambda row: {"radius_two_sided": row["radius_two_sided"] + 1e-6},
            "radius_two_sided does not follow from counts",
        ),
        (lambda _row: {"radius_two_sided": None}, "radius_two_sided does not follow from counts"),
        (lambda row: {"p_lower": row["p_lower"] - 1e-6}, "p_lower does not follow from counts"),
        (lambda row: {"count_top": row["count_top"] - 1}, "count_top is not the count"),
        (lambda row: {"predicted": -1}, "predicted does not follow from p_lower"),
        (lambda row: {"predicted": (row["selected"] + 1) % 10}, "predicted does not follow from p_lower"),
        (lambda row: {"status": "abstained"}, "its status does not follow from p_lower"),
        (lambda row: {"status": "misclassified"}, "misclassified must be where the selected class is not the label"),
        (lambda row: {"label": (row["label"] + 1) % 10}, "misclassified must be where the selected class is not the"),
        (lambda row: {"status": "unknown"}, "its status is unknown"),
        (lambda row: {"method": "another"}, "method is not the trial's"),
        (lambda row: {"sigma": 2 * row["sigma"]}, "sigma is not the trial's"),
        (lambda row: {"seed": row["seed"] + 1}, "seed is not the trial's"),
        (lambda row: {"lattice_pixels": 3072}, "its arithmetic is not float"),
        (lambda _row: {"sigma_input": 0.5}, "has sigma_input, and its trial is not composed"),
        (lambda row: {"estimator": "two-stage"}, "estimator is not the trial's fixed"),
        (lambda row: fewer(row, 1000, 990), "n is not the number of samples that its selection asks for"),
        (lambda row: fewer(row, 1400, 500), "its estimation stopped before abstention was certain"),
        (lambda row: {"correct": not row["correct"]}, "correct is wrong"),
        (lambda row: {"selection_counts": row["selection_counts"][::-1]}, "selected is not the most frequent class"),
        (lambda row: {"selection_counts": [*row["selection_counts"], 0]}, "has counts of other classes"),
        (lambda row: {"selected": 10}, "selected is not a class"),
        (lambda row: {"selection_counts": [n + 1 for n in row["selection_counts"]]}, "the selection do not sum to n0"),
        (lambda row: {"selection_counts": [-1, 11] + [0] * 8}, "a count of the selection is negative"),
        (lambda row: {"n": row["n"] + 1}, "n is not the number of samples that"),
        (lambda row: {"n": 0}, "n is 0 where misclassified, and only there"),
        (lambda row: {"alpha": 0.01}, "alpha is not the trial's"),
        (lambda row: {"index": 3}, "holds image 3 a second time"),
        (lambda row: {"index": 99}, "holds image 99, which this trial does not certify"),
        (lambda row: {"checkpoint_sha256": "f" * 64}, "is of another checkpoint"),
        (lambda row: {"trial_id": "other"}, "is of another trial"),
        (lambda row: {"noise": "philox4x64-10/0"}, "is of other noise than philox4x64-10/1 (philox4x64-10/0)"),
        (lambda row: {"noise": None}, "is of other noise than philox4x64-10/1 (None)"),
        (lambda row: {"noise_seed": row["noise_seed"] + 1}, "its noise is not seeded as the trial's"),
        (lambda _row: {"noise_seed": None}, "noise_seed is missing, which only imported logs lack"),
    ],
)
def test_merge_refuses_what_does_not_hold_and_names_the_shard(
    fake_run: RunFolder, change: Callable[[dict[str, Any]], dict[str, Any]], reason: str
) -> None:
    path = rewrite(fake_run, change)
    with pytest.raises(MergeError) as caught:
        merge_run(fake_run)
    assert reason in str(caught.value)
    assert str(path) in str(caught.value)
    assert not fake_run.certificates.exists()


def test_merge_refuses_gaps_and_damaged_shards(fake_run: RunFolder) -> None:
    path = first_trial(fake_run).shard_files()[1]
    data = path.read_bytes()
    path.unlink()
    with pytest.raises(MergeError, match="5 images are missing, the first is 5"):
        merge_run(fake_run)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(MergeError, match=f"{path.name}: not readable as Parquet"):
        merge_run(fake_run)


def test_merge_leaves_out_failed_and_untrained_trials(fake_run: RunFolder) -> None:
    first, second, *_ = trial_ids(fake_run)
    write_json(fake_run.trial(first).state, {"state": "failed", "error": "no"})
    fake_run.trial(second).training.unlink()
    assert merge_run(fake_run) == [first, second]
    assert set(read_run(fake_run.path).trials["trial_id"]) == set(trial_ids(fake_run)[2:])


def test_damaged_foreign_and_overlapping_shards_are_set_aside_and_done_again(fake_run: RunFolder) -> None:
    folder = first_trial(fake_run)
    sha256 = read_json(folder.training)["checkpoint_sha256"]
    damaged, good, _ = folder.shard_files()
    damaged.write_bytes(b"PAR1")
    overlap = pq.read_table(good).slice(1, 2)
    write_odd_shard(folder, overlap)
    assert repair_shards(folder, trial_id=folder.path.name, checkpoint_sha256=sha256) == {5, 6, 7, 8, 9, 10, 11}
    assert sorted(path.name for path in folder.shards.glob("*.set-aside")) == [
        "00000-00004.set-aside",
        "00006-00007.set-aside",
    ]
    assert repair_shards(folder, trial_id=folder.path.name, checkpoint_sha256="0" * 63 + "9") == set()
    assert len(list(folder.shards.iterdir())) == 4  # nothing is deleted


def test_a_file_system_that_fails_harms_no_shard(fake_run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = first_trial(fake_run)
    shards, sha256 = folder.shard_files(), read_json(folder.training)["checkpoint_sha256"]
    read = Path.read_bytes

    def broken(path: Path) -> bytes:
        if path == shards[1]:
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return read(path)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", broken)
        with pytest.raises(OSError, match="Stale file handle"):
            repair_shards(folder, trial_id=folder.path.name, checkpoint_sha256=sha256)
    assert folder.shard_files() == shards
    here(shards[0]).unlink()
    here(shards[0]).mkdir()  # no file at all
    assert repair_shards(folder, trial_id=folder.path.name, checkpoint_sha256=sha256) == {5, 6, 7, 8, 9, 10, 11}


def test_shards_of_another_version_are_neither_used_nor_set_aside(fake_run: RunFolder) -> None:
    folder = first_trial(fake_run)
    path = folder.shard_files()[0]
    pq.write_table(
        pq.read_table(path).replace_schema_metadata({"smoothing_bench_schema": str(SCHEMA_VERSION + 1)}), path
    )
    with pytest.raises(SchemaError, match="newer version of this program"):
        repair_shards(folder, trial_id=folder.path.name, checkpoint_sha256="0" * 64)
    assert path.exists()


def test_a_two_stage_n_follows_from_the_selection_not_from_what_was_drawn(tmp_path: Path) -> None:
    """Whoever takes the best of the sizes after looking has a bound that is wrong more often than alpha."""
    certify = {"n": 100_000, "n0": 10, "estimator": "two-stage"}
    run = write_fake_run(tmp_path / "run", [small_trial("gaussian", 0.25, certify=certify)])
    planned = sufficient_samples(9, 10, 100_000, 0.001)
    assert planned < 100_000
    with pytest.raises(MergeError, match="n is not the number of samples that its selection asks for"):
        merge_run(run)

    def drawn(n: int) -> None:
        for path in first_trial(run).shard_files():
            table = pq.read_table(path)
            rows = [row if row["n"] == 0 else row | fewer(row, n, round(0.98 * n)) for row in table.to_pylist()]
            pq.write_table(pa.Table.from_pylist(rows, table.schema), path)

    drawn(planned)
    merge_run(run)
    assert set(read_run(run.path).certificates["n"]) == {0, planned}
    drawn(planned * 2)
    with pytest.raises(MergeError, match="n is not the number of samples that its selection asks for"):
        merge_run(run)


def test_an_anytime_bound_holds_wherever_it_was_stopped_and_only_that_one(tmp_path: Path) -> None:
    certify = {"n": 100_000, "n0": 10, "estimator": "anytime"}
    run = write_fake_run(tmp_path / "run", [small_trial("gaussian", 0.25, certify=certify)])

    def drawn(n: int, bound: Callable[[int], float]) -> None:
        for path in first_trial(run).shard_files():
            table = pq.read_table(path)
            rows = [row | stopped(row, n, bound) for row in table.to_pylist() if row["n"]]
            rows += [row for row in table.to_pylist() if not row["n"]]
            rows.sort(key=lambda row: row["index"])
            pq.write_table(pa.Table.from_pylist(rows, table.schema), path)

    def stopped(row: dict[str, Any], n: int, bound: Callable[[int], float]) -> dict[str, Any]:
        p_lower = bound(n)
        radius = float(certified_radius(p_lower, row["sigma"]))
        return fewer(row, n, round(0.98 * n)) | {"p_lower": p_lower, "radius": radius, "radius_two_sided": None}

    def anytime(n: int) -> float:
        return float(anytime_bound([round(0.98 * n)], [n], Design.of(np.array([9]), 10, 100_000, 0.001), 0.001)[0])

    for n in (25_000, 12_345, 100_000):
        drawn(n, anytime)
        merge_run(run)
        assert set(read_run(run.path).certificates["n"]) == {0, n}
    drawn(12_345, lambda n: float(lower_confidence_bound(round(0.98 * n), n, 0.001)))
    with pytest.raises(MergeError, match="p_lower does not follow from counts"):
        merge_run(run)
    drawn(100_001, anytime)
    with pytest.raises(MergeError, match="n is above the number of samples"):
        merge_run(run)


def test_indices_are_evenly_spaced() -> None:
    assert evenly_spaced(10_000, 500) == list(range(0, 10_000, 20))  # Cohen et al. 2019 certify every twentieth
    assert evenly_spaced(7, 3) == [0, 2, 4]
    assert evenly_spaced(5, None) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="6 images were asked for, the data has 5"):
        evenly_spaced(5, 6)


def test_a_newer_schema_is_refused(fake_run: RunFolder) -> None:
    merge_run(fake_run)
    table = pq.read_table(fake_run.trials)
    pq.write_table(table.replace_schema_metadata({"smoothing_bench_schema": str(SCHEMA_VERSION + 1)}), fake_run.trials)
    with pytest.raises(
        ValueError, match=rf"schema {SCHEMA_VERSION + 1}, this one reads {SCHEMA_VERSION}\): upgrade it"
    ):
        read_run(fake_run.path)
