"""What scheduling costs, on few shards; `python -m tests.cluster.scale` measures many."""

from __future__ import annotations

from tests.cluster.scale import simulate
from tests.cluster.test_schedule import cluster  # noqa: F401  # a fixture: ray on two cores


def test_the_driver_spends_little_on_a_shard() -> None:
    few, many = simulate(100, 2, 0.0), simulate(1100, 2, 0.0)
    # Of the difference: starting the trial costs what it costs.
    spent = (1100 * many["driver_ms"] - 100 * few["driver_ms"]) / 1000
    assert spent < 5
    assert many["driver_bytes"] < 2**30
