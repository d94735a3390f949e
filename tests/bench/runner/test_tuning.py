"""A search from its grid to the grid that comes of it, with what workers do done in this process."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import cluster
from bench.audit.search_cost import training_cost
from bench.data import DataError, dataset_name, load_images
from bench.runner import rungs, work
from bench.runner.grid import run_grid
from bench.runner.task import note, trial_task
from bench.runner.tuning import Search, TuneAudience, Tuned, searches_of, tune_grid
from bench.settings.grid import GridError, load_grid
from bench.settings.options import RunOptions
from bench.settings.trial import Trial
from bench.settings.tuning import Space, TuneOptions
from cluster import Job
from results.store.description import RunError, add_trials
from results.store.folder import RunFolder, sha256_of
from results.store.rows import SearchRow, check_values
from results.store.schema import CERTIFICATES, SEARCH, read_table
from results.toml import to_toml
from tests.bench.data.pictures import sealed_parquet
from tests.conftest import small_trial, write_fake_run

GRID = """
methods = ["consistency", "gaussian"]
sigmas = [0.25, 0.5]
model = "tiny"
width = 4
train = {{ epochs = 3, decay_epochs = [2], learning_rate = {rate}, batch = 64, images = 90, precision = "fp32" }}
certify = {{ n = 40, n0 = 10, images = 12, precision = "fp32" }}
rows.consistency.options = {{ strength = {{ "0.25" = 2.0, "0.5" = 1.0, "1.0" = 4.0 }} }}
"""


class Nobody(TuneAudience):
    def plans(self, _: list[Search]) -> None:
        pass

    def begins(self, *_: object) -> None:
        pass

    def watching(self, _: RunFolder) -> Any:
        return nullcontext()

    def fails(self, *_: object) -> None:
        pass


@dataclass
class Workers:
    """What `cluster.run_jobs` does, in this process; stopped after so many jobs."""

    patience: int = 1000
    trained: list[str] = field(default_factory=list)

    def __call__(self, jobs: list[Job], *_: object, more: Callable[[str], list[Job]], **__: object) -> dict[str, str]:
        waiting, ended = list(jobs), set[str]()
        while waiting:
            if len(ended) == self.patience:
                raise KeyboardInterrupt
            job = next(job for job in waiting if ended.issuperset(job.after))
            waiting.remove(job)
            self.do(job.name, job.task)
            ended.add(job.name)
            waiting += more(job.name)
        return {}

    def do(self, name: str, task: Any) -> None:
        if rungs.epochs_left(task):
            rungs.train_rung(task)
            self.trained.append(name)
        for shard in rungs.shards_left(task):
            work.certify(task, shard)
        note(task, None)


@pytest.fixture(scope="module", autouse=True)
def _no_ray() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "connected", lambda *_, **__: nullcontext())
        for place in ("bench.runner.jobs", "cluster.schedule"):
            patch.setattr(f"{place}.node_resources", lambda: [(2.0, 0.0)])
        load_images.cache_clear()
        yield
    load_images.cache_clear()


def search(grid: Path, out: Path, workers: Workers, *, budget: float = 10.0, **given: Any) -> Tuned:
    tune = TuneOptions(budget=budget, **{"held_out": 12, "n": 40, **given.pop("tune", {})})
    options = RunOptions.of(**{"grid": grid, "out": out, "sigmas": [0.25], **given})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "run_jobs", workers)
        return tune_grid(
            options,
            tune,
            searches_of(options, tune, training_cost),
            address=None,
            allow_unauthenticated=False,
            audience=Nobody(),
        )


def write_grid(folder: Path, rate: float = 0.05) -> Path:
    path = folder / "grid.toml"
    path.write_text(GRID.format(rate=rate))
    return path


def rows_of(tuned: Tuned) -> pd.DataFrame:
    table = read_table(tuned.folder.search, SEARCH)
    check_values(table, SearchRow, tuned.folder.search)
    found: pd.DataFrame = table.to_pandas()
    return found


@dataclass
class Ended:
    place: Path
    grid: Path
    data: Path
    workers: Workers
    tuned: Tuned


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """On data whose test images cannot be opened."""
    place = tmp_path_factory.mktemp("search")
    data, grid, workers = sealed_parquet(place / "images", 120), write_grid(place), Workers()
    return Ended(place, grid, data, workers, search(grid, place / "out", workers, data=data))


def test_a_search_trains_and_certifies_where_no_test_image_can_be_opened(ended: Ended) -> None:
    with pytest.raises(DataError):
        dataset_name(str(ended.data))
    with pytest.raises(DataError):
        load_images(str(ended.data), "test")
    rows = rows_of(ended.tuned)
    assert rows["acr"].notna().all()
    assert set(rows["method"]) == {"consistency"}  # the other has nothing to search


def test_every_step_is_a_row_with_its_cost_and_what_came_of_it(ended: Ended) -> None:
    """Three configurations for an epoch and the best for two more, at two passes of every image each: 3·2 + 4."""
    rows = rows_of(ended.tuned)
    assert rows["configuration"].tolist()[:3] == [0, 1, 2]
    assert rows["epochs"].tolist() == [1, 1, 1, 3]
    assert rows["cost"].tolist() == [2.0, 2.0, 2.0, 4.0]
    best = rows["configuration"][3]
    assert best == rows["acr"][:3].argmax()
    assert rows["outcome"].tolist() == ["promoted" if best == number else "stopped" for number in range(3)] + [
        "finished"
    ]
    assert rows["chosen"].tolist() == [False, False, False, True]
    assert (rows["acr_error"] >= 0).all()
    assert (rows["seconds"] > 0).all()
    options = [json.loads(text) for text in rows["options"]]
    assert options[0] == {"strength": 2.0, "entropy_weight": 0.5}  # the grid's own
    assert len({*map(str, options)}) == 3
    metadata = read_table(ended.tuned.folder.search, SEARCH).schema.metadata
    assert metadata is not None
    assert (metadata[b"budget"], metadata[b"held_out"]) == (b"10.0", b"12")


def test_the_score_is_acr_on_the_training_images_that_were_not_trained_on(ended: Ended) -> None:
    rows = rows_of(ended.tuned)
    folder = ended.tuned.folder.trial(rows["trial_id"][3])
    shards: pd.DataFrame = pa.concat_tables(
        read_table(path, CERTIFICATES).cast(CERTIFICATES) for path in folder.shard_files()
    ).to_pandas()
    assert set(shards["split"]) == {"held out of train"}
    assert len(shards) == 12
    assert rows["acr"][3] == pytest.approx((shards["radius"] * shards["correct"]).mean(), abs=1e-12)
    labels = [number % 3 for number in range(120)][::10]
    assert shards.sort_values("index")["label"].tolist() == labels
    assert set(shards["n0"]) == {10}


def test_a_rung_ends_with_the_weights_of_a_training_that_was_never_interrupted(ended: Ended, tmp_path: Path) -> None:
    trial_id = rows_of(ended.tuned)["trial_id"][3]
    there = ended.tuned.folder.trial(trial_id)
    trial = Trial.read(there.settings)
    run = RunFolder(tmp_path / "run")
    add_trials(run, [trial])
    work.train_trial(trial_task(trial, run, certify=True, shard_size=16))
    assert sha256_of(run.trial(trial_id).model) == sha256_of(there.model)
    assert trial.train.images is None or trial.train.images < 108  # 120 but for twelve


def test_a_second_command_does_nothing_again_and_a_larger_budget_goes_on(ended: Ended, tmp_path: Path) -> None:
    out, before, again, more = tmp_path / "out", rows_of(ended.tuned), Workers(), Workers()
    shutil.copytree(ended.place / "out", out)
    text = (out / "tuned.toml").read_text()
    assert rows_of(search(ended.grid, out, again, data=ended.data)).equals(before)
    assert again.trained == []
    assert (out / "tuned.toml").read_text() == text
    larger = rows_of(search(ended.grid, out, more, data=ended.data, budget=12.5))
    assert larger[:4].equals(before)
    assert more.trained == larger["trial_id"].tolist()[4:]
    assert larger["configuration"].tolist()[4:] == [3]


def test_a_search_that_was_stopped_goes_on_with_what_is_left(ended: Ended) -> None:
    stopped, rest = Workers(patience=2), Workers()
    out = ended.place / "stopped"
    with pytest.raises(KeyboardInterrupt):
        search(ended.grid, out, stopped, data=ended.data)
    assert not (out / "tuned.toml").exists()
    assert len(read_table(out / "search.parquet", SEARCH)) == 2
    found = rows_of(search(ended.grid, out, rest, data=ended.data))
    assert stopped.trained + rest.trained == ended.workers.trained
    whole = rows_of(ended.tuned)
    assert found.drop(columns="seconds").equals(whole.drop(columns="seconds"))


def test_the_new_grid_has_the_best_options_at_every_sigma(ended: Ended) -> None:
    grid, before = load_grid(str(ended.tuned.folder.tuned)), load_grid(str(ended.grid))
    assert grid.certify == before.certify
    assert grid.train == before.train
    assert grid.data == str(ended.data)
    best = json.loads(rows_of(ended.tuned)["options"][3])
    trials = {trial.name: trial for trial in grid.trials()}
    assert trials["consistency"].objective.strength == best["strength"]  # type: ignore[attr-defined]
    assert trials["consistency"].objective.entropy_weight == best["entropy_weight"]  # type: ignore[attr-defined]
    assert trials["gaussian"].options == {}
    kept = grid.rows["consistency"].options["strength"]
    assert kept == {"0.25": best["strength"], "0.5": 1.0, "1.0": 4.0}


@pytest.mark.parametrize("name", ["smoke", "lite", "paper", "thesis", "ablation"])
def test_a_grid_written_as_toml_is_the_same_grid(name: str, tmp_path: Path) -> None:
    grid = load_grid(name)
    odd = grid.model_copy(update={"description": 'a "quoted" \\ line\n\x7f of Σ', "data": "/a folder/'x'"})
    for number, each in enumerate((grid, odd)):
        path = tmp_path / f"{number}.toml"
        path.write_text(to_toml(each.model_dump()), encoding="utf-8")
        assert load_grid(str(path)) == each


def test_a_training_that_diverges_is_a_result_and_is_not_tried_again(ended: Ended, tmp_path: Path) -> None:
    grid, workers, again = write_grid(tmp_path, rate=1e30), Workers(), Workers()
    tuned = search(grid, tmp_path / "out", workers, data=ended.data, budget=10.0)
    rows = rows_of(tuned)
    assert set(rows["outcome"]) == {"failed"}
    assert rows["acr"].isna().all()
    assert rows["reason"].str.startswith("the loss became").all()
    assert not rows["chosen"].any()
    assert len(rows) == 5  # the budget is for others then
    assert load_grid(str(tuned.folder.tuned)).trials()[0].objective.strength == 2.0  # type: ignore[attr-defined]
    assert rows_of(search(grid, tmp_path / "out", again, data=ended.data, budget=10.0)).equals(rows)
    assert again.trained == []


@pytest.mark.slow
def test_an_ensemble_is_searched_by_training_its_members_and_a_student_with_its_teacher(
    ended: Ended, tmp_path: Path
) -> None:
    """At two σ, whose students at one rung have the same teacher."""
    workers = Workers()
    changes = ["rows.cat_rs.options={copies = 2, steps = 1, teacher_copies = 3}", "train.images=40"]
    methods, sigmas = ["ensemble", "cat_rs"], [0.25, 0.5]
    given: dict[str, Any] = {"data": ended.data, "methods": methods, "sigmas": sigmas, "set": changes}
    tuned = search(ended.grid, tmp_path / "out", workers, budget=36.0, **given)
    rows = rows_of(tuned)
    for _, found in rows.groupby(["method", "sigma"]):
        assert found["epochs"].tolist()[:4] == [1, 1, 1, 3]
        assert found["acr"].notna().all()
    assert set(rows["cost"][(rows["method"] == "ensemble") & (rows["rung"] == 0)]) == {6.0}  # three members
    assert sum(name.startswith("gaussian") for name in workers.trained) == 2  # a teacher for each rung
    assert len(workers.trained) == len(set(workers.trained))


def test_configurations_are_the_same_at_every_sigma_and_others_with_another_seed() -> None:
    low, high = (Space(small_trial("consistency", sigma), 0) for sigma in (0.25, 0.5))
    other = Space(small_trial("consistency"), 1)
    drawn = [low.options(number) for number in range(50)]
    assert drawn == [high.options(number) for number in range(50)]
    assert drawn[0] == other.options(0) == {"strength": 10.0, "entropy_weight": 0.5}
    assert drawn[1] != other.options(1)
    strengths = np.array([options["strength"] for options in drawn[1:] if options])
    assert 15 < (strengths < 40**0.5).sum() < 35  # half of them, by factors
    assert len({str(options) for options in drawn}) == 50


def test_a_space_with_few_configurations_comes_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    from methods import Among
    from methods.smoothmix import SmoothMix

    monkeypatch.setattr(SmoothMix, "search", {"mix_step": Among((0, 1, 2, 3))})
    space = Space(small_trial("smoothmix", options={"steps": 2}), 0)
    found = [space.options(number) for number in range(4)]
    assert sorted(options["mix_step"] for options in found if options) == [0, 1, 2]  # of two steps there is no third
    assert found[3] is None


def test_what_cannot_be_searched_is_refused_in_one_sentence(ended: Ended, tmp_path: Path) -> None:
    nobody = Workers()
    with pytest.raises(GridError, match=r"--budget = 9: must be at least 10, with .* of consistency at σ"):
        search(ended.grid, tmp_path, nobody, data=ended.data, budget=9.0)
    with pytest.raises(GridError, match="gaussian: must have a method that says which of its options are searched"):
        search(ended.grid, tmp_path, nobody, data=ended.data, methods=["gaussian"])
    with pytest.raises(GridError, match="--n: n = 5 with alpha"):
        search(ended.grid, tmp_path, nobody, data=ended.data, tune={"n": 5})
    with pytest.raises(DataError, match="120 training images were to be held out, the data has 120"):
        search(ended.grid, tmp_path, nobody, data=ended.data, tune={"held_out": 120})
    with pytest.raises(GridError, match="--held-out = 1: "):
        TuneOptions.of(budget=1.0, held_out=1)
    run = write_fake_run(tmp_path / "run", [small_trial()])
    before = run.description.read_bytes()
    with pytest.raises(RunError, match="holds a run, not a search: give --out another folder"):
        search(ended.grid, tmp_path / "run", nobody, data=ended.data)
    assert not run.search.exists()
    assert run.description.read_bytes() == before


def test_a_search_where_nodes_share_no_folder_is_told_so(ended: Ended, tmp_path: Path) -> None:
    class Elsewhere(Workers):
        def do(self, name: str, task: Any) -> None:
            """On another disk, under the same path."""

    tuned = search(ended.grid, tmp_path / "out", Elsewhere(), data=ended.data)
    assert tuned.failed
    assert set(tuned.failed.values()) == {
        f"it ended where {tmp_path / 'out'} is another folder: all nodes must share that of --out"
    }


def test_a_run_does_not_go_into_the_folder_of_a_search(ended: Ended) -> None:
    with pytest.raises(RunError, match="holds a search, not a run: give --out another folder"):
        run_grid(str(ended.grid), out=ended.place / "out", data="synthetic", set=["train.images=90"], quiet=True)


def test_the_plan_of_a_search_keeps_to_its_budget(ended: Ended) -> None:
    found: Search = ended.tuned.searches[0]
    plan = found.plan()
    assert (len(plan.steps), plan.spent) == (4, 10.0)


@pytest.mark.slow
def test_a_search_whose_command_is_killed_ends_as_one_that_was_not(ended: Ended, tmp_path: Path) -> None:
    """On Ray, by the command, on the data whose test images cannot be opened."""

    def command(out: str) -> list[str]:
        words = (
            f"tune --grid {ended.grid} --data {ended.data} --sigmas .25 --held-out 12 --n 40 --budget 10 --workers 1"
        )
        return [sys.executable, "-m", "bench", *words.split(), "--json", "--out", str(tmp_path / out)]

    whole = subprocess.run(command("whole"), capture_output=True, text=True, check=False)
    assert whole.returncode == 0, whole.stderr
    killed, path = subprocess.Popen(command("killed")), tmp_path / "killed" / "search.parquet"
    while not path.exists() or len(read_table(path, SEARCH)) < 2:
        assert killed.poll() is None
        time.sleep(0.2)
    killed.kill()
    killed.wait()
    rest = subprocess.run(command("killed"), capture_output=True, text=True, check=False)
    assert json.loads(rest.stdout) == json.loads(whole.stdout), rest.stderr
    before, after = (read_table(tmp_path / out / "search.parquet", SEARCH).to_pandas() for out in ("whole", "killed"))
    assert after.drop(columns="seconds").equals(before.drop(columns="seconds"))
