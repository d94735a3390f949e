"""Registries: names that others may add, by a decorator or from an installed package."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from methods import METHODS, Method, Registry, RegistryError, get_method

Install = Callable[[str, str, dict[str, str]], None]


@pytest.fixture
def things() -> Registry[Any]:
    registry: Registry[Any] = Registry("thing", "bench.things", ours={"ours": "bench.nowhere"}, family=r"made\d+")
    registry.register("first")(len)
    return registry


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Lays an installed package into the path: its name, its code, its entry points of bench.things."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def installed(package: str, code: str, points: dict[str, str]) -> None:
        (tmp_path / f"{package}.py").write_text(code)
        monkeypatch.delitem(sys.modules, package, raising=False)
        folder = tmp_path / f"{package}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in points.items()]
        (folder / "entry_points.txt").write_text("\n".join(["[bench.things]", *lines, ""]))

    return installed


def test_a_name_finds_what_was_registered_under_it(things: Registry[Any]) -> None:
    assert things.find("first") is len
    assert things["first"] is len
    assert "first" in things
    assert list(things) == ["ours", "first"]
    things.register("first")(len)  # the same again
    with pytest.raises(RegistryError, match="thing 'first' is registered already, by tests"):
        things.register("first")(max)


@pytest.mark.parametrize(
    ("name", "thing", "message"),
    [
        ("ours", max, "thing 'ours' is registered already, by bench.nowhere"),
        ("made7", max, "thing 'made7' is registered already, by bench"),
        ("module:thing", max, "a name must be letters, digits, _ and -"),
        ("number", 7, "thing 'number': must be callable"),
    ],
)
def test_what_cannot_be_registered_is_refused(things: Registry[Any], name: str, thing: Any, message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        things.register(name)(thing)
    assert list(things) == ["ours", "first"]


def test_an_unknown_name_is_answered_with_the_nearest_or_with_all(things: Registry[Any]) -> None:
    with pytest.raises(RegistryError, match=r"^unknown thing 'frist': did you mean 'first'\? .*--plugin"):
        things.find("frist")
    with pytest.raises(RegistryError, match="unknown thing 'xyz'; known: ours, first "):
        things.find("xyz")
    with pytest.raises(KeyError):
        things["xyz"]


def test_an_installed_package_is_loaded_only_when_its_name_is_asked_for(
    things: Registry[Any], install: Install
) -> None:
    install("theirs", "def thing(): ...\n", {"their_thing": "theirs:thing", "first": "theirs:thing"})
    assert "their_thing" in things
    assert list(things) == ["ours", "first", "their_thing"]
    assert "theirs" not in sys.modules
    assert things.find("first") is len  # what is registered goes first
    assert things.find("their_thing").__module__ == "theirs"
    assert len(things.code("their_thing")) == 12
    assert things.code("their_thing") != things.code("first")  # this file's


def test_a_broken_package_is_named_and_leaves_the_others_alone(things: Registry[Any], install: Install) -> None:
    install("good", "def thing(): ...\n", {"good": "good:thing"})
    install("broken", "raise OSError('no disk')\n", {"broken": "broken:thing"})
    install("twin", "def thing(): ...\n", {"good2": "twin:thing"})
    install("twin2", "def thing(): ...\n", {"good2": "twin2:thing"})
    with pytest.raises(
        RegistryError, match=r"^thing 'broken' of the installed package broken cannot be had: OSError: no disk$"
    ):
        things.find("broken")
    with pytest.raises(RegistryError, match="thing 'good2': several installed packages have one: twin and twin2"):
        things.find("good2")
    assert things.find("good").__name__ == "thing"


def test_the_code_of_a_thing_is_the_text_of_its_file(things: Registry[Any], install: Install, tmp_path: Path) -> None:
    """Wherever it is, and with whatever line ends."""
    install("theirs", "def thing(): ...\n", {"theirs": "theirs:thing"})
    code = things.code("theirs")
    for text, same in (("def thing(): ...\r\n", True), ("def thing(): pass\n", False)):
        (tmp_path / "theirs.py").write_bytes(text.encode())
        sys.modules.pop("theirs")
        again: Registry[Any] = Registry("thing", "bench.things")
        assert (again.code("theirs") == code) is same
    source = "things.register('loose')(len)"
    exec(source, {"things": things, "__name__": "__console__"})  # noqa: S102
    with pytest.raises(RegistryError, match="'loose' is registered by code without a file of its own"):
        things.code("loose")


def test_what_is_registered_is_found_without_reading_installed_packages() -> None:
    program = (
        "import sys\nfrom methods import METHODS, get_method\nfrom bench.settings.registries import check_network\n"
        "get_method('generalised_ld')\ncheck_network('tiny')\ncheck_network('resnet20')\n"
        "assert METHODS.code('generalised_ld') == ''\n"
        "from importlib import metadata\n"
        "def read(**_): raise SystemExit('entry points were read')\n"
        "metadata.entry_points = read\n"
        "get_method('macer')\ncheck_network('tiny')\ncheck_network('resnet110')\n"
        "assert METHODS._points is None\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@dataclass(frozen=True, kw_only=True)
class Whole(Method):
    title: ClassVar[str] = "Whole"
    source: ClassVar[str] = "a test"


class NoDataclass(Whole):
    amount: float = 1.0


@dataclass(frozen=True, kw_only=True)
class NoTitle(Method):
    source: ClassVar[str] = "a test"


@dataclass(frozen=True, kw_only=True)
class NoDefault(Whole):
    amount: float


@dataclass(frozen=True, kw_only=True)
class NoMembers(Whole):
    members: ClassVar[int] = 3


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (NoMembers, "must have both members above 1 and a member_method, or neither"),
        (len, "must be a subclass of methods.Method"),
        (NoDataclass, "must be a dataclass: @register_method above @dataclass"),
        (NoTitle, "must have a title, as text"),
        (NoDefault, "must have a default for amount"),
        (Whole, r"must define loss\(logits, labels, \*, sigma, epoch\) or training_loss\(step\)"),
    ],
)
def test_a_method_that_is_none_is_refused(method: Any, message: str) -> None:
    with pytest.raises(RegistryError, match=message):
        METHODS.register("none")(method)
    assert "none" not in METHODS


def test_a_method_says_how_its_members_answer_and_whose_variant_it_is() -> None:
    assert [get_method(name).members_asked_first for name in ("generalised_ld", "ensemble")] == [0, 0]
    assert get_method("ensemble", consensus=2).members_asked_first == 2
    assert {name: method.variant_of for name, method in METHODS.items() if method.variant_of} == {
        "gaussian_ld": "gaussian"
    }
