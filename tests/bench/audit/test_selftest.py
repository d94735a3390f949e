"""The mutation score of the guarantee: every way in which the program is broken is found, by the one who should."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import bench.cli  # noqa: F401  # which registers the commands
from bench.audit import selftest
from bench.audit.selftest import MUTATIONS, Mutation, self_test
from bench.cli.base import app


@pytest.mark.slow
@pytest.mark.sample
def test_every_mutation_is_found() -> None:
    result = CliRunner().invoke(app, ["audit", "--self-test"])
    assert result.exit_code == 0, result.output
    assert f"mutation score: {len(MUTATIONS)} of {len(MUTATIONS)}" in result.output
    assert len(MUTATIONS) >= 20
    print(result.output)  # the score, in CI's log


@pytest.mark.slow
def test_what_nobody_finds_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutation that changes nothing, and one that the merge must see."""
    chosen = (Mutation("nothing at all"), next(each for each in MUTATIONS if each.name == "an image twice"))
    monkeypatch.setattr(selftest, "MUTATIONS", chosen)
    assert [(each.name, each.by) for each in self_test(tmp_path)] == [
        ("nothing at all", ""),
        ("an image twice", "merge"),
    ]


def test_a_run_or_the_self_test_but_not_both() -> None:
    for words in (["audit"], ["audit", "RUN", "--self-test"]):
        result = CliRunner().invoke(app, words)
        assert "give a RUN, or --self-test without one" in str(result.exception)
