"""What a run plans to do, without doing it."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.machine import resources
from bench.runner import jobs, work
from bench.runner.grid import trials_of
from bench.runner.stages import unfinished
from bench.runner.task import trial_task
from bench.runner.trial_work import COMPILE_PROCESSES, TrialWork
from bench.settings.grid import SHIPPED
from bench.settings.options import RunOptions
from cluster import ClusterError, GroupSize, Job
from results.store.description import RunError, add_trials, check_room
from results.store.folder import RunFolder, read_json
from results.store.lock import RunLock
from results.store.records import GroupRecord, RunRecord
from results.store.settings import ExternalTrial
from tests.conftest import SMALL, edit_record, here, small_trial, trial_ids, write_fake_run


def test_a_grid_with_an_ensemble_and_its_method_trains_each_member_once(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    trials = [small_trial(name, sigma) for sigma in (0.25, 0.5) for name in ("ensemble", "consistency")]
    add_trials(folder, trials)
    planned = jobs.plan_jobs(unfinished(trials, folder), folder, shard_size=4)
    assert len(planned) == 4 + 2 * 2  # seeds 1 and 2 at each σ; seed 0 is the consistency trial
    members = [job for job in planned if not job.task["certify"]]
    assert [job.task["settings"].count('"name":"consistency"') for job in members] == [1] * 4
    for ensemble in planned[-2:]:
        assert len(ensemble.after) == 3
        assert set(ensemble.after) <= {job.name for job in planned[:-2]}


def test_a_rate_that_would_fall_after_the_end_is_told(caplog: pytest.LogCaptureFixture) -> None:
    for name in SHIPPED:
        trials_of(RunOptions.of(grid=name, data="synthetic", set=["certify.images=1"]))
    assert caplog.messages == []
    trials_of(
        RunOptions.of(
            grid="thesis", data="synthetic", set=["certify.images=1", "train.epochs=60", "rows.macer.train={}"]
        )
    )
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("thesis: decay_epochs = [60]: not reached in 60 epochs, of generalised_ld, ")


def test_what_is_certified_needs_no_job_and_loses_its_stale_state(tmp_path: Path) -> None:
    folder, trial = RunFolder(tmp_path), small_trial(certify={"n": 20, "n0": 5, "images": 3})
    add_trials(folder, [trial])
    task = trial_task(trial, folder, certify=True, shard_size=2)
    work.train_trial(task)
    [job] = jobs.plan_jobs(unfinished([trial], folder), folder, shard_size=2)
    for shard in work.shards_left(task):
        work.certify(task, shard)
    assert folder.trial(job.name).state.exists()  # as after a kill between the last shard and the end
    assert unfinished([trial], folder) == {}
    assert not folder.trial(job.name).state.exists()


def test_a_retrained_member_makes_another_ensemble(tmp_path: Path) -> None:
    folder, ensemble = RunFolder(tmp_path), small_trial("ensemble")
    for member in ensemble.members:
        work.train_trial(trial_task(member, folder, certify=False, shard_size=1))
    task = trial_task(ensemble, folder, certify=True, shard_size=5)
    assert not work.epochs_left(task)
    for shard in work.shards_left(task):
        work.certify(task, shard)
    assert work.shards_left(task) == []
    record = folder.trial(ensemble.members[1].trial_id).training
    edit_record(record, checkpoint_sha256="0" * 64)  # weights that do not match: damaged
    assert work.epochs_left({**task, "settings": ensemble.members[1].model_dump_json()})
    with pytest.raises(RuntimeError, match="members are not trained"):
        work.epochs_left(task)


def test_a_later_command_adds_its_trials_and_replaces_equal_cells(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    add_trials(folder, [small_trial("gaussian"), small_trial("generalised_ld")])
    changed = small_trial("generalised_ld", certify={"n": 50})
    add_trials(folder, [changed, small_trial("macer")])
    names = [read_json(folder.trial(trial_id).settings)["name"] for trial_id in trial_ids(folder)]
    assert names == ["gaussian", "generalised_ld", "macer"]
    assert changed.trial_id in trial_ids(folder)


def test_a_trial_whose_folder_was_deleted_is_made_again_or_no_longer_part(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, trials = RunFolder(tmp_path), [small_trial("gaussian"), small_trial("macer"), small_trial("consistency")]
    add_trials(folder, trials)
    for trial in trials[:2]:
        shutil.rmtree(tmp_path / "trials" / trial.trial_id)
    add_trials(folder, trials[:1])
    assert folder.trial(trials[0].trial_id).settings.exists()
    assert RunRecord.read(folder.description).trials == [trials[2].trial_id, trials[0].trial_id]
    [warning] = caplog.messages
    assert f"{trials[1].trial_id} has been deleted" in warning


def test_a_folder_of_something_else_is_refused_and_one_of_a_killed_command_is_not(tmp_path: Path) -> None:
    (tmp_path / "trials").mkdir()
    add_trials(RunFolder(tmp_path), [small_trial()])
    (tmp_path / "run.json").unlink()
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunError, match=r"holds no run\.json"):
        add_trials(RunFolder(tmp_path), [small_trial()])


@pytest.mark.parametrize(
    ("nodes", "asked", "trials", "expected"),
    [
        ([(2, 0)], (None, None, None), 12, (2, 1, 0)),
        ([(16, 0)], (None, None, None), 12, (2, 8, 0)),
        ([(1, 0)], (None, None, None), 12, (1, 1, 0)),
        ([(64, 8)], (None, None, None), 12, (1, 8, 1)),  # eight trials side by side
        ([(64, 8)], (None, None, None), 8, (1, 8, 1)),
        ([(64, 8)], (None, None, None), 3, (2, 8, 1)),
        ([(64, 8)], (None, None, None), 1, (8, 8, 1)),
        ([(64, 8)], (8, None, None), 12, (8, 8, 1)),
        ([(64, 8)], (1, None, 1.0), 1, (1, 8, 1)),  # eight such groups fit
        ([(16, 1)], (1, None, 0.25), 12, (1, 4, 0.25)),
        ([(64, 8)], (4, 2.0, 0.0), 12, (4, 2, 0)),
        ([(4, 0), (64, 8), (64, 8)], (None, None, None), 1, (8, 8, 1)),  # a head without GPUs; of one node
        ([(4, 0), (64, 8), (64, 8)], (None, None, None), 5, (3, 8, 1)),
        ([(64, 8), (64, 8)], (16, None, None), 1, (16, 8, 1)),  # over two nodes
        ([(0, 0), (1, 0), (1, 0), (1, 0)], (3, None, None), 12, (3, 1, 0)),
    ],
)
def test_defaults_are_read_from_the_largest_node(
    nodes: list[tuple[float, float]],
    asked: tuple[int | None, float | None, float | None],
    trials: int,
    expected: tuple[int, float, float],
) -> None:
    size = jobs.default_group(*asked, nodes, trials)
    assert (size.workers, size.cpus_per_worker, size.gpus_per_worker) == expected


EIGHT, ONE_GPU, CPUS = [(64, 8)], [(16, 1)], [(2, 0)]


def group_left(run: RunFolder, before: tuple[int, float] | None, left: int, **asked: Any) -> tuple[int, float]:
    """Workers of a trial, and GPUs of a worker, of a run whose last command had `before`."""
    if before:
        group = GroupRecord(workers=before[0], cpus_per_worker=1, gpus_per_worker=before[1])
        add_trials(run, [small_trial()], group=group, trained_by=before[0])
    trains = asked.pop("trains", True)
    size = jobs.group_of(RunOptions.of(grid="smoke", **asked), run, left, trains=trains)
    return size.workers, size.gpus_per_worker


@pytest.fixture
def nodes_are(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[tuple[int, int]]], None]:
    def made(nodes: list[tuple[int, int]]) -> None:
        for place in ("bench.runner.jobs", "cluster.schedule"):
            monkeypatch.setattr(f"{place}.node_resources", lambda: nodes)
        monkeypatch.setattr(jobs, "driver_version", lambda: "")

    return made


def test_a_run_that_goes_on_keeps_its_number_of_workers(
    nodes_are: Callable[..., None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Weights depend on it, so that otherwise a run that was interrupted would not be what it would have been."""
    run = RunFolder(tmp_path)
    nodes_are(EIGHT)
    assert group_left(run, None, 2) == (4, 1)  # a new run
    assert group_left(run, (1, 1), 2) == (1, 1)  # what is left of more trials
    assert caplog.messages == ["trials train on 1 workers each, as before, and not on 4: --workers changes it"]
    assert group_left(run, (8, 1), 12) == (8, 1)
    caplog.clear()
    assert group_left(run, (1, 1), 2, trains=False) == (4, 1)  # counts do not depend on it
    assert group_left(run, (1, 1), 2, workers=4) == (4, 1)
    assert group_left(run, (1, 1), 2, fresh=True) == (4, 1)
    nodes_are(ONE_GPU)
    assert group_left(run, (8, 1), 2, gpus_per_worker=0.25) == (1, 0.25)
    assert caplog.messages == []
    assert group_left(run, (8, 1), 2) == (1, 1)  # there is no room any more
    assert "trials train on 1 workers now, and on 8 before, which changes weights: 8 workers with" in caplog.text
    nodes_are(CPUS)
    assert group_left(run, (1, 0), 12) == (1, 0)


def test_what_ends_where_nodes_share_no_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one of the same name on the disk of each."""
    trials = [small_trial(name) for name in ("gaussian", "macer", "consistency", "direct")]
    run, names = write_fake_run(tmp_path, trials), [trial.trial_id for trial in trials]
    run.trial(names[2]).training.unlink()
    left = {trial.trial_id: (trial, True) for trial in trials}

    def run_jobs(given: list[Job], *_: Any, **__: Any) -> dict[str, str]:
        assert sorted(job.name for job in given) == sorted(names)
        for name in (names[0], names[2]):
            run.trial(name).state.unlink()
        return {}

    monkeypatch.setattr(jobs, "run_jobs", run_jobs)
    looks, late = iter(range(0, 1000, 20)), run.trial(names[3]).state  # which is seen a little later
    monkeypatch.setattr("time.monotonic", lambda: next(looks))
    monkeypatch.setattr("time.sleep", lambda _: late.unlink(missing_ok=True))
    failed = jobs.run_trials(left, run, GroupSize(1, 1, 0), shard_size=5)
    assert failed.keys() == set(names[1:3])  # one waits still, as far as is seen here; the other was never trained
    assert set(failed.values()) == {f"it ended where {tmp_path} is another folder: all nodes must share that of --out"}


def test_a_group_for_which_there_is_no_room_is_refused(tmp_path: Path, nodes_are: Callable[..., None]) -> None:
    nodes_are(CPUS)
    with pytest.raises(ClusterError, match="3 workers with 1 CPU each do not fit"):
        jobs.group_of(RunOptions.of(grid="smoke", workers=3), RunFolder(tmp_path), 1, trains=True)


def test_fresh_deletes_the_run_and_nothing_else(fake_run: RunFolder) -> None:
    place, own = here(fake_run.path), ("notes.md", "analysis/plot.py")
    for name in own:
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).touch()
    (place / "tensorboard").mkdir()
    check_room(fake_run, fresh=True)
    trial = small_trial("macer")
    add_trials(fake_run, [trial], fresh=True)
    assert RunRecord.read(fake_run.description).trials == [trial.trial_id]
    assert sorted(path.name for path in place.iterdir()) == ["analysis", "notes.md", "run.json", "trials"]
    assert [path.name for path in (place / "trials").iterdir()] == [trial.trial_id]
    assert (place / "analysis" / "plot.py").exists()


def test_fresh_refuses_what_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"name": "of another program"}')
    with pytest.raises(RunError, match=r"run\.json is not of a run: --fresh deletes runs only"):
        check_room(RunFolder(tmp_path), fresh=True)
    (tmp_path / "run.json").write_text("{")
    check_room(RunFolder(tmp_path), fresh=True)  # damaged, as far as can be told


def test_fresh_waits_for_a_report_that_is_being_made(fake_run: RunFolder) -> None:
    starting = threading.Thread(target=add_trials, args=[fake_run, []], kwargs={"fresh": True})
    with RunLock(fake_run, name="report"):
        starting.start()
        starting.join(1)
        assert starting.is_alive()
        assert trial_ids(fake_run)
    starting.join()
    assert not trial_ids(fake_run)


def test_gpus_that_ray_does_not_find_are_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for driver, asked, nodes in [("", None, (2, 0)), ("580.65", 0.0, (2, 0)), ("580.65", None, (16, 1))]:
        monkeypatch.setattr(jobs, "driver_version", lambda driver=driver: driver)
        jobs.default_group(None, None, asked, [nodes], 12)
    assert caplog.messages == []
    monkeypatch.setattr(jobs, "driver_version", lambda: "580.65")
    assert jobs.default_group(None, None, None, [(2, 0)], 12).gpus_per_worker == 0
    assert caplog.messages == ["computing on CPUs: this machine has NVIDIA's driver 580.65, but Ray finds no GPU"]


def test_parts_of_gpus_are_refused_for_several_workers() -> None:
    with pytest.raises(resources.ResourceError, match="must be 0 or 1"):
        jobs.default_group(2, None, 0.5, [(64, 8)], 12)


def test_a_containers_quota_limits_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(resources, "CPU_QUOTA", quota)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)))
    assert resources.usable_cores() == 64  # no such file
    for text, cores in (("max 100000", 64), ("200000 100000", 2), ("50000 100000", 1)):
        quota.write_text(text + "\n")
        assert resources.usable_cores() == cores


def test_which_setting_differs_is_said_of_a_trial_that_is_replaced_or_in_the_way(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path)
    trials = [small_trial("gaussian"), small_trial("macer")]
    add_trials(folder, trials)
    changed = [small_trial(trial.name, certify={**SMALL["certify"], "n": 50}, data="elsewhere") for trial in trials]
    add_trials(folder, changed)
    add_trials(folder, changed)
    [told] = [record.getMessage() for record in caplog.records]
    which = f"{trials[0].trial_id} and 1 more of an earlier command are replaced"
    assert told == f"{tmp_path}: {which} (certify.n = 40 there, 50 here)"
    foreign = ExternalTrial(name="macer", sigma=0.25, model="a:b", weights="0" * 64)
    with pytest.raises(
        RunError, match=r"already \(dataset = 'synthetic' there, '' here; .*; \d+ more\): give another name or"
    ):
        add_trials(folder, [foreign], replace=False)
    options = small_trial("generalised_ld", options={"strength": 5.0})
    add_trials(folder, [small_trial("generalised_ld"), *changed])
    with pytest.raises(RunError, match=r"\(options\.strength = not given there, 5\.0 here\)"):
        add_trials(folder, [options], replace=False)


def test_a_worker_compiles_in_as_many_processes_as_it_has_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so before it imports what comes with torch, which reads it when it is imported."""
    monkeypatch.setenv(COMPILE_PROCESSES, "")  # and is put back
    monkeypatch.delenv(COMPILE_PROCESSES)
    with monkeypatch.context() as first_import:
        first_import.delattr("bench.runner.work")
        for module in ("bench.machine.devices", "bench.runner.work"):
            first_import.setitem(sys.modules, module, None)
        with pytest.raises(ImportError):
            TrialWork().prepare(3.5, 0)
    assert os.environ[COMPILE_PROCESSES] == "3"
    from torch._inductor.config import decide_compile_threads  # takes a second, which only this test needs

    assert decide_compile_threads() == 3


def test_a_worker_compiles_in_as_many_processes_as_its_user_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMPILE_PROCESSES, "7")
    TrialWork().prepare(3.5, 0)
    assert os.environ[COMPILE_PROCESSES] == "7"
