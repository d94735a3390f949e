"""Noise seeded by the weights and a beacon: what it follows from, by which commands, and who sees that it does not."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from bench.settings.grid import GridError, load_grid
from bench.settings.options import RunOptions
from results.report.caption import caption
from results.store.folder import RunFolder, read_json
from results.store.merge import MergeError, merge_run
from results.store.run import read_run
from results.store.settings import CertifySettings, beacon_seed
from tests.command import bench
from tests.conftest import SMALL, here, small_trial, trial_ids, write_fake_run

BEACON = "1f6e8a-round-7"
FEW = SMALL["certify"] | {"n": 100, "n0": 30}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A trial certified by a beacon that the command line gives, and its weights again by another way."""
    folder = tmp_path_factory.mktemp("beacon")
    (folder / "trial.json").write_text(small_trial(certify=FEW).model_dump_json())
    run = RunFolder(folder / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("results.report.write.figures_of", lambda *_: iter(()))  # which take longer than all the rest
        beacon = ["--out", str(run.path), "--beacon", BEACON]
        assert bench("trial", str(folder / "trial.json"), *beacon) == 0
        model = ["--model", f"{run.path}/{trial_ids(run)[0]}", "--name", "again"]
        other = ["--n", "120", "--n0", "30", "--images", "12", "--precision", "fp32", "--seed", "5"]
        assert bench("certify", *model, *other, *beacon) == 0
    return run


def test_the_seed_is_a_digest_of_weights_and_beacon(run: RunFolder) -> None:
    weights = hashlib.sha256(here(run.trial(trial_ids(run)[0]).model).read_bytes()).hexdigest()
    expected = int(hashlib.sha256(f"{weights}\n{BEACON}".encode()).hexdigest()[:12], 16)
    rows = read_run(run.path).certificates
    assert set(rows["noise_seed"]) == {expected} == {beacon_seed(weights, BEACON)}
    assert {read_json(run.trial(name).settings)["certify"]["beacon"] for name in trial_ids(run)} == {BEACON}


def test_the_caption_names_it(run: RunFolder) -> None:
    assert caption(read_run(run.path))[0].endswith(f", with noise seeded by the weights and the beacon {BEACON}.")


def test_no_other_setting_turns_the_noise(run: RunFolder) -> None:
    """The same weights under another name, n and seed: the samples of the selection are the same."""
    first, again = (rows for _, rows in read_run(run.path).certificates.groupby("trial_id", sort=False))
    assert set(first["n"]) != set(again["n"])
    assert [list(counts) for counts in first["selection_counts"]] == [
        list(counts) for counts in again["selection_counts"]
    ]


def test_without_one_every_setting_has_its_own_noise_and_ids_are_those_of_before() -> None:
    plain, weights = small_trial(), "0" * 64
    assert small_trial(certify=SMALL["certify"] | {"beacon": None}).trial_id == plain.trial_id
    assert "beacon" not in str(plain._identity(without=set()))
    seeded = [small_trial(certify=SMALL["certify"] | {"beacon": beacon}) for beacon in ("a", "b")]
    assert len({trial.trial_id for trial in (plain, *seeded)}) == 3
    assert len({trial.training_id for trial in (plain, *seeded)}) == 1
    assert len({trial.noise_seed(weights) for trial in (plain, *seeded)}) == 3
    assert plain.noise_seed(weights) == plain.noise_seed("1" * 64)
    assert seeded[0].noise_seed(weights) != seeded[0].noise_seed("1" * 64)


@pytest.mark.usefixtures("_no_figures")
def test_another_beacon_is_another_certification_of_the_same_training(tmp_path: Path) -> None:
    (tmp_path / "trial.json").write_text(small_trial(certify=FEW).model_dump_json())
    for beacon in ("one", "two"):
        assert bench("trial", str(tmp_path / "trial.json"), "--out", str(tmp_path / "run"), "--beacon", beacon) == 0
        [name] = trial_ids(RunFolder(tmp_path / "run"))
        seconds = read_json(RunFolder(tmp_path / "run").trial(name).training)["train_seconds"]
        counts = [list(row) for row in read_run(tmp_path / "run").certificates["selection_counts"]]
        if beacon == "one":
            before = name, seconds, counts
    assert name != before[0]
    assert seconds == before[1]  # taken over, not trained again
    assert counts != before[2]


def test_verify_and_audit_pass_a_run_in_order(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("verify", str(run.path)) == 0
    assert bench("audit", str(run.path)) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"by their weights and the beacon {BEACON} noise is seeded of 2 trials" in said


def test_bench_run_takes_one_and_hands_it_on() -> None:
    options = RunOptions.of(grid="smoke", beacon='odd"\\one')
    assert options.opened[0].certify.beacon == 'odd"\\one'
    assert options.arguments() == ["--grid=smoke", '--beacon=odd"\\one']
    assert RunOptions.of(grid="smoke").opened[0].certify.beacon is None
    assert load_grid("smoke", ['certify.beacon="17"']).certify.beacon == "17"


@pytest.mark.parametrize("beacon", ["", "two words", "ein-Würfel", "line\n", "x" * 257])
def test_a_beacon_has_one_spelling(beacon: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValidationError, match="must be 1 to 256 printable characters of ASCII without blanks"):
        CertifySettings(beacon=beacon)
    with pytest.raises(GridError, match=r"smoke: certify\.beacon: .*: must be 1 to 256 printable"):
        _ = RunOptions.of(grid="smoke", beacon=beacon).opened
    (tmp_path / "trial.json").write_text(small_trial().model_dump_json())
    assert bench("trial", str(tmp_path / "trial.json"), "--out", str(tmp_path / "run"), "--beacon", beacon) == 2
    assert bench("certify", "--model", "a:b", "--beacon", beacon) == 2
    assert capsys.readouterr().err.count("must be 1 to 256") == 2


def forge(run: RunFolder, **changes: Any) -> None:
    """In all shards."""
    for name in trial_ids(run):
        for path in run.trial(name).shard_files():
            table = pq.read_table(path)
            rows = [row | changes for row in table.to_pylist()]
            pq.write_table(pa.Table.from_pylist(rows, table.schema), path)


def test_the_merge_wants_the_seed_of_weights_and_beacon(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "run", [small_trial(certify=FEW | {"images": None, "beacon": BEACON})])
    merge_run(run)
    for seed, reason in ((7, "its noise is not seeded as the trial's"), (None, "noise_seed is missing")):
        forge(run, noise_seed=seed)
        with pytest.raises(MergeError, match=reason):
            merge_run(run)


@pytest.mark.usefixtures("_no_figures")
def test_verify_wants_the_seed_of_the_settings_where_there_is_no_beacon(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "trial.json").write_text(small_trial().model_dump_json())
    run = RunFolder(tmp_path / "run")
    assert bench("trial", str(tmp_path / "trial.json"), "--out", str(run.path)) == 0
    forge(run, noise_seed=7)
    merge_run(run)
    assert bench("verify", str(run.path)) == 2
    assert "its noise is not seeded by its settings" in capsys.readouterr().err
