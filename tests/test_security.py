"""Files from others: nothing in them is run, leads out of the run's folder, or gives orders to a reader's program."""

from __future__ import annotations

import ast
import json
import os
import pickle  # to make what must not be opened
import re
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from bench.data import DataError, load_images
from bench.models.checkpoint import CheckpointError, load_tensors
from bench.models.sources import SourceError, from_trial
from results.report import write
from results.report.figures import figures_of
from results.store.folder import RunFolder, read_json, write_json
from results.store.merge import merge_run
from tests.bench.data.originals import COUNTS, drawn, write_original
from tests.command import bench
from tests.conftest import edit_record, small_trial, trial_ids
from tests.test_imports import FILES, ROOT

DANGEROUS_MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "tarfile",
    "yaml",
}
DANGEROUS_CALLS = {
    "eval", "exec", "compile", "__import__", "system", "popen", "read_pickle", "unpack_archive", "extractall",
    "torch.load", "np.load", "numpy.load", "jit.load", "load_module",
}  # fmt: skip
# They import what the user or this program itself names, never what a file does.
IMPORTERS = {
    "bench/__init__.py", "bench/audit/doctor.py", "bench/cli/submit.py", "bench/models/sources.py",
    "bench/settings/plugins.py", "cluster/worker.py", "methods/registry.py", "results/__init__.py",
}  # fmt: skip


# CIFAR's own batches, once their checksums are verified, as tests below see.
UNPICKLERS = {"bench/data/downloaded.py"}


def dangers(source: str) -> set[str]:
    """What could run foreign data as code, in a module's text."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names} & DANGEROUS_MODULES
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module).split(".")[0]} & DANGEROUS_MODULES
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            tail = called.split(".")[-1]
            bare = called if isinstance(node.func, ast.Name) else ""
            found |= {".".join(called.split(".")[-2:]), bare} & DANGEROUS_CALLS
            if tail in ("system", "popen", "read_pickle", "unpack_archive", "extractall", "import_module"):
                found.add(tail)
            found |= {word.arg for word in node.keywords if word.arg in ("allow_pickle", "shell")}
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_module_can_run_foreign_data(file: Path) -> None:
    name = str(file.relative_to(ROOT))
    allowed = {"import_module"} if name in IMPORTERS else {"pickle"} if name in UNPICKLERS else set()
    assert dangers(file.read_text(encoding="utf-8")) <= allowed


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from pickle import loads", "torch.load(path)", "np.load(path, allow_pickle=True)",
        "eval(text)", "exec(text)", "import yaml", "import tarfile", "subprocess.run(text, shell=True)",
        "os.system(text)", "import marshal", "import shelve", "pd.read_pickle(path)", "importlib.import_module(name)",
    ],
)  # fmt: skip
def test_the_walk_sees_what_it_is_for(source: str) -> None:
    assert dangers(source)


class Bomb:
    """Pickled, it makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """What would be there if a bomb had gone off; that it can is tried first."""
    path = tmp_path / "unpickled"
    pickle.loads(pickle.dumps(Bomb(path)))  # noqa: S301
    path.rmdir()
    return path


@pytest.mark.parametrize("name", ["data_batch_1", "test_batch", "batches.meta"])
def test_cifar10_is_not_unpickled_before_its_checksum_is_right(
    name: str, mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All files are good ones of their own but one."""
    folder = write_original("cifar10", tmp_path, drawn("cifar10"), monkeypatch)
    load_images.cache_clear()
    assert len(load_images(str(folder), "train")) == COUNTS["train"]
    load_images.cache_clear()
    (folder / name).write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(DataError, match="missing or damaged"):
        load_images(str(folder), "test" if name == "test_batch" else "train")
    assert not mark.exists()


def test_a_pickle_called_safetensors_is_refused(mark: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for content in (pickle.dumps(Bomb(mark)), b"\x80\x02" + pickle.dumps(Bomb(mark))):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="not readable as safetensors"):
            load_tensors(path, "id")
    torch.save(Bomb(mark), path)
    with pytest.raises(CheckpointError, match="not readable as safetensors"):
        load_tensors(path, "id")
    assert not mark.exists()


def header(length: int | None = None, **tensors: object) -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        header(2**63),
        header(2**40),
        header(a={"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}),  # which the file has not
        header(a={"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 8]}) + b"\0" * 8,
        header(
            a={"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            b={"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        )
        + b"\0" * 12,
        header(a={"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}) + b"\0" * 8,
        header(__metadata__={"training_id": {"nested": 1}}),
        struct.pack("<Q", 100_000) + b"[" * 100_000,
    ],
)
def test_wrong_headers_of_weights_get_one_sentence(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not readable as safetensors") as caught:
        load_tensors(path, "id")
    assert len(str(caught.value)) < 500


def test_weights_of_another_training_are_refused_whatever_they_say(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(1)}, path, {"training_id": "\x1b[31m../../x"})
    with pytest.raises(CheckpointError, match="expected id"):
        load_tensors(path, "id")


@pytest.mark.parametrize("name", ["../../outside", "/etc", "a/b", "..", ".", "", "a\0b", "a\nb", "\x1b[31m", "-x"])
@pytest.mark.parametrize("where", ["trials", "members", "training"])
def test_names_in_records_cannot_leave_the_run(
    name: str, where: str, fake_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor where such a trial is really there."""
    first = trial_ids(fake_run)[0]
    if name in ("../../outside", "a/b"):
        shutil.copytree(tmp_path / "run" / "trials" / first, tmp_path / "run" / "trials" / name)
    if where == "training":
        edit_record(fake_run.trial(first).training, members=[name])
    else:
        description = read_json(fake_run.description)
        changed = {"trials": [name, *description["trials"]]} if where == "trials" else {"members": {first: [name]}}
        write_json(fake_run.description, description | changed)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    for command in ["report"] if where == "training" else ["status"] if where == "members" else ["report", "status"]:
        assert bench(command, str(fake_run.path)) == 2
        printed = capsys.readouterr().err
        assert "is not the id of a trial" in printed
        assert "\x1b" not in printed
        assert len(printed.strip().splitlines()) == 1
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_a_trial_that_is_a_link_is_refused(
    fake_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run" / "trials" / trial_ids(fake_run)[0]
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    for command in ("report", "status"):
        assert bench(command, str(fake_run.path)) == 2
        assert "is a link" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["run.json", "certificates.parquet"])
def test_pipes_are_not_waited_for(
    name: str, fake_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merge_run(fake_run)
    path = tmp_path / "run" / name
    path.unlink()
    os.mkfifo(path)
    assert bench("compare", str(fake_run.path)) == 2
    assert "is neither a file nor a folder" in capsys.readouterr().err


def test_devices_are_not_read_for_ever(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["run", "--grid"], ["import", "--method", "a", "--sigma", "1", "--out", str(tmp_path / "out")]):
        assert bench(*arguments, "/dev/zero") == 2
        assert "/dev/zero: is neither a file nor a folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


MODULE = """
from pathlib import Path
import torch
from torch import nn
Path("imported").touch()
def factory():
    Path("called").touch()
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
"""


@pytest.mark.usefixtures("_no_figures")
def test_a_received_run_runs_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor where a trained trial is said to be of a factory, or of itself."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "theirs.py").write_text(MODULE)
    run = RunFolder(tmp_path / "run")
    sys.modules.pop("theirs", None)  # of another test
    certify = ["certify", "--model", "theirs:factory", "--data", "synthetic", "--sigma", ".5", "--n", "20", "--n0", "5"]
    assert bench(*certify, "--images", "4", "--out", "run") == 0
    marks = [tmp_path / "imported", tmp_path / "called"]
    [trial_id] = trial_ids(run)

    def asleep(*arguments: str) -> int:
        """The command, as if in a process of its own."""
        sys.modules.pop("theirs", None)
        for mark in marks:
            mark.unlink(missing_ok=True)
        return bench(*arguments)

    for command in ("report", "status"):
        assert asleep(command, "run") == 0
        assert not any(mark.exists() for mark in marks)
    for arguments in (
        ["verify", "run"],
        ["attack", "run"],
        ["certify", "--model", f"run/{trial_id}", "--out", "other"],
    ):
        assert asleep(*arguments) == 2
        assert "names code, theirs:factory: give --model theirs:factory to have it run" in capsys.readouterr().err
        assert not any(mark.exists() for mark in marks)
    assert asleep("verify", "run", "--model", "theirs:factory") in (0, 1)
    assert all(mark.exists() for mark in marks)
    record = run.trial(trial_id).training
    for source in (str(run.path / trial_id), "/etc/passwd", "os:getcwd", ""):
        edit_record(record, source=source)
        with pytest.raises(SourceError, match=r"training\.json: (source|names code)"):
            from_trial(run, trial_id, ["theirs:factory"])


EVIL = "<script>alert(1)</script>\x1b[31m[red]x[/red]|=1+1 \\input{/etc/passwd} $x$ `x` ![x](javascript:1)"


def with_text(run: RunFolder, change: Callable[[dict[str, Any]], dict[str, Any]], *names: str) -> None:
    """Change rows of merged files."""
    for name in names:
        path = run.path / f"{name}.parquet"
        table = pq.read_table(path)
        pq.write_table(pa.Table.from_pylist([row | change(row) for row in table.to_pylist()], table.schema), path)


def test_names_give_no_orders_to_readers(
    fake_run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Titles, devices, networks and data sets of a run from elsewhere, in every file of its report; but in figures of
    formulas, which show nothing of the run."""
    formulas = {"robustness_gradient", "sample_weights", "class_overlap"}
    monkeypatch.setattr(write, "figures_of", lambda *of: (each for each in figures_of(*of) if each[0] not in formulas))
    description = read_json(fake_run.description)
    write_json(fake_run.description, description | {"command": [EVIL], "git_commit": EVIL, "versions": {EVIL: EVIL}})
    merge_run(fake_run)
    shutil.rmtree(str(fake_run.path / "trials"))

    def forged(row: dict[str, Any]) -> dict[str, Any]:
        settings = json.dumps(json.loads(row["settings"]) | {"model": EVIL, "dataset": EVIL})
        return {"title": f"{EVIL} {row['method']}", "model": EVIL, "dataset": EVIL, "settings": settings}

    with_text(fake_run, forged, "trials")
    with_text(fake_run, lambda _: {"dataset": EVIL, "device": EVIL, "torch_version": EVIL}, "certificates")
    assert bench("report", str(fake_run.path)) == 0
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err
    page = fake_run.page.read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "alert(1)" in page  # it is shown, as text
    for path in fake_run.tables.iterdir():
        text = path.read_text(encoding="utf-8")
        assert "\x1b" not in text
        assert "<script>" not in text
        if path.suffix == ".tex":
            assert "\\input{" not in text
            assert " $x$" not in text
        if path.suffix == ".md":
            assert not re.search(r"(?<!\\)\]\(", text)


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_cell_of_a_table_is_a_formula(name: str, fake_run: RunFolder) -> None:
    """A method's name is letters and digits wherever this program reads one; merged files may say otherwise."""
    merge_run(fake_run)
    shutil.rmtree(str(fake_run.path / "trials"))
    fake_run.description.unlink()
    with_text(
        fake_run, lambda row: {"method": name} if row["method"] == "generalised_ld" else {}, "trials", "certificates"
    )
    assert bench("report", str(fake_run.path)) == 2
    assert not fake_run.tables.exists()


SECRETS = {"RAY_AUTH_TOKEN": "a-token-of-a-cluster", "AWS_SECRET_ACCESS_KEY": "a-key-of-a-store"}


@pytest.mark.usefixtures("_one_figure")
def test_no_file_of_a_run_has_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    settings = tmp_path / "trial.json"
    settings.write_text(small_trial(certify={"n": 20, "n0": 5, "images": 4, "precision": "fp32"}).model_dump_json())
    run = tmp_path / "run"
    assert bench("trial", str(settings), "--out", str(run)) == 0
    files = [path for path in run.rglob("*") if path.is_file()]
    assert {"run.json", "report.html", "model.safetensors", "training.json"} <= {path.name for path in files}
    for path in files:
        content = path.read_bytes()
        assert not any(value.encode() in content for value in SECRETS.values()), path
