"""Wrong inputs by the thousand: every one is refused in one sentence and leaves nothing, or is good."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from bench.settings.grid import GridError, load_grid
from bench.settings.trial import Trial
from results.errors import BenchError
from tests.fuzz.command import outcome_of, pattern
from tests.fuzz.kinds import attempt, grid
from tests.fuzz.workshop import Workshop, without_work


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    built = Workshop(tmp_path_factory.mktemp("fuzz"))
    with without_work(built):
        yield built


def inputs(kind: str, few: int, many: int, accepted: float, sentences: int) -> list[object]:
    return [
        pytest.param(kind, few, accepted, sentences // 3, id=f"{kind}-{few}"),
        pytest.param(kind, many, accepted, sentences, id=f"{kind}-{many}", marks=pytest.mark.slow),
    ]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("kind", "inputs", "accepted", "sentences"),
    [
        *inputs("grid", 500, 5500, 0.1, 100),
        *inputs("arguments", 400, 3500, 0.1, 60),
        *inputs("log", 40, 600, 0.1, 30),
        *inputs("records", 20, 200, 0.2, 25),
        *inputs("weights", 20, 200, 0.2, 15),
    ],
)
def test_wrong_input_is_refused_in_one_sentence_and_leaves_nothing(
    kind: str, inputs: int, accepted: float, sentences: int, shop: Workshop, seed: int
) -> None:
    """At least that share gets through all checks, and at least as many different sentences refuse the rest."""
    seen: Counter[int] = Counter()
    said: set[str] = set()
    for number in range(inputs):
        outcome = attempt(kind, number, seed, shop)
        seen[outcome.status] += 1
        said.add(pattern(outcome.message, shop.folder))
    assert seen[0] + seen[1] >= accepted * inputs
    assert len(said) >= sentences


def test_the_trials_of_an_accepted_grid_survive_their_files(shop: Workshop, seed: int) -> None:
    accepted = 0
    for number in range(500):
        shop.restore()
        _, _, path, *_ = grid(Random(f"{seed} {number}"), shop)
        try:
            trials = load_grid(path).trials()
        except GridError:
            continue
        accepted += 1
        for trial in trials:
            again = Trial.model_validate_json(trial.model_dump_json())
            assert again == trial
            assert again.trial_id == trial.trial_id
            assert Path(again.trial_id).name == again.trial_id
    assert accepted >= 50


def test_the_harness_sees_what_it_is_for(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback, and a refusal that leaves a file, are told."""
    shop.restore()

    def fail(*_: object) -> None:
        raise TypeError("a bug")

    def leave(*_: object) -> None:
        (shop.folder / "left").touch()
        raise BenchError("no")

    for wrong, told in ((fail, "TypeError instead of a sentence"), (leave, "these changed: .*left")):
        monkeypatch.setattr("bench.runner.progress.read_progress", wrong)
        with pytest.raises(AssertionError, match=told):
            outcome_of(["status", str(shop.run)], shop.folder)


@pytest.mark.slow
@pytest.mark.sample
def test_a_minute_of_inputs_that_coverage_guides(seed: int, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris is not installed; it has no wheel for this Python or machine")
    command = [sys.executable, "-m", "tests.fuzz.guided", "grid", "-max_total_time=60", f"-seed={seed + 1}"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parents[2], env=environment, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    runs = int(result.stderr.rsplit("Done ", 1)[1].split()[0])
    assert runs > 1000
