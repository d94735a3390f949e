"""The house rules: imports form a star, go downwards between rooms, and ray stays in cluster."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "bench": {"bench", "methods", "cluster", "results"},
    "methods": {"methods"},
    "cluster": {"cluster"},
    "results": {"results"},
}
FILES = [file for package in ALLOWED for file in sorted((ROOT / package).rglob("*.py"))]
FLOORS = {
    "bench": [["cli"], ["runner", "audit"], ["train", "certify"], ["models", "data"], ["machine"], ["settings"]],
    "results": [["report"], ["analysis"], ["store"], ["bounds"], ["printable", "errors", "toml"]],
}
"""The rooms of a package, from the top floor down."""


@cache
def imported_modules(file: Path) -> frozenset[str]:
    """Also those inside functions, and those for the type checker alone."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return frozenset(name for node in ast.walk(tree) for name in imported_names(node))


def imported_names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def floor_of(package: str, room: str) -> int | None:
    return next((number for number, rooms in enumerate(FLOORS[package]) if room in rooms), None)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_form_a_star(file: Path) -> None:
    package = file.relative_to(ROOT).parts[0]
    imported = {module.split(".")[0] for module in imported_modules(file)}
    assert imported & ALLOWED.keys() <= ALLOWED[package]
    assert "ray" not in imported or package == "cluster"
    assert package != "results" or not imported & {"torch", "torchvision", "accelerate"}
    assert package != "methods" or imported <= {"torch", "scipy", *sys.stdlib_module_names}


def test_one_module_touches_rays_private_parts() -> None:
    touching = set()
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if re.search(r"\bray\b", text) else ():
            used = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            if any(f"{name}.".startswith("ray.") and "._" in name for name in (used, *imported_names(node))):
                touching.add(str(file.relative_to(ROOT)))
    assert touching == {"cluster/private.py"}


@pytest.mark.parametrize(
    "file",
    [file for file in FILES if file.relative_to(ROOT).parts[0] in FLOORS and file.parent.parent != ROOT],
    ids=lambda file: str(file.relative_to(ROOT)),
)
def test_imports_go_downwards_between_rooms(file: Path) -> None:
    package, room = file.relative_to(ROOT).parts[:2]
    floor = floor_of(package, room)
    assert floor is not None, f"{room} is no room"
    for module in imported_modules(file):
        there, _, rest = module.partition(".")
        target = rest.split(".")[0]
        if there == package and target != room:
            below = floor_of(package, target)
            assert below is not None, f"{module}: only the front door may import from {package} itself"
            assert below > floor, f"{module} is not below {room}"


def test_statistics_are_imported_where_they_are_computed() -> None:
    """scipy.stats takes longer to import than all of a worker but torch, and hardly any of them needs it."""
    tops = {
        file: {name for node in ast.parse(file.read_text()).body for name in imported_names(node)} for file in FILES
    }
    with_statistics = {str(file.relative_to(ROOT)) for file, names in tops.items() if "scipy.stats" in " ".join(names)}
    assert with_statistics == {"bench/audit/attack.py", "results/analysis/agreement.py"}
