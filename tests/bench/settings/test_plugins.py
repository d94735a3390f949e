"""Methods, networks and data of a user's own, in a file or module that the user names."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.runner.task import trial_task
from bench.settings.grid import GridError, load_grid
from bench.settings.plugins import Plugin, PluginError, load_plugins
from bench.settings.registries import DATASETS, NETWORKS
from bench.settings.trial import Trial
from methods import METHODS, get_method
from results.store.description import add_trials
from results.store.folder import RunFolder
from tests.conftest import small_trial

MINE = """
from dataclasses import dataclass
from typing import ClassVar

from bench import Method, register_dataset, register_method, register_network


@register_method("mine")
@dataclass(frozen=True, kw_only=True)
class Mine(Method):
    title: ClassVar[str] = "Mine"
    source: ClassVar[str] = "a test"

    amount: float = 0.1

    def loss(self, logits, labels, *, sigma, epoch):
        import torch.nn.functional as F

        return F.cross_entropy(logits.flatten(0, 1), labels.repeat(logits.shape[0]), label_smoothing=self.amount)


@register_method("three")
@dataclass(frozen=True, kw_only=True)
class Three(Mine):
    title: ClassVar[str] = "Three"
    members: ClassVar[int] = 3
    member_method: ClassVar[str | None] = "gaussian"


@register_network("linear")
def linear(num_classes):
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(3072, num_classes))


@register_dataset("few")
def few(split):
    from bench.data import load_images

    return load_images("synthetic", split).evenly(100)
"""


@pytest.fixture(autouse=True)
def _own_registries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers and imports is forgotten after it."""
    for registry in (METHODS, NETWORKS, DATASETS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("bench_plugin_", "theirs")):
            del sys.modules[name]


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


def test_a_file_registers_what_it_defines_once(mine: Path) -> None:
    [plugin] = load_plugins([str(mine)])
    method = METHODS.find("mine")
    assert load_plugins([str(mine)]) == [plugin]
    assert METHODS.find("mine") is method
    assert get_method("mine", amount=0.5).title == "Mine"
    assert "linear" in NETWORKS
    assert "few" in DATASETS
    mine.write_text(MINE.replace('Mine"', 'New"'))  # as in a notebook, between two runs
    load_plugins([str(mine)])
    assert METHODS.find("mine").title == "New"


def test_a_module_is_found_from_the_current_folder(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (mine.parent / "theirs").mkdir()
    mine.rename(mine.parent / "theirs" / "parts.py")
    (mine.parent / "theirs" / "__init__.py").write_text("from . import parts\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(mine.parent)
    assert load_plugins(["theirs"]) == [Plugin("theirs")]
    assert METHODS.find("mine").__module__ == "theirs.parts"
    assert len(METHODS.code("mine")) == 12


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\nx.y\n", "mine.py: line 2: AttributeError: 'int' object has no attribute 'y'"),
        ("def f():\n    1 / 0\n\nf()\n", "mine.py: line 4: ZeroDivisionError: division by zero"),
        ("x = (\n", "mine.py: line 1: SyntaxError: '(' was never closed"),
        ("raise SystemExit\n", "mine.py: line 1: SystemExit"),
        ("import nowhere\n", "mine.py: line 1: ModuleNotFoundError: No module named 'nowhere'"),
        (
            MINE.replace('"mine"', '"generalised_ld"'),
            "RegistryError: method 'generalised_ld' is registered already, by methods.",
        ),
        (b"\xff\xfe", "is no text of Python"),
    ],
)
def test_an_error_of_a_plugins_own_is_one_sentence_with_its_line(mine: Path, text: str | bytes, message: str) -> None:
    mine.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = list(METHODS), list(NETWORKS), list(DATASETS)
    with pytest.raises(PluginError) as caught:
        load_plugins([str(mine)])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (list(METHODS), list(NETWORKS), list(DATASETS)) == before


def test_a_file_beside_a_plugin_is_not_found_and_said_to_be_there(mine: Path) -> None:
    mine.with_name("theirs_too.py").touch()
    mine.write_text("import theirs_too.parts\n")
    with pytest.raises(PluginError, match=r"No module named 'theirs_too': files beside a plugin are not found: of sev"):
        load_plugins([str(mine)])


def test_a_plugin_that_registers_nothing_is_told_once(mine: Path, caplog: pytest.LogCaptureFixture) -> None:
    load_plugins([str(mine)])
    mine.write_text(MINE.replace("0.1", "0.2"))
    load_plugins([str(mine)])
    assert caplog.messages == []
    mine.write_text("amount = 0.1\n")
    for _ in range(2):
        load_plugins([str(mine)])
    assert caplog.messages == [f"--plugin {mine}: registers no method, network or data set"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nowhere.py", "--plugin nowhere.py: cannot be read: no such file or directory"),
        ("nowhere", "--plugin nowhere: there is no such module in the current folder or installed"),
        ("os.nowhere", "--plugin os.nowhere: there is no such module"),
        ("a:b", "--plugin a:b: must be a file that ends in .py, or the name of a module"),
        ("", "must be a file that ends in .py, or the name of a module"),
        ("/dev/zero", "is no text of Python: /dev/zero: is neither a file nor a folder"),
    ],
)
def test_what_is_no_plugin_is_refused(given: str, message: str) -> None:
    with pytest.raises(PluginError) as caught:
        load_plugins([given])
    assert message in str(caught.value)


def test_the_code_of_a_plugin_is_of_a_trials_identity_and_ours_is_not(
    mine: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = small_trial()
    assert plain.code == ""
    assert plain.trial_id == "gaussian-sigma0.25-seed0-8db9f6607310"
    load_plugins([str(mine)])
    trial, linear = small_trial("mine"), small_trial(model="linear", width=16)
    assert len(trial.code) == 12
    assert trial.code == linear.code  # of one file
    assert Trial.model_validate_json(trial.model_dump_json()) == trial
    assert small_trial().trial_id == plain.trial_id
    assert [member.code for member in small_trial("three").members] == [""] * 3
    assert small_trial("three").members[0] == plain
    other = mine.with_name("other.py")
    other.write_text(MINE.replace('"linear"', '"linear2"').replace('"mine"', '"mine2"').replace('"three"', '"four"')
                     .replace('"few"', '"few2"'))  # fmt: skip
    load_plugins([str(other)])
    assert len({trial.code, small_trial("mine2").code, small_trial("mine", model="linear2", width=16).code}) == 3

    add_trials(RunFolder(mine.parent / "run"), [trial])
    mine.write_text(MINE + "\n# changed\n")
    load_plugins([str(mine)])
    changed = small_trial("mine")
    assert changed.trial_id != trial.trial_id
    assert changed.training_id != trial.training_id
    add_trials(RunFolder(mine.parent / "run"), [changed])
    assert f"(code = '{trial.code}' there, '{changed.code}' here)" in caplog.text
    with pytest.raises(ValueError, match=rf"code = {trial.code}: the method 'mine' .* has changed since"):
        Trial.model_validate_json(trial.model_dump_json())


def test_an_ensemble_of_unknown_members_is_refused(mine: Path) -> None:
    mine.write_text(MINE.replace('"gaussian"', '"gausian"'))
    load_plugins([str(mine)])
    with pytest.raises(ValueError, match="unknown method 'gausian': did you mean 'gaussian'"):
        small_trial("three")


def test_a_trial_of_a_plugin_that_is_not_given_is_refused(mine: Path) -> None:
    [plugin] = load_plugins([str(mine)])
    texts = [trial.model_dump_json() for trial in (small_trial("mine"), small_trial(model="linear", width=16))]
    plugin._forget(plugin.module)
    for text in texts:
        with pytest.raises(ValueError, match="is not of this program: give --plugin with the file or module"):
            Trial.model_validate_json(text)
    with pytest.raises(GridError, match=r"unknown method 'mine'; known: .* \(one of your own: give --plugin\)"):
        load_grid("smoke", ['methods=["mine"]'])


def test_a_worker_gets_the_text_of_a_file_with_its_task(mine: Path) -> None:
    plugins = load_plugins([str(mine)])
    trial = small_trial("mine", model="linear", width=16)
    task = trial_task(trial, RunFolder(mine.parent / "run"), certify=True, shard_size=4, plugins=plugins)
    mine.write_text("raise OSError('the file of this machine is another one')\n")
    program = (
        "import json, sys\nfrom bench.runner.work import open_task\ntask = json.loads(sys.argv[1])\n"
        "trials = [open_task(task)[0] for _ in range(2)]\nprint(trials[0].trial_id, trials[1].objective.title)"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, json.dumps(task)], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == [trial.trial_id, "Mine"]


@pytest.mark.parametrize("change", ['methods=["theirs:thing"]', 'methods=["theirs"]', 'model="theirs:thing"',
                                    'model="theirs"', 'data="theirs:thing"', "plugins=theirs"])  # fmt: skip
def test_a_grid_imports_nothing(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs.py").write_text("from pathlib import Path\nPath('imported').touch()\nthing = len\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    from bench import cli

    monkeypatch.setattr(sys, "argv", ["bench", "run", "--grid", "smoke", "--set", change])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert "theirs" not in sys.modules
    assert sorted(path.name for path in tmp_path.iterdir()) == ["theirs.py"]


@pytest.mark.parametrize("field", ["method", "model", "data", "plugins", "code"])
def test_a_runs_folder_imports_nothing(field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                       run_bench: Callable[..., int]) -> None:  # fmt: skip
    (tmp_path / "theirs.py").write_text("from pathlib import Path\nPath('imported').touch()\nthing = len\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    trial = small_trial()
    record = json.loads(trial.model_dump_json()) | {field: "theirs:thing"}
    (tmp_path / "trial.json").write_text(json.dumps(record))
    assert run_bench("trial", "trial.json", "--out", "run") == 2
    assert "theirs" not in sys.modules
    assert not (tmp_path / "imported").exists()


@pytest.fixture
def run_bench(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def run(*arguments: str) -> int:
        from bench import cli

        monkeypatch.setattr(sys, "argv", ["bench", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0)

    return run


def test_commands_take_plugins_and_tell_their_errors(
    mine: Path, run_bench: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_bench("methods", "--plugin", str(mine)) == 0
    assert "amount = 0.1" in capsys.readouterr().out
    assert run_bench("grids", "--plugin", str(mine)) == 0
    mine.write_text("1 / 0\n")
    for command in (["methods"], ["grids"], ["trial", "t.json", "--out", "run"], ["run", "--grid", "smoke"],
                    ["submit", "--grid", "smoke", "--out", "/run"]):  # fmt: skip
        capsys.readouterr()
        assert run_bench(*command, "--plugin", str(mine)) == 2
        told = capsys.readouterr().err
        assert told == f"error: --plugin {mine}: line 1: ZeroDivisionError: division by zero\n"
        assert run_bench(*command, "--plugin", str(mine), "--debug") == 2
        told = capsys.readouterr().err
        assert f'File "{mine}", line 1, in <module>' in told
        assert "1 / 0" in told
