"""`bench certify` with a user's own code: models of all kinds, and what is wrong with some."""

from __future__ import annotations

import importlib
import re
import shutil
import socket
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from bench.certify.examine import _refuse_other_order
from bench.data import ImageSet
from bench.models.sources import Source, SourceError
from results import read_run
from results.store.folder import write_json
from results.store.merge import merge_run
from tests.command import bench
from tests.conftest import small_trial

FACTORIES = """
import torch
from torch import nn
def good():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 15 * 15, 10))
def seven(): return nn.Sequential(nn.Flatten(), nn.Linear(3072, 7))
def broken(): raise RuntimeError("no weights here")
def number(): return 3
def narrow(): return nn.Linear(5, 10)
class Nan(nn.Module):
    def forward(self, images): return torch.full((len(images), 10), float("nan"))
class Two(nn.Module):
    def forward(self, images): return torch.zeros(len(images), 10), torch.zeros(len(images), 3)
class Random(nn.Module):
    def forward(self, images): return torch.rand(len(images), 10)
class Only(nn.Sequential):
    only_fp32 = True
    def __init__(self): super().__init__(nn.Flatten(), nn.Linear(3072, 10))
def leaves(): raise SystemExit(0)
module = good()
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the module of that name, which is imported anew."""
    (tmp_path / "factories.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    sys.modules.pop("factories", None)
    return tmp_path


@pytest.mark.usefixtures("factories", "_no_figures")
def test_any_model_from_a_factory() -> None:
    command = ["certify", "--model", "factories:good", "--data", "synthetic", "--sigma", ".25"]
    command += ["--n", "200", "--images", "12"]
    assert bench(*command) == 0
    rows = read_run("runs/good").certificates
    assert len(rows) == 12
    [size] = read_run("runs/good").trials[["parameters", "model_bytes"]].to_dict("records")
    parameters = (8 * 3 * 9 + 8) + 2 * 8 + (1800 * 10 + 10)
    assert size == {"parameters": parameters, "model_bytes": 4 * (parameters + 2 * 8) + 8}  # running mean, variance, n
    shards = {path: path.stat().st_mtime_ns for path in Path("runs/good").rglob("shards/*")}
    assert bench(*command) == 0  # again: nothing is done twice
    assert {path: path.stat().st_mtime_ns for path in Path("runs/good").rglob("shards/*")} == shards
    assert bench("verify", "runs/good") == 2  # a file must not say which code is run
    assert bench("verify", "runs/good", "--model", "factories:good") == 0
    assert bench("status", "runs/good") == 0
    assert not Path("runs/good/tables/cost.md").exists()  # the cost of its training is unknown
    assert bench(*command, "--name", "other", "--out", "runs/good") == 0
    assert set(read_run("runs/good").certificates["method"]) == {"good", "other"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "factories:seven"], "seven gives 7 logits for an image, expected 10"),
        (["--model", "factories:broken"], "factories:broken: RuntimeError: no weights here"),
        (["--model", "factories:number"], "must return a torch.nn.Module, gave int"),
        (
            ["--model", "factories:narrow"],
            "narrow: the model cannot take images (3, 32, 32), not even one by one: RuntimeError",
        ),
        (["--model", "factories:Nan"], "the model gave NaN"),
        (["--model", "factories:Two"], "Two: the model gave a tuple with 2 tensors (batch, classes), expected logits"),
        (["--model", "factories:Random"], "Random: the model answers the same images differently each time"),
        (["--model", "factories:leaves"], "factories:leaves: SystemExit: 0"),
        (["--model", "factories:good", "--n", "9"], "certify: n = 9 with alpha = 0.001: certifies no image"),
        (["--model", "factories:none"], "has no attribute 'none'"),
        (["--model", "no_such_module:x"], "No module named 'no_such_module': it must be in the current folder or"),
        (["--model", "factories.py:good"], "named without .py"),
        (["--model", "./factories.py:good"], "must be MODULE:FACTORY, the module from the current folder or installed"),
        (["--model", "no_such_run/trial"], "or RUN/TRIAL with a run"),
        (["--model", "factories:good", "--sigma", "0"], "sigma = 0.0: input should be greater than 0"),
        (["--model", "factories:good", "--sigma", "64"], "sigma = 64: pixels are in [0, 1]: 64 of 255 is 0.25"),
        (["--model", "factories:good", "--sigma", "255"], "sigma = 255: pixels are in [0, 1]: 255 of 255 is 1"),
        (["--model", "factories:good", "--alpha", "1"], "certify.alpha = 1.0: input should be less than 1"),
        (["--model", "factories:good", "--n", "0"], "certify.n = 0"),
        (["--model", "factories:good", "--n0", "0"], "certify.n0 = 0"),
        (["--model", "factories:good", "--images", "501"], "501 images were asked for, the data has 500"),
        (["--model", "factories:good", "--estimator", "wald"], "should be 'fixed', 'two-stage' or 'anytime'"),
        (["--model", "factories:good", "--precision", "int8"], "should be 'auto', 'fp32' or 'bf16'"),
        (["--model", "factories:good", "--name", "../x"], "string should match pattern"),
    ],
)
def test_a_wrong_model_or_setting_gets_one_sentence(
    arguments: list[str], message: str, factories: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    defaults = [] if "--sigma" in arguments else ["--sigma", "0.25"]
    assert bench("certify", "--data", "synthetic", *defaults, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list(factories.rglob("*.parquet"))


MEAN = """
import torch
from torch import nn
MEAN = {mean}
class Dark(nn.Module):
    def forward(self, images):
        bright = (images.mean(dim=(1, 2, 3)) - MEAN).unsqueeze(1)
        return torch.cat([-bright, bright] + 8 * [bright - 9], dim=1)
"""


@pytest.mark.usefixtures("_no_figures")
def test_a_changed_constant_is_another_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    command = [
        "certify",
        "--model",
        "dark:Dark",
        "--data",
        "synthetic",
        "--sigma",
        ".25",
        "--n",
        "100",
        "--images",
        "8",
    ]

    def certify_with(mean: float, *options: str) -> int:
        (tmp_path / "dark.py").write_text(MEAN.format(mean=mean))
        sys.modules.pop("dark", None)
        importlib.invalidate_caches()
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        return bench(*command, *options)

    assert certify_with(0.5) == 0
    before = read_run("runs/Dark").certificates
    shard = next(iter(Path("runs/Dark").rglob("shards/*")))
    shard.unlink()
    write_json(shard.parent.parent / "state.json", {"state": "running", "host": "lost", "pid": 1})  # interrupted
    assert certify_with(0.6) == 2
    assert re.search(r"gives other answers, by up to \d+\.\d% on fixed images", capsys.readouterr().err)
    assert certify_with(0.6, "--name", "other", "--out", "runs/Dark") == 0
    assert certify_with(0.5) == 0
    rows = read_run("runs/Dark").certificates
    assert rows[rows["method"] == "Dark"]["p_lower"].tolist() == before["p_lower"].tolist()
    assert bench("verify", "runs/Dark", "--model", "dark:Dark") == 2  # one of the two is another model
    assert "gives other answers" in capsys.readouterr().err


CRANES = [f"class {number}" for number in range(210)]


@pytest.mark.parametrize(
    ("own", "data", "told", "displaced"),
    [
        (["crane", *CRANES, "crane"], ["x", *CRANES, "crane"], None, None),  # two of the model's
        (["x", *CRANES, "crane"], ["crane", *CRANES, "crane"], None, None),  # two of the data's
        # One or two in a hundred may be homonyms.
        (["Crane", "y", *CRANES, "x"], ["x", "z", *CRANES, "crane"], "Crane, x", None),
        (["crane", "maillot", *CRANES, "x"], ["x", "crane", *CRANES, "maillot"], None, "crane"),
        (["dog", *CRANES[:98]], [*CRANES[:1], "dog", *CRANES[1:98]], None, "dog"),
        (["wolf", "dog", "7"], ["7", "dog"], None, None),
        (["cat", "dog"], ["wolf", "cat"], None, "cat"),
    ],
)
def test_classes_of_one_name_may_be_two_where_there_are_many(
    own: list[str], data: list[str], told: str | None, displaced: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    model = nn.Identity()
    model.class_names = own  # type: ignore[assignment]
    source = Source(model, "here", "mine", "", None, None)
    images = ImageSet(np.zeros((1, 3, 4, 4), np.uint8), np.zeros(1, np.int64), len(data), tuple(data))
    with pytest.raises(SourceError, match=f"has {displaced} as class") if displaced else nullcontext():
        _refuse_other_order(source, images)
    assert caplog.messages == [f"mine: has other numbers than the data for {told}: taken for homonyms"] * bool(told)


ORDERED = """
from torch import nn
class Ordered(nn.Module):
    class_names = ["dog", "cat"]
    def forward(self, images):
        return images.mean(dim=(2, 3))[:, :2]
"""


@pytest.mark.usefixtures("_no_figures")
def test_the_order_of_the_labels_is_said_and_must_be_the_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ordered.py").write_text(ORDERED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for folder, names in (("same", ("Dog", "wolf")), ("other", ("cat", "dog"))):
        for number, name in enumerate(names):
            (tmp_path / folder / "test" / name).mkdir(parents=True)
            pixels = np.full((8, 8, 3), 200 * number, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / "test" / name / "0.png")
    command = ["certify", "--model", "ordered:Ordered", "--sigma", ".25", "--n", "100"]
    assert bench(*command, "--data", "other") == 2
    assert "Ordered: has dog as class 0, the data as 1; the data's order is cat, dog" in capsys.readouterr().err
    assert bench(*command, "--data", "same") == 0
    assert "(labels in the order Dog, wolf)" in Path("runs/Ordered/tables/certified_accuracy.md").read_text()
    assert read_run("runs/Ordered").trials["classes"].tolist() == [("Dog", "wolf")]


@pytest.mark.usefixtures("factories")
def test_a_models_own_traceback_is_shown_where_it_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["certify", "--model", "factories:narrow", "--data", "synthetic", "--sigma", ".25"]
    assert bench(*command) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert bench(*command, "--debug") == 2
    assert "torch/nn/modules/linear.py" in capsys.readouterr().err


@pytest.mark.usefixtures("factories", "_no_figures")
def test_the_batch_stays_that_of_the_first_command(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["certify", "--model", "factories:module", "--data", "synthetic", "--sigma", ".25"]
    command += ["--n", "100", "--images", "20", "--shard-size", "10"]
    assert bench(*command, "--batch", "10") == 0
    next(iter(Path("runs/module").rglob("shards/*"))).unlink()
    assert bench(*command) == 0
    assert set(read_run("runs/module").certificates["batch"]) == {10}
    assert bench(*command, "--batch", "5") == 2
    assert bench("report", "runs/module") == 0  # where nothing has failed
    assert len(read_run("runs/module").certificates) == 20
    assert "--batch = 5: the certificates that module-" in capsys.readouterr().err
    assert bench(*command, "--batch", "20") == 0  # which they are below
    assert set(read_run("runs/module").certificates["batch"]) == {10}
    assert bench("verify", "runs/module", "--model", "factories:module") == 0


@pytest.mark.usefixtures("factories")
def test_what_is_certified_later_is_in_the_precision_of_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine is that goes on."""
    monkeypatch.setattr("bench.cli.certify.merge_and_report", merge_run)
    command = ["certify", "--model", "factories:good", "--data", "synthetic", "--sigma", ".25"]
    command += ["--n", "50", "--images", "4", "--shard-size", "2", "--alpha", ".01"]
    for precision in ("fp32", "bf16"):
        out = ["--out", f"runs/{precision}"]
        fast = {torch.device("cpu"): precision == "bf16"}
        monkeypatch.setattr("bench.machine.hardware.has_fast_bf16", fast.__getitem__)
        assert bench(*command, *out) == 0
        before = read_run(f"runs/{precision}").certificates
        sorted(Path("runs", precision).rglob("shards/*"))[1].unlink()
        fast[torch.device("cpu")] = precision != "bf16"
        assert bench(*command, *out) == 0
        rows = read_run(f"runs/{precision}").certificates
        assert set(rows["precision"]) == {precision}
        assert rows["p_lower"].tolist() == before["p_lower"].tolist()


@pytest.mark.usefixtures("factories")
def test_a_precision_that_the_model_has_not_is_refused_before_anything_is_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["certify", "--model", "factories:Only", "--data", "synthetic", "--sigma", ".25", "--precision", "bf16"]
    assert bench(*command) == 2
    assert "the model computes in fp32 alone" in capsys.readouterr().err
    assert not Path("runs").exists()


@pytest.mark.usefixtures("factories")
@pytest.mark.parametrize(
    ("other", "message"),
    [
        (r"module-\w+", "module: has other weights in each process of the launch"),
        ("synthetic", "synthetic: is synthetic on HOST, and not synthetic-of-the-first: every machine must"),
    ],
)
def test_processes_with_other_weights_or_images_are_told_so(
    other: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def agreed(decide: Callable[[], object]) -> object:
        found = decide()
        return f"{found}-of-the-first" if re.match(other, str(found)) else found

    monkeypatch.setattr("bench.runner.single.agreed", agreed)
    command = ["certify", "--model", "factories:module", "--data", "synthetic", "--sigma", ".25", "--images", "2"]
    assert bench(*command) == 2
    told = " ".join(capsys.readouterr().err.replace(socket.gethostname(), "HOST").split())
    assert message in told
    if other == "synthetic":
        Path("trial.json").write_text(small_trial().model_dump_json())
        assert bench("trial", "trial.json", "--out", "runs/x") == 2
        assert message in " ".join(capsys.readouterr().err.replace(socket.gethostname(), "HOST").split())
    assert not Path("runs").exists()
