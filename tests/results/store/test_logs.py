from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from scipy.special import ndtri

from results import average_certified_radius, certified_accuracy, read_run
from results.store.description import RunError
from results.store.folder import RunFolder
from results.store.logs import LogError, import_log, import_logs, read_log, stated
from results.store.merge import MergeError, merge_run
from tests.conftest import here, small_trial, trial_ids, write_fake_run
from tests.results.store.logs import GOOD, HEADER, REFERENCE, RESULTS, result, write_log

LOGS = [
    ("cohen2019_cifar10_resnet110_sigma0.25_skip20.tsv", "noise_0.25/test/sigma_0.25"),
    ("cohen2019_cifar10_resnet110_sigma0.50_skip20.tsv", "noise_0.50/test/sigma_0.50"),
    ("jeong2020_consistency_cifar10_resnet110_sigma0.25_full.tsv", "lbd_20.0/eta_0.5/cifar_resnet110/noise_0.25"),
    ("jeong2020_macer_cifar10_resnet20_sigma0.50_full.tsv", "cifar_resnet20/noise_0.50_6947"),
]


def imported(log: Path, out: Path, **given: object) -> tuple[RunFolder, list[str]]:
    run = RunFolder(out)
    warnings = import_log(log, stated(**{"name": "theirs", "sigma": 0.25, **given}), run)
    assert merge_run(run) == []
    return run, warnings


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the published logs are not part of the repository")
@pytest.mark.parametrize(("file", "path"), LOGS)
def test_published_logs_give_their_published_numbers(file: str, path: str, tmp_path: Path) -> None:
    table = pd.read_csv(REFERENCE / "published_logs.csv")
    expected = table[table["path"].str.endswith(path)].iloc[0]
    run, warnings = imported(REFERENCE / "logs" / file, tmp_path / "run", sigma=float(expected["certify_sigma"]))
    rows = read_run(run.path).certificates
    assert len(rows) == expected["n_rows"]
    assert average_certified_radius(rows) == pytest.approx(expected["acr"], abs=5.1e-5)
    for quarter in range(10):
        accuracy = 100 * certified_accuracy(rows, quarter / 4)
        assert accuracy == pytest.approx(expected[f"r{quarter / 4:.2f}"], abs=5.1e-3)
    too_large = expected["max_radius"] > expected["max_radius_allowed_n1e5_a1e-3"] * 1.003
    assert bool(warnings) == too_large
    if too_large:
        assert f"up to {expected['max_radius']:g}, are above" in warnings[0]


def test_an_imported_row_is_marked_and_its_counts_are_unknown(tmp_path: Path) -> None:
    run, warnings = imported(write_log(tmp_path, GOOD), tmp_path / "run", n=1000, alpha=0.01)
    assert warnings == []
    table = pq.read_table(run.certificates)
    for name in ("counts", "count_top", "selected", "joules"):
        assert table[name].null_count == 3
    rows = table.to_pylist()
    assert {row["estimator"] for row in rows} == {"imported"}
    assert [row["status"] for row in rows] == ["certified", "abstained", "certified"]
    assert [row["predicted"] for row in rows] == [3, -1, 5]
    assert [row["seconds"] for row in rows] == [15.4, 15.6, 90001]
    assert 0.25 * ndtri(rows[0]["p_lower"]) == pytest.approx(0.378)
    assert {(row["n"], row["alpha"]) for row in rows} == {(1000, 0.01)}


def test_marks_and_blanks_that_editors_leave_do_no_harm(tmp_path: Path) -> None:
    plain = write_log(tmp_path, GOOD)
    expected = read_log(plain, plain.read_bytes())
    text = plain.read_text(encoding="utf-8")
    for changed in ("\ufeff" + text, text.replace("\n", "\r\n"), text.replace("\n", "\t\n"), text + "\n  \n"):
        assert read_log(plain, changed.encode()) == expected


def test_what_pandas_wrote_reads_as_the_log_itself() -> None:
    plain = "\n".join([HEADER, *GOOD])
    expected = read_log(Path("x"), plain.encode())
    frame = pd.DataFrame(
        {
            "idx": [0, 20, 40],
            "label": [3, 7, 4],
            "predict": [3, -1, 5],
            "radius": [0.378, 0.0, 0.341],
            "correct": [True, False, False],
            "time": pd.to_timedelta(["15.4s", "15.6s", "90001s"]),
        }
    )
    for separator in ("\t", ","):
        for index in (True, False):
            text = frame.to_csv(sep=separator, index=index)
            assert "0 days 00:00:15.4" in text
            assert read_log(Path("x"), text.encode()) == expected
    commas = plain.replace("1 day, 1:00:01", '"1 day, 1:00:01"').replace("\t", ",")
    assert read_log(Path("x"), commas.encode()) == expected


ORIGINAL = "original_idx\tlabel\tpredict\tradius\tcorrect\ttime"


def test_henba1s_logs_are_imported_with_what_was_misclassified(tmp_path: Path) -> None:
    tabs = [ORIGINAL, "7\t3\t3\t0.378\t1\t0:00:08.1", "2\t7\t-2\t0.0\t1\t0:00:00", "5\t4\t-1\t0.0\t1\t0:00:08.1"]
    tabs.append("9\t1\t1\t0.5\t2\t0:00:08.1")  # the second that is correct
    commas = [RESULTS, result(7, 3, 3, 0.378), result(2, 7, -2, 0.0), result(5, 4, -1, 0.0), result(9, 1, 1, 0.5)]
    log = tmp_path / "a.log"
    for number, lines in enumerate((tabs, commas)):
        log.write_text("\n".join(lines) + "\n")
        run, _ = imported(log, tmp_path / f"run{number}")
        rows = read_run(run.path).certificates
        assert rows["index"].tolist() == [2, 5, 7, 9]
        assert rows["status"].tolist() == ["misclassified", "abstained", "certified", "certified"]
        assert rows["predicted"].tolist() == [-1, -1, 3, 1]
        assert rows["n"].tolist() == [0, 100_000, 100_000, 100_000]
        assert average_certified_radius(rows) == pytest.approx(0.878 / 4)
    log.write_text("\n".join(tabs).replace("0.5\t2", "0.5\t3"))
    with pytest.raises(LogError, match=r"a\.log:5: correct 3: does not follow"):
        imported(log, tmp_path / "run2")


def test_of_many_logs_those_that_are_refused_leave_no_trace(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "run", [small_trial("consistency")])
    logs = []
    for name, text in (("good", GOOD), ("bad", [*GOOD, "60\t1\t1\tabc\t1\t1"]), ("consistency", GOOD), ("more", GOOD)):
        folder = tmp_path / name
        folder.mkdir()
        logs.append((write_log(folder, text), stated(name=name, sigma=0.25)))
    logs.append((tmp_path / "gone.tsv", stated(name="gone", sigma=0.25)))
    logs.append((logs[1][0], stated(name="good", sigma=0.25)))
    logs.append((write_log(tmp_path, GOOD[:2]), stated(name="more", sigma=0.25)))
    outcomes = list(import_logs(logs, run))
    assert [outcome.refused is None for outcome in outcomes] == [True, False, False, True, False, False, False]
    reasons = [str(outcome.refused) for outcome in outcomes if outcome.refused is not None]
    for part, reason in zip(
        ("'abc': must be a number", "has consistency-sigma0.25", "No such file", "'abc'", "has more-sigma0.25"),
        reasons,
        strict=True,
    ):
        assert part in reason
    assert merge_run(run) == []
    assert read_run(run.path).trials["method"].tolist() == ["consistency", "good", "more"]
    assert len(list((here(run.path) / "trials").iterdir())) == 3


def test_the_limit_allows_for_three_digits(tmp_path: Path) -> None:
    # σ = .25, n = 100 000, alpha = .001: .95287 is printed as .953
    _, warnings = imported(write_log(tmp_path, ["0\t1\t1\t0.953\t1\t1"]), tmp_path / "one")
    assert warnings == []
    _, warnings = imported(write_log(tmp_path, ["0\t1\t1\t0.954\t1\t1"]), tmp_path / "two")
    assert "1 radii, up to 0.954, are above 0.9529" in warnings[0]


def test_every_twentieth_image_of_a_full_log_and_a_partial_log(tmp_path: Path) -> None:
    full = write_log(tmp_path, [f"{i}\t1\t1\t0.5\t1\t1" for i in range(95)])
    run, warnings = imported(full, tmp_path / "run", stride=20)
    assert read_run(run.path).certificates["index"].tolist() == [0, 20, 40, 60, 80]
    assert warnings == []
    holes = write_log(tmp_path, [f"{i}\t1\t1\t0.5\t1\t1" for i in (0, 20, 60, 80)])
    _, warnings = imported(holes, tmp_path / "holes")
    assert warnings == ["1 images are missing between its first and its last, the first is 40"]
    with pytest.raises(LogError, match="multiple of 20"):
        imported(write_log(tmp_path, ["7\t1\t1\t0.5\t1\t1"]), tmp_path / "none", stride=20)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("60\t1\t1\t0.5", "4 fields, the header has 6"),
        ("60\t1\t1\tabc\t1\t1", "radius 'abc': must be a number"),
        ("60\t1\t1\tnan\t1\t1", "radius 'nan'"),
        ("60\t1\t1\t-0.5\t1\t1", "radius '-0.5'"),
        ("60\t1\t-1\t0.5\t0\t1", "must be 0 where predict is -1"),
        ("60\t1\t2\t0.5\t1\t1", "correct 1: does not follow"),
        ("60.5\t1\t1\t0.5\t1\t1", "idx '60.5': must be a whole number"),
        ("-1\t1\t1\t0.5\t1\t1", "idx '-1'"),
        ("60\t1\t-2\t0.5\t0\t1", "predict '-2'"),
        ("60\t1\t1\t0.5\t1\tsoon", "time 'soon': must be seconds or h:mm:ss"),
        ("40\t4\t4\t0.5\t1\t1", "image 40 stands a second time, after line 4"),
        (HEADER, "idx 'idx'"),
    ],
)
def test_a_broken_line_is_named(line: str, reason: str, tmp_path: Path) -> None:
    log = write_log(tmp_path, [*GOOD, line])
    with pytest.raises(LogError, match=rf"a log\.tsv:5: .*{reason}"):
        read_log(log, log.read_bytes())
    with pytest.raises(LogError):
        imported(log, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "x.tsv"
    for content, reason in (
        (b"", "the header lacks idx"),
        (b"idx,label,predict,radius,correct,time\n", "has no images"),
        (b"'idx','label','predict','radius','correct','time'\n", "1: the header has blanks or quotes about its names"),
        (b"0.00000\t0.76300\n0.00500\t0.76130\n", "is no certification log: its first line is '0.00000"),  # *.tsv_acc
        (b"x\ty\n0.5\t0.8043\n", "is no certification log: its first line is 'x"),  # data/ecdf/*.csv
        (b"epoch\ttime\tlr\ttrain loss\n0\t3.53e+02\t0.1\t0.6\n", "is no certification log"),
        (b"idx; label; predict; radius; correct; time\n", "1: the header has semicolons instead of tabs"),
        (HEADER.replace("\t", "  ").encode(), "1: the header has blanks instead of tabs"),
        (HEADER.replace("\t", " \t ").encode(), "1: the header has blanks or quotes about its names"),
        (HEADER.replace("\ttime", "").encode(), "1: the header lacks time; expected"),
        (HEADER.replace("radius", "radius_l2").encode(), "1: the header lacks radius; expected"),
        (HEADER.encode(), "has no images"),
        (b"PAR1\xff\xfe", "not UTF-8"),
    ):
        with pytest.raises(LogError, match=reason):
            read_log(log, content)


@pytest.mark.parametrize(
    "name", ["radius_l1", "radius linf", "linf_radius", "l1radius", "radius(L∞)", "Radius_Inf", "certified radius l_0"]
)
@pytest.mark.parametrize("separator", ["\t", ", "])
def test_radii_in_another_norm_are_refused(name: str, separator: str) -> None:
    header = HEADER.replace("radius", name).replace("\t", separator)
    with pytest.raises(LogError, match=rf"x\.tsv:1: {re.escape(name)} is a radius in another norm"):
        read_log(Path("x.tsv"), f"{header}\n{GOOD[0]}\n".encode())


@pytest.mark.parametrize(
    ("stated", "reason"),
    [({"name": "../x"}, "--method"), ({"sigma": 0.0}, "--sigma"), ({"n": 0}, "--n 0"), ({"alpha": 1.0}, "--alpha")],
)
def test_what_is_stated_of_a_log_is_checked(stated: dict[str, object], reason: str, tmp_path: Path) -> None:
    with pytest.raises(LogError, match=reason):
        imported(write_log(tmp_path, GOOD), tmp_path / "run", **stated)


def test_a_log_stands_beside_measured_trials_and_never_in_place_of_one(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "run", [small_trial("consistency")])
    log = write_log(tmp_path, GOOD)
    for _ in range(2):  # a second time changes nothing
        imported(log, here(run.path), name="theirs")
        assert read_run(run.path).trials["method"].tolist() == ["consistency", "theirs"]
    with pytest.raises(RunError, match=r"has consistency-sigma0\.25-seed0-"):
        imported(log, here(run.path), name="consistency")
    rows = read_run(run.path).certificates
    assert rows.groupby("method")["count_top"].count().to_dict() == {"consistency": 12, "theirs": 0}


def test_merge_refuses_an_imported_shard_that_was_changed(tmp_path: Path) -> None:
    run, _ = imported(write_log(tmp_path, GOOD), tmp_path / "run")
    [shard] = run.trial(trial_ids(run)[0]).shard_files()
    table = pq.read_table(shard)
    pq.write_table(table.slice(0, 2), shard)
    with pytest.raises(MergeError, match="2 images, the log had 3"):
        merge_run(run)
    radius = table.column_names.index("radius")
    changed = table.set_column(radius, table.schema.field(radius), [np.array([0.3, 0.2, 0.1])])
    pq.write_table(changed, shard)
    with pytest.raises(LogError, match="image 20: it abstained with a radius"):
        merge_run(run)
