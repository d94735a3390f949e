from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import ClusterError, GroupSize, Job, run_jobs
from tests.cluster.local import local_cluster
from tests.cluster.toys import SteppingWork, ToyWork, job, notes, shards

WORK = ToyWork()
TWO = GroupSize(workers=2, cpus_per_worker=1, gpus_per_worker=0)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with local_cluster(cpus=2):
        yield


@pytest.fixture(scope="module")
def ended(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:  # noqa: ARG001
    """The folder of jobs that one group ran, one after the other, and those that failed; a test looks at one or two."""
    folder = tmp_path_factory.mktemp("jobs")
    jobs = [
        job(folder, "good"),
        job(folder, "bad", train_raises=True),
        job(folder, "last", after=["bad", "good"]),
        job(folder, "peer", a_peer_complains_first=True),
        job(folder, "broken", connection_breaks=True),
        job(folder, "death", certify_dies=2),
    ]
    return folder, run_jobs(jobs, WORK, TWO)


def test_a_group_trains_together_and_shares_the_shards(ended: tuple[Path, dict[str, str]]) -> None:
    folder, failed = ended
    assert "good" not in failed
    trained = {note for note in notes(folder, "good") if note.startswith("train")}
    assert trained == {"train rank 0 of 2", "train rank 1 of 2"}
    assert shards(folder, "good") == [0, 1, 2, 3]
    assert len({note.split()[-1] for note in notes(folder, "good") if note.startswith("shard")}) == 2
    assert not (folder / "good" / "state.json").exists()


def test_a_failing_job_says_why_and_stops_no_other(ended: tuple[Path, dict[str, str]]) -> None:
    folder, failed = ended
    assert failed["bad"] == "the loss became nan"
    assert json.loads((folder / "bad" / "state.json").read_text()) == {
        "state": "failed",
        "error": "the loss became nan",
    }
    assert "the loss became nan" in (folder / "bad" / "log.txt").read_text()
    assert "last" not in failed
    assert shards(folder, "last") == [0, 1, 2, 3]


def test_of_several_ranks_errors_the_cause_is_told(ended: tuple[Path, dict[str, str]]) -> None:
    _, failed = ended
    assert failed["peer"] == "the loss became nan"


def test_a_broken_connection_without_a_cause_is_tried_again(ended: tuple[Path, dict[str, str]]) -> None:
    folder, failed = ended
    assert "broken" not in failed
    assert shards(folder, "broken") == [0, 1, 2, 3]


def test_a_dead_worker_is_replaced_and_its_shard_done_again(ended: tuple[Path, dict[str, str]]) -> None:
    folder, failed = ended
    assert "death" not in failed
    assert shards(folder, "death") == [0, 1, 2, 3]
    assert (folder / "death" / "died").exists()


def test_jobs_may_follow_from_the_end_of_others_and_find_the_same_workers(tmp_path: Path) -> None:
    names: list[str] = []

    def more(ended: str) -> list[Job]:
        names.append(ended)
        return [job(tmp_path, f"{ended}+", train_raises=len(ended) == 3)] if len(ended) < 4 else []

    assert run_jobs([job(tmp_path, "a")], WORK, GroupSize(1, 1, 0), more=more) == {"a+++": "the loss became nan"}
    assert names == ["a", "a+", "a++", "a+++"]
    assert shards(tmp_path, "a++") == [0, 1, 2, 3]
    workers = {note.split()[-1] for name in names[:3] for note in notes(tmp_path, name) if note.startswith("shard")}
    assert len(workers) == 1


def test_what_goes_wrong_between_jobs_is_raised_as_it_is(tmp_path: Path) -> None:
    def more(ended: str) -> list[Job]:
        raise KeyError(ended)

    with pytest.raises(KeyError, match="'a'"):
        run_jobs([job(tmp_path, "a"), job(tmp_path, "b", after=["a"])], WORK, GroupSize(1, 1, 0), more=more)
    assert shards(tmp_path, "a") == [0, 1, 2, 3]
    assert not (tmp_path / "b" / "notes.txt").exists()


STALLED_AFTER = 6.0  # seconds, or 12 in which the work does not go on
LONG = 16


@pytest.mark.slow
@pytest.mark.sample
def test_a_worker_that_answers_while_its_work_hangs_is_replaced(tmp_path: Path) -> None:
    """And one whose work goes on slowly, or that says that it is loading, is not."""
    hangs = job(tmp_path, trained=True, shards=3, long=LONG)
    assert run_jobs([hangs], SteppingWork(), TWO, stalled_after=STALLED_AFTER) == {}
    assert shards(tmp_path) == [0, 1, 2]
    begun = sorted(note for note in notes(tmp_path) if note.startswith("begin"))
    assert begun == ["begin 0", "begin 0", "begin 1", "begin 2"]


@pytest.mark.slow
def test_a_training_that_hangs_is_begun_again_and_one_whose_ranks_wait_is_not(tmp_path: Path) -> None:
    assert run_jobs([job(tmp_path, shards=0, long=LONG)], SteppingWork(), TWO, stalled_after=STALLED_AFTER) == {}
    noted = sorted(note for note in notes(tmp_path) if note != "asked")
    assert noted == ["hang rank 0", "hang rank 1", *["train rank 0"] * 2, *["train rank 1"] * 2]


@pytest.mark.slow
def test_jobs_start_after_those_they_need(tmp_path: Path) -> None:
    jobs = [job(tmp_path, "ensemble", after=["a", "b"]), job(tmp_path, "a"), job(tmp_path, "b")]
    assert run_jobs(jobs, WORK, GroupSize(1, 1, 0)) == {}
    started = {name: (tmp_path / name / "notes.txt").stat().st_ctime for name in ("ensemble", "a", "b")}
    assert max(started, key=lambda name: started[name]) == "ensemble"


@pytest.mark.slow
def test_what_is_trained_is_not_trained_again(tmp_path: Path) -> None:
    assert run_jobs([job(tmp_path, trained=True)], WORK, TWO) == {}
    assert not any(note.startswith("train") for note in notes(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("death", ["train_dies", "one_dies_and_the_others_fail"])
def test_a_training_whose_worker_dies_is_done_again(tmp_path: Path, death: str) -> None:
    task: dict[str, Any] = {death: True}
    assert run_jobs([job(tmp_path, **task)], WORK, TWO) == {}
    assert shards(tmp_path) == [0, 1, 2, 3]


@pytest.mark.slow
def test_a_shard_that_kills_its_workers_fails_after_three_attempts_and_the_rest_completes(tmp_path: Path) -> None:
    assert run_jobs([job(tmp_path, poison=1)], WORK, TWO).keys() == {"job"}
    assert notes(tmp_path).count("poisoned 1") == 3
    assert shards(tmp_path) == [0, 2, 3]
    error = json.loads((tmp_path / "job" / "state.json").read_text())["error"]
    assert error.startswith("a shard failed 3 times: images 1 to 1: ")
    assert "\n" not in error


def test_a_group_that_never_fits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"3 workers with 1 CPU each do not fit .* has 2 CPU, 0 GPU"):
        run_jobs([job(tmp_path)], WORK, GroupSize(3, 1, 0))
    with pytest.raises(ClusterError, match="2 workers with 1 CPU and 1 GPU each do not fit"):
        run_jobs([job(tmp_path, "other")], WORK, GroupSize(2, 1, 1))


def test_a_worker_that_does_not_start_is_said_with_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("cluster.schedule.STARTS_WITHIN", 0.1)
    monkeypatch.setattr("cluster.schedule.STARTS_ARE_LOOKED_AT_EVERY", 0.1)
    monkeypatch.setattr("cluster.private.driver._global_node.get_logs_dir_path", lambda: str(tmp_path))
    (tmp_path / "raylet.err").write_text("bash: /my: not found\n[2026-11-25 14:17:29,703 E] (raylet) has died\n")
    (tmp_path / "worker-1.err").write_text(":job_id:01\n:actor_name:W\n\n")
    assert run_jobs([job(tmp_path)], WORK, GroupSize(1, 1, 0)) == {}
    [told] = [record.getMessage() for record in caplog.records if "not started" in record.getMessage()]
    assert f"({tmp_path}/raylet.err ends: bash: /my: not found)" in told
