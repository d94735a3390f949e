"""The examples run, block after block of README and each page of docs, beside a small finished run at runs/smoke.

What is run is what the words after ``` say: a `python` block; a `bash test` block, by bash; and a block with a
`title="NAME"` becomes the file of that name. With the word `slow` it is left to the slow test, which runs all of them.
"""

from __future__ import annotations

import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import results
from bench.cli.base import app
from results.report.write import write_report
from results.store.merge import merge_run
from tests.command import ONE_FIGURE
from tests.conftest import small_trial, without_figures, write_fake_run

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "docs" / "benchmark" / "README.md"]
SLOW = re.compile(r"^```.* slow$", re.MULTILINE)
FENCE = re.compile(r"^```(?P<kind>\w*)(?P<words>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    """That precedes its text."""
    kind: str
    words: str
    text: str

    @property
    def title(self) -> str | None:
        found = re.search(r'title="([\w.]+)"', self.words)
        return found[1] if found else None

    def says(self, word: str) -> bool:
        return word in self.words.split()

    def run(self, names: dict[str, Any]) -> None:
        """In the current folder; `names` are those that earlier blocks of Python made."""
        if self.title:
            Path(self.title).write_text(self.text, encoding="utf-8")
        elif self.kind == "python":
            # So that a traceback names the page and its line.
            exec(compile("\n" * self.line + self.text, str(self.page), "exec"), names)  # noqa: S102
        elif self.kind == "bash" and self.says("test"):
            # What trains takes long in any case; of the rest figures take most.
            in_short = shlex.quote(f"{ONE_FIGURE}from bench.cli import main; main()")
            program = "-m bench" if self.says("slow") else f"-c {in_short}"
            commands = f'bench() {{ "{sys.executable}" {program} "$@"; }}\nset -euo pipefail\n{self.text}'
            environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
            done = subprocess.run(
                ["bash", "-c", commands], capture_output=True, text=True, env=environment, check=False
            )
            assert done.returncode == 0, f"{self.page.name}:{self.line}\n{done.stdout}{done.stderr}"
            assert "Warning: " not in done.stderr, f"{self.page.name}:{self.line}\n{done.stderr}"


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, found.start("text")), found["kind"], found["words"], found["text"])
        for found in FENCE.finditer(text)
    ]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    trials = [
        small_trial(method, sigma, certify={"n": 2000, "n0": 10})
        for sigma in (0.25, 0.5)
        for method in ("generalised_ld", "consistency", "gaussian")
    ]
    run = write_fake_run(tmp_path_factory.mktemp("docs") / "smoke", trials)
    merge_run(run)
    with without_figures(but=1):
        write_report(run)
    assert isinstance(run.path, Path)
    return run.path


@pytest.fixture
def beside_a_run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A working folder with a run of its own, which examples may change; what they import from there is forgotten."""
    shutil.copytree(finished, tmp_path / "runs" / "smoke")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.usefixtures("beside_a_run")
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_examples_of_a_page_run(page: Path) -> None:
    names: dict[str, Any] = {"__name__": page.stem}
    for block in blocks(page):
        if not block.says("slow"):
            block.run(names)


@pytest.mark.slow
@pytest.mark.usefixtures("beside_a_run")
@pytest.mark.parametrize("page", [page for page in PAGES if SLOW.search(page.read_text("utf-8"))], ids=name_of)
def test_the_examples_that_train_run_too(page: Path) -> None:
    names: dict[str, Any] = {"__name__": page.stem}
    for block in blocks(page):
        block.run(names)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_words_after_a_fence_are_known(page: Path) -> None:
    """A misspelt one would leave an example unrun."""
    for block in blocks(page):
        words = re.sub(r'title="[\w.]+"', "", block.words).split()
        allowed = {"python": {"slow"}, "bash": {"test", "slow"}}.get(block.kind, set())
        assert set(words) <= allowed, f"{page.name}:{block.line}"
        assert not block.says("slow") or block.kind == "python" or block.says("test"), f"{page.name}:{block.line}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=name_of)
def test_commands_and_options_that_are_shown_are_there(page: Path) -> None:
    """Also of lines that no test runs, for they take hours or a cluster."""
    known = get_command(app)
    for block in blocks(page):
        if block.kind != "bash":
            continue
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            words = words[words.index("bench") + 1 :] if "bench" in words else []
            command: Any = known
            while words and words[0] in getattr(command, "commands", {}):
                command = command.commands[words.pop(0)]
            options = {option for parameter in command.params for option in parameter.opts}
            assert {word.partition("=")[0] for word in words if word.startswith("-")} <= options, line
            assert not words or command is not known, line


def test_the_package_of_the_page_brings_what_it_says(tmp_path: Path) -> None:
    files = {block.title: block.text for block in blocks(ROOT / "docs" / "own-method.md")}
    project = tomllib.loads(files["pyproject.toml"])["project"]
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").touch()
    (tmp_path / "my_package" / "methods.py").write_text(files["mine.py"])
    installed = tmp_path / "my_package-0.1.0.dist-info"  # as pip leaves it
    installed.mkdir()
    (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0.1.0\n")
    groups = (
        f"[{group}]\n" + "".join(f"{name} = {place}\n" for name, place in points.items())
        for group, points in project["entry-points"].items()
    )
    (installed / "entry_points.txt").write_text("".join(groups))
    program = (
        "from bench.settings.registries import DATASETS, NETWORKS\nfrom methods import get_method\n"
        "print(get_method('label_smoothing', amount=0.2).title, NETWORKS.code('pooled') == DATASETS.code('few') != '')"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False, cwd=tmp_path
    )
    assert done.stdout == "Label smoothing True\n", done.stderr


@pytest.mark.usefixtures("beside_a_run")
def test_the_example_in_the_docstring_of_results_runs(capsys: pytest.CaptureFixture[str]) -> None:
    example = [line for line in inspect.getdoc(results).splitlines() if line.startswith("    ")]  # type: ignore[union-attr]
    exec(textwrap.dedent("\n".join(example)), {})  # noqa: S102
    assert "p_holm" in capsys.readouterr().out


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=name_of)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target, heading in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")):
        other = page.parent / target if target else page
        assert other.exists(), target
        assert not heading or heading in headings(other), f"{target}#{heading}"


def headings(page: Path) -> set[str]:
    """As links name them: lower case, hyphens for blanks, and nothing but these, letters and digits."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    return {
        re.sub(r"[^\w -]", "", line).lower().replace(" ", "-") for line in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
