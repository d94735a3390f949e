"""The grid of the page as a TOML file that can be run again, and that a report says nothing of the machine."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from bench.settings.grid import SHIPPED, load_grid
from results import read_run
from results.report.page.settings import grids
from results.report.update import update_report
from results.store.folder import RunFolder
from results.store.merge import merge_run
from results.store.records import RunRecord, TrainingRecord
from results.store.secrecy import model_without_place, placeless, without_place
from results.store.settings import ExternalTrial
from results.store.shards import write_shard
from results.toml import to_toml
from tests.conftest import fake_row, here, small_trial, write_fake_run
from tests.results.report.pages import Parts

FOLDER = "/home/alice/secret-project/pictures"
GRID = {"methods": ["gaussian"], "sigmas": [0.25], "train": {"epochs": 2}, "rows": {"gaussian": {"method": None}}}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_grid_is_the_same_after_the_page(name: str, tmp_path: Path) -> None:
    grid = load_grid(name)
    path = tmp_path / "grid.toml"
    path.write_text(to_toml(grid.model_dump(mode="json")), encoding="utf-8")
    assert load_grid(str(path)) == grid


@pytest.mark.parametrize(
    "table",
    [
        {"a": 'quote " and \\ and \n, \x7f, \x01, é, 😀', "b c": 1, "": {"σ": {"x.y": [True, 1.5, "z"]}}},
        {"deep": {"er": {"options": {"by": {"0.25": 1e-300, "0.5": 2}, "n": 3}}}, "empty": {}, "none": None},
    ],
)
def test_odd_tables_come_back(table: dict[str, Any]) -> None:
    there = {key: value for key, value in table.items() if value is not None and value != {}}
    assert tomllib.loads(to_toml(table)) == there


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("/home/alice/.venv/bin/bench run --grid smoke", "bench run --grid smoke"),
        ("/home/alice/x/bench/__main__.py run --grid smoke", "python -m bench run --grid smoke"),
        ("bench run --grid ~alice/mine.toml --out runs/a", "bench run --grid …/mine.toml --out …"),
        (".venv/bin/bench run --data images/alice --out=runs/smith", "bench run --data … --out=…"),
        ("bench run --grid=alice/my.toml --plugin alice/mine.py", "bench run --grid=…/my.toml --plugin …/mine.py"),
        ("bench run --set data=alice/a#256,224 --set train.epochs=3", "bench run --set data=… --set train.epochs=3"),
        ("bench run --address alices-host:6379 --out alice --seed 1", "bench run --address … --out … --seed 1"),
        ("bench runs/alice/a --model onnx:alice/a.onnx@engine=x", "bench … --model onnx:…/a.onnx@engine=x"),
        ("bench timm:vit@weights=alice/w.safetensors,classes=3", "bench timm:vit@weights=…/w.safetensors,classes=3"),
        ("bench --model timm:vit@normalise=.5/.5/.5:.2/.2/.2", "bench --model timm:vit@normalise=.5/.5/.5:.2/.2/.2"),
        ("bench certify --model my_module:my_factory", "bench certify --model my_module:my_factory"),
        ("bench run --grid=../a/my.toml --data=/home/alice", "bench run --grid=…/my.toml --data=…"),
        ("bench run --set data=/home/alice --out s3://alice/x --data ..", "bench run --set data=… --out … --data …"),
        ("bench certify --model onnx:/home/alice/a.onnx@engine=x", "bench certify --model onnx:…/a.onnx@engine=x"),
        ("bench predict --model hf:o/vit --denoiser=ddpm:~/a", "bench predict --model hf:o/vit --denoiser=ddpm:…/a"),
        ("bench predict --model=hf:alice/x/vit --beacon a/b==", "bench predict --model=hf:…/vit --beacon a/b=="),
        ("bench certify --model runs/alice/t-sigma0.25 --n 9", "bench certify --model …/t-sigma0.25 --n 9"),
        ("bench certify --model s3://b/run/trial?endpoint_override=alice:9000", "bench certify --model …/trial"),
        ("bench --selector alice/x@.5 --classifier=a/y@.2", "bench --selector …/x@.5 --classifier=…/y@.2"),
    ],
)  # fmt: skip
def test_a_command_line_loses_its_places(typed: str, told: str) -> None:
    assert placeless(typed.split()) == told.split()


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("resnet110", "resnet110"),
        ("my_module:my_factory", "my_module:my_factory"),
        ("timm:vit@normalise=0.5/0.5/0.5:0.2/0.2/0.2", "timm:vit@normalise=0.5/0.5/0.5:0.2/0.2/0.2"),
        ("timm:vit@weights=/home/a, b@c/w.safetensors,classes=3", "timm:vit@weights=…/w.safetensors,classes=3"),
        ("ddpm:../alice/unet > onnx:/home/alice/a.onnx, hf:~/alice/b", "ddpm:…/unet > onnx:…/a.onnx, hf:…/b"),
        ("onnx:/home/alice/a.onnx, resnet110", "onnx:…/a.onnx, resnet110"),
    ],
)
def test_the_name_of_a_model_loses_its_folder(typed: str, told: str) -> None:
    assert model_without_place(typed) == told
    parts = {"parts": [{"model": typed, "sigma": 0.5}], "model": typed, "data": "few"}
    assert without_place(parts, "few@1") == {"parts": [{"model": told, "sigma": 0.5}], "model": told, "data": "few"}


@pytest.mark.parametrize("places", [False, True])
def test_trials_of_a_file_lose_its_folder_unless_asked(places: bool, tmp_path: Path) -> None:
    model = "onnx:/home/alice/net.onnx"
    trial = ExternalTrial(name="net", sigma=0.25, model=model, weights="0" * 64, dataset="synthetic")
    folder = RunFolder(tmp_path)
    own = folder.trial(trial.trial_id)
    trial.write(own.settings)
    TrainingRecord(
        title="net", checkpoint_sha256=trial.weights, num_classes=10, test_images=3, torch_version="0", source=model
    ).write(own.training)
    write_shard(own, [fake_row(trial, trial.weights, index, 0) for index in range(3)])
    RunRecord(trials=[trial.trial_id]).write(folder.description)
    merge_run(folder, places=places)
    [row] = pq.read_table(folder.trials).to_pylist()
    assert row["model"] == (model if places else "onnx:…/net.onnx")
    assert ("alice" in str(row)) is places


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    trials = [small_trial(data=FOLDER, dataset="pictures@0aa89b6a", certify={"n": 2000, "n0": 10})]
    folder = write_fake_run(tmp_path_factory.mktemp("alices") / "run", trials)
    command = ["/home/alice/bin/bench", "run", "--data", FOLDER, "--out", str(folder.path)]
    record = RunRecord.read(folder.description)
    record.model_copy(update={"command": command, "grid": {**GRID, "data": FOLDER}}).write(folder.description)
    return folder


def test_a_grid_of_a_plugin_is_run_again_with_one(run: RunFolder) -> None:
    merge_run(run)
    plain = read_run(run.path)
    [description] = plain.descriptions
    command = "bench run --grid grid.toml --data FOLDER"
    assert [grid["command"] for grid in grids(plain)] == [command]
    given = description.model_copy(update={"command": ["bench", "run", "--plugin=own/mine.py"]})
    own = replace(plain, descriptions=(given,))
    assert [grid["command"] for grid in grids(own)] == [f"{command} --plugin FILE"]


def files_of_the_report(run: RunFolder) -> list[Path]:
    root = here(run.path)
    return [run.page, *root.glob("*.parquet"), *root.glob("tables/*"), *root.glob("figures/*")]  # type: ignore[list-item]


@pytest.mark.usefixtures("_one_figure")
def test_a_report_says_nothing_of_the_machine_unless_asked(run: RunFolder) -> None:
    update_report(run)
    found = files_of_the_report(run)
    assert len(found) > 10
    for path in found:
        assert b"alice" not in path.read_bytes(), path
    [settings] = pq.read_table(run.trials)["settings"].to_pylist()
    assert '"data":"pictures@0aa89b6a"' in settings.replace(" ", "")
    [grid] = Parts(here(run.page)).content["grids"]
    lasting = {key: value for key, value in GRID.items() if key != "rows"}  # in which there is nothing but a null
    assert tomllib.loads(grid["toml"]) == {**lasting, "data": "pictures@0aa89b6a"}
    assert grid["command"] == "bench run --grid grid.toml --data FOLDER"

    update_report(run, places=True)
    content = Parts(here(run.page)).content
    assert FOLDER in content["grids"][0]["toml"]
    assert any(
        "/home/alice/bin/bench run" in value for block in content["environment"] for _, value in block["entries"]
    )
    [settings] = pq.read_table(run.trials)["settings"].to_pylist()
    assert FOLDER in settings
    update_report(run, again=False)  # as `bench run` with nothing left to do: not what was asked for once
    assert b"alice" not in here(run.page).read_bytes()
