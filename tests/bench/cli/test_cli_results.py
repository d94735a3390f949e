"""`bench report`, `compare`, `import` and `published`, as typed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from results import read_run
from results.store.folder import RunFolder
from results.store.merge import merge_run
from results.store.shards import write_shard
from tests.command import bench
from tests.conftest import fake_row, here, small_trial, trial_ids, write_fake_run
from tests.results.store.logs import GOOD, write_log


@pytest.mark.usefixtures("_no_figures")
def test_a_log_becomes_a_row_and_its_oddities_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write_log(tmp_path, [*GOOD, "60\t1\t1\t0.97\t1\t2.5"])
    out = tmp_path / "run"
    assert bench("import", str(log), "--method", "theirs", "--sigma", ".25", "--out", str(out)) == 0
    printed = capsys.readouterr()
    assert "warning: a log.tsv: 1 radii, up to 0.97, are above 0.9529" in printed.err
    assert "Imported from logs, without counts" in printed.out.replace("\n", " ")
    assert (out / "report.html").exists()
    assert bench("status", str(out)) == 0
    assert "1 of 1 done" in capsys.readouterr().out
    for command in ("verify", "attack"):
        assert bench(command, str(out)) == 2
        assert "imported logs only" in capsys.readouterr().err


@pytest.mark.usefixtures("_no_figures")
def test_the_parquet_files_alone_are_reported(fake_run: RunFolder, tmp_path: Path) -> None:
    merge_run(fake_run)
    for name in ("certificates", "trials", "epochs"):
        shutil.copy(here(fake_run.path) / f"{name}.parquet", tmp_path)
    assert bench("report", str(tmp_path)) == 0
    assert (tmp_path / "tables" / "certified_accuracy.md").exists()


@pytest.mark.usefixtures("_no_figures")
def test_what_was_stated_of_a_log_can_be_corrected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, out = write_log(tmp_path, GOOD), tmp_path / "run"
    for n in ("100000", "1000"):
        assert bench("import", str(log), "--method", "theirs", "--sigma", ".25", "--n", n, "--out", str(out)) == 0
        assert read_run(out).trials["n"].tolist() == [int(n)]
    other = write_log(tmp_path, GOOD[:2])
    assert bench("import", str(other), "--method", "theirs", "--sigma", ".25", "--out", str(out)) == 2
    assert "give another name or --out" in capsys.readouterr().err


@pytest.mark.usefixtures("_no_figures")
def test_a_folder_of_logs_is_guessed_shown_confirmed_and_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "noise_0.25/cohen/noise_0.25.tsv": [*GOOD, "60\t1\t1\t0.97\t1\t2.5"],
        "noise_0.5/salman/noise_0.5.tsv": GOOD,
        "noise_0.5/cat-rs/noise_0.5.tsv": [*GOOD, "60\t1\t1\tabc\t1\t2.5"],
        "noise_0.5/cat-rs/fog.tsv": GOOD,
        "stab/fog.tsv": GOOD,
    }
    for name, lines in files.items():
        folder = tmp_path / "logs" / Path(name).parent
        folder.mkdir(parents=True, exist_ok=True)
        write_log(folder, lines).rename(folder / Path(name).name)
    (tmp_path / "logs" / "noise_0.5" / "noise_0.5.tsv_acc").write_text("0.00\t0.76\n")
    command = ["import", str(tmp_path / "logs"), "--out", str(tmp_path / "run")]

    assert bench(*command) == 2
    printed = capsys.readouterr()
    assert printed.err.splitlines()[-1] == (
        "error: what the paths of 4 logs say of them stands above: give --yes if it is right, or state what is not"
    )
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda question: "4 of 6 files" not in question)
    assert bench(*command) == 1
    assert not (tmp_path / "run").exists()
    capsys.readouterr()

    assert bench(*command, "--yes") == 0
    printed = capsys.readouterr()
    for word in ("noise_0.5/salman/noise_0.5.tsv", "gaussian", "smoothadv", "data cifar10", "3 of 6 files imported"):
        assert word in printed.out
    refused = [line for line in printed.err.splitlines() if line.startswith("refused: ")]
    assert len(refused) == 3
    for part, line in zip(("tsv_acc:1: is no certification", "its path does not say σ", "'abc'"), refused, strict=True):
        assert part in line
    assert "warning: noise_0.25.tsv: 1 radii, up to 0.97" in printed.err
    trials = read_run(tmp_path / "run").trials
    assert sorted(zip(trials["method"], trials["sigma"], strict=True)) == [
        ("cat_rs-fog", 0.5), ("gaussian", 0.25), ("smoothadv", 0.5),
    ]  # fmt: skip
    assert bench(*command[:-1], str(tmp_path / "other"), "--yes", "--alpha", "2") == 2
    assert "--alpha 2" in capsys.readouterr().err

    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "x.csv").write_text("a,b\n")
    assert bench("import", str(tmp_path / "none"), "--out", str(tmp_path / "other"), "--yes") == 2
    assert "none: no log was imported" in capsys.readouterr().err


@pytest.mark.usefixtures("_no_figures")
def test_a_published_folder_is_reported_and_loses_nothing(
    fake_run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    """run.json and the Parquet files, as one would publish them, without the trials' own folders."""
    merge_run(fake_run)
    before = read_run(fake_run.path)
    moved = here(fake_run.path) / "trials" / trial_ids(fake_run)[0]
    shutil.move(moved, here(fake_run.path).parent / "elsewhere")
    assert bench("report", str(fake_run.path)) == 2
    assert "is not there, but" in capsys.readouterr().err
    shutil.rmtree(here(fake_run.path) / "trials")
    assert bench("report", str(fake_run.path)) == 0
    assert read_run(fake_run.path).certificates["radius"].equals(before.certificates["radius"])


@pytest.mark.usefixtures("_no_figures")
def test_a_report_warns_of_a_model_that_was_not_trained_with_noise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = small_trial(certify={"n": 2000, "n0": 10, "images": 200})
    run = write_fake_run(tmp_path / "run", [trial], images=200, shard=200)
    [shard] = run.trial(trial.trial_id).shard_files()
    rows = [fake_row(trial, f"{0:064x}", index, 0) for index in range(200)]
    shard.unlink()
    write_shard(
        run.trial(trial.trial_id),
        [row.model_copy(update={"base_clean": row.label, "base_noisy": (row.label + 1) % 10}) for row in rows],
    )
    assert bench("report", str(run.path)) == 0
    printed = capsys.readouterr()
    [warning] = printed.err.splitlines()
    assert warning.startswith("warning: gaussian at σ = 0.25: the base classifier is right on 100.0")
    assert "not trained with this noise" in warning
    assert "Accuracy of the base classifier" in printed.out
    assert warning.removeprefix("warning: ") in (here(run.tables) / "base_accuracy.md").read_text()


@pytest.mark.parametrize("text", ["{}", '{"trials":', "[]"])
@pytest.mark.parametrize("name", ["run.json", "trial.json", "training.json"])
def test_damaged_records_are_named(
    name: str, text: str, fake_run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = fake_run.trial(trial_ids(fake_run)[0])
    path = fake_run.description if name == "run.json" else trial.path / name
    here(path).write_text(text)
    assert bench("report", str(fake_run.path)) == 2
    printed = capsys.readouterr().err
    assert f"{path}:" in printed
    assert len(printed.strip().splitlines()) == 1


def test_a_damaged_epochs_file_is_named(fake_run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    epochs = fake_run.trial(trial_ids(fake_run)[0]).epochs
    epochs.write_bytes(b"PAR1" + b"?" * 50 + b"PAR1")
    assert bench("report", str(fake_run.path)) == 2
    assert f"{epochs}: not readable as Parquet" in capsys.readouterr().err


def test_compare_prints_a_table_and_the_same_as_json(
    fake_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merge_run(fake_run)
    other = write_fake_run(tmp_path / "other", [small_trial("macer", certify={"n": 2000, "n0": 10})])
    merge_run(other)
    assert bench("compare", str(fake_run.path), str(other.path), "--methods", "generalised_ld,macer", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert "uncertainty of the test images" in printed["method"]
    assert {(trial["method"], trial["n"]) for trial in printed["trials"]} >= {("generalised_ld", 2000), ("macer", 2000)}
    rows = printed["comparisons"]
    assert {(row["first"], row["second"], row["sigma"]) for row in rows} == {("generalised_ld", "macer", 0.25)}
    assert rows[0]["quantity"] == "acr"
    assert rows[0]["radius"] is None
    assert bench("compare", str(fake_run.path), str(other.path)) == 0
    text = capsys.readouterr().out
    assert "σ = 0.25, seed 0: A = generalised_ld, B = macer" in text
    assert "nan" not in text
    assert f"{rows[0]['difference']:.3f}" in text
    assert [row["endpoint"] for row in rows] == ["primary"] + ["secondary"] * (len(rows) - 1)
    assert all(row["p_holm"] is None for row in rows[1:])
    assert "not independent" not in text
    assert "Holm: over the pairs at all σ" in " ".join(text.split())


@pytest.mark.usefixtures("_one_figure")
def test_other_published_numbers_can_stand_beside(fake_run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("report", str(fake_run.path), "--published", "jeong2023_logs") == 0
    table = here(fake_run.tables / "certified_accuracy.md").read_text()
    assert "No published numbers stand here: they are of CIFAR-10." in table
    trials = [small_trial("gaussian", 0.25, dataset="cifar10")]
    of_cifar10 = write_fake_run(fake_run.path.with_name("cifar"), trials)
    capsys.readouterr()
    assert bench("report", str(of_cifar10.path), "--published", "jeong2023_logs") == 0
    assert "cat_rs" in capsys.readouterr().out
    assert bench("published") == 0
    assert "jeong2023_logs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "RUN", "--published", "me"], "unknown source of published numbers 'me'; known: thesis"),
        (
            ["compare", "RUN", "--methods", "generalised_ld,macr"],
            "no trial is macr; there are generalised_ld, gaussian",
        ),
        (["compare", "RUN", "--methods", "generalised_ld"], "there are no two methods"),
        (["compare", "nowhere"], "nowhere/certificates.parquet does not exist"),
        (["compare", "s4://bucket/run"], "s4://bucket/run: cannot be opened"),
        (["import", "none.tsv", "--method", "a", "--sigma", "1", "--out", "out"], "none.tsv: no such file"),
        (["import", "bad.tsv", "--method", "a", "--sigma", "1", "--out", "out"], "bad.tsv:2: has 3 fields"),
        (["import", "bad.tsv", "--method", "a/b", "--sigma", "1", "--out", "out"], "--method 'a/b'"),
        (["import", "bad.tsv", "--method", "a", "--sigma", "nan", "--out", "out"], "--sigma nan"),
        (["import", "bad.tsv", "--method", "a", "--sigma", "1", "--n", "9" * 20, "--out", "out"], "--n 9999"),
        (["import", "bad.tsv", "--out", "out"], "bad.tsv: its path does not say σ"),
        (["import", ".", "--method", "a", "--sigma", "1", "--out", "out"], "the path of 1 log says of it stands above"),
    ],
)
def test_a_mistake_gets_one_sentence_and_leaves_nothing(
    arguments: list[str],
    message: str,
    fake_run: RunFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    merge_run(fake_run)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.tsv").write_text("idx\tlabel\tpredict\tradius\tcorrect\ttime\n1\t2\t3\n")
    there = sorted(path.name for path in tmp_path.iterdir())
    assert bench(*(str(fake_run.path) if word == "RUN" else word for word in arguments)) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("error: ")
    assert len(printed.err.strip().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == there


@pytest.mark.parametrize("name", ["certificates", "trials", "epochs", "spectra"])
def test_corrupt_and_empty_files_get_one_sentence(
    name: str, fake_run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    merge_run(fake_run)
    fake_run.description.unlink()  # so that nothing is merged again
    path = fake_run.path / f"{name}.parquet"
    for content in (b"", b"PAR1" + b"\0" * 100, path.read_bytes()[:-20]):
        path.write_bytes(content)
        assert bench("report", str(fake_run.path)) == 2
        printed = capsys.readouterr().err
        assert f"{name}.parquet: not readable as Parquet" in printed
        assert len(printed.strip().splitlines()) == 1


def test_an_empty_run_has_nothing_to_report(fake_run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    merge_run(fake_run)
    fake_run.description.unlink()
    for path in (fake_run.certificates, fake_run.trials, fake_run.epochs):
        pq.write_table(pq.read_table(path).slice(0, 0), path)
    assert read_run(fake_run.path).trials.empty
    assert bench("report", str(fake_run.path)) == 2
    assert "no trial is finished" in capsys.readouterr().err
