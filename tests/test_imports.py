"""The house rules: imports form a star, ray stays in cluster."""

from __future__ import annotations

import ast
import sys
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


def imported_packages(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_form_a_star(file: Path) -> None:
    package = file.relative_to(ROOT).parts[0]
    imported = imported_packages(file)
    assert imported & ALLOWED.keys() <= ALLOWED[package]
    assert "ray" not in imported or package == "cluster"
    assert package != "results" or not imported & {"torch", "torchvision", "accelerate"}
    assert package != "methods" or imported <= {"torch", *sys.stdlib_module_names}


@pytest.mark.parametrize(
    "file", [*FILES, *sorted((ROOT / "tests").rglob("*.py"))], ids=lambda file: str(file.relative_to(ROOT))
)
def test_no_file_is_long(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 400
