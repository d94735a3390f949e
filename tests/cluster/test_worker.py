"""When a worker that answers counts as stalled."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayError

from cluster.worker import Doing, StalledError, WorkerHandle

STALLED_AFTER = 60.0


class Watched:
    """A worker whose answers are ours, on a clock of ours; an answer is read two seconds after it was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.answer: dict[str, Any] = {}
        pulse = SimpleNamespace(remote=lambda _: "ref")
        call = SimpleNamespace(remote=lambda *_: "ref")
        clock = SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr("cluster.worker.time", clock)
        known = SimpleNamespace(wait=lambda refs, timeout: (refs, []), get=lambda _: self.answer)
        monkeypatch.setattr("cluster.worker.ray", known)
        self.handle = WorkerHandle(
            SimpleNamespace(pulse=pulse, call=call), None, None, elastic=False, asked_at=self.now
        )
        self.handle.identity = {"host": "here"}
        self.handle.certify(SimpleNamespace(certify=None), {}, [0])

    def pulses(self, seconds: float, steps_a_second: float = 0.0, apart: str = "") -> float:
        """Seconds for which its work has been still after these."""
        for _ in range(int(seconds / 2)):
            self.now += 2
            steps = self.answer.get("steps", 0.0) + 2 * steps_a_second
            self.answer = {"steps": steps, "apart": apart}
            self.handle.take_pulse(dict, STALLED_AFTER)
        return self.handle.still_for(STALLED_AFTER)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


def test_work_without_a_step_for_two_minutes_is_still(worker: Watched) -> None:
    assert worker.pulses(100, 3) == 0
    assert worker.pulses(120) == 0
    assert worker.pulses(6) == pytest.approx(124, abs=4)


@pytest.mark.parametrize("there", [True, False])
def test_a_process_that_hangs_while_it_prepares_is_stalled_and_one_that_has_no_room_is_not(
    worker: Watched, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    handle = worker.handle
    killed: list[object] = []

    def get(ref: object, **_: float) -> dict[str, Any]:
        if ref == "started" or not there:
            raise RayError("killed, or not there")
        return {"host": "here", "gpus": ["0"]}

    known = SimpleNamespace(get=get, kill=killed.append)
    monkeypatch.setattr("cluster.worker.ray", known)
    handle.identity, handle.started = None, "started"
    worker.now += 5 * STALLED_AFTER
    handle.take_pulse(dict, STALLED_AFTER)
    assert killed == []
    worker.now += 1
    handle.take_pulse(dict, STALLED_AFTER)
    assert (len(killed), handle.overdue, bool(handle.stalled)) == (1, not there, there)
    with pytest.raises(RayError) as raised:
        handle.meet()
    assert isinstance(raised.value, StalledError) is bool(handle.stalled) is there
    assert handle.identity == ({"host": "here", "gpus": ["0"]} if there else None)


def test_where_steps_are_slow_it_is_twenty_of_them(worker: Watched) -> None:
    for _ in range(10):  # a step every 30 seconds
        assert worker.pulses(28) == 0
        assert worker.pulses(2, 0.5) == 0
    assert worker.pulses(580) == 0
    assert worker.pulses(60) > 600


def test_what_has_no_steps_may_take_long_where_it_is_said(worker: Watched) -> None:
    assert worker.pulses(1000, apart="compiling") == 0
    assert worker.pulses(110) == 0
    assert worker.pulses(20) > 0


def test_idle_workers_are_not_still_nor_those_that_count_no_steps(worker: Watched) -> None:
    worker.pulses(20, 3)
    worker.handle.rest()
    assert worker.pulses(1000) == 0
    worker.handle.doing = Doing.TRAINING
    worker.handle.usage = {"cores": 1.0}
    assert worker.handle.still_for(STALLED_AFTER) == 0


def test_who_asks_may_be_kept_from_looking_at_the_answer(worker: Watched) -> None:
    worker.pulses(20, 3)
    worker.now += 500  # a store that does not answer
    assert worker.pulses(2) == 0
    assert worker.pulses(4, 3) == 0
