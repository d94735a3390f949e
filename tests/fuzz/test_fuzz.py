"""Ten thousand wrong inputs: every one is refused in one sentence and leaves nothing, or is good."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.grid import GridError, load_grid
from bench.settings import Trial
from tests.fuzz.command import outcome_of, pattern
from tests.fuzz.kinds import KINDS, grid
from tests.fuzz.workshop import Workshop, without_work

# Uniform draws from a seed that hypothesis chooses: its own draws are too often the simplest, which is refused early.
randoms = st.randoms(use_true_random=True)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    built = Workshop(tmp_path_factory.mktemp("fuzz"))
    with without_work(built):
        yield built


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("kind", "inputs", "accepted", "sentences"),
    [
        ("grid", 5500, 0.1, 100),
        ("arguments", 3500, 0.1, 60),
        ("log", 600, 0.1, 30),
        ("records", 200, 0.2, 25),
        ("weights", 200, 0.2, 15),
    ],
)
def test_wrong_input_is_refused_in_one_sentence_and_leaves_nothing(
    kind: str, inputs: int, accepted: float, sentences: int, shop: Workshop
) -> None:
    """At least that share gets through all checks, and at least as many different sentences refuse the rest."""
    seen: Counter[int] = Counter()
    said: set[str] = set()

    @settings(
        max_examples=inputs,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(randoms)
    def check(random: Random) -> None:
        shop.restore()
        outcome = outcome_of(KINDS[kind](random, shop), shop.folder)
        seen[outcome.status] += 1
        said.add(pattern(outcome.message, shop.folder))

    check()
    assert seen.total() >= 0.9 * inputs
    assert seen[0] + seen[1] >= accepted * seen.total()
    assert len(said) >= sentences


@settings(max_examples=500, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(randoms)
def test_the_trials_of_an_accepted_grid_survive_their_files(shop: Workshop, random: Random) -> None:
    shop.restore()
    _, _, path, *_ = grid(random, shop)
    try:
        trials = load_grid(path).trials()
    except GridError:
        return
    for trial in trials:
        again = Trial.model_validate_json(trial.model_dump_json())
        assert again == trial
        assert again.trial_id == trial.trial_id
        assert Path(again.trial_id).name == again.trial_id


def test_the_harness_sees_what_it_is_for(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback, and a refusal that leaves a file, are told."""
    shop.restore()

    def fail(*_: object) -> None:
        raise TypeError("a bug")

    def leave(*_: object) -> None:
        (shop.folder / "left").touch()
        raise ValueError("no")

    for wrong, told in ((fail, "TypeError instead of a sentence"), (leave, "these changed: .*left")):
        monkeypatch.setattr("bench.progress.read_progress", wrong)
        with pytest.raises(AssertionError, match=told):
            outcome_of(["status", str(shop.run)], shop.folder)
