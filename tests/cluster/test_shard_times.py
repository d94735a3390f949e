"""When an elastic worker is worth its start."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cluster import GroupSize  # before ray, whose environment it sets
from cluster.elastic import ElasticWorkers, ShardTimes
from cluster.worker import Doing, WorkerHandle


@pytest.mark.parametrize(
    ("shards", "waiting", "expected"),
    [
        ([], 1000, 0),  # nothing is known yet
        ([9, 9, 9], 10, 0),  # 45 s are left for two, and a start takes 20 and 50 to open the model
        ([9, 9, 9], 30, 4),
        ([100, 10, 10], 18, 0),  # the first one's 90 s more are such a start too
        ([100, 10, 10], 40, 4),
    ],
)
def test_elastic_workers_start_where_what_is_left_takes_longer(
    shards: list[float], waiting: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    for module in ("cluster.elastic", "cluster.worker"):
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr("cluster.elastic._somebody_waits", lambda: False)
    monkeypatch.setattr("cluster.elastic._room", lambda _: 100)
    workers = [_worker() for _ in range(2)]
    times = ShardTimes(50.0)
    for seconds in shards:
        workers[0].certify(SimpleNamespace(certify=None), {}, [0])
        now[0] += seconds
        times.note(workers[0])
    started: list[Any] = []
    group = SimpleNamespace(workers=workers, size=GroupSize(2, 1, 0), start=lambda elastic: started.append(elastic))
    ElasticWorkers(group, times).adjust(waiting)  # type: ignore[arg-type]
    assert len(started) == expected


def _worker() -> WorkerHandle:
    actor = SimpleNamespace(call=SimpleNamespace(remote=lambda *_: "ref"))
    return WorkerHandle(
        actor, None, None, elastic=False, identity={"host": "here"}, doing=Doing.IDLE, start_seconds=20.0
    )
