"""What scheduling costs, on few shards; `python -m tests.cluster.scale` measures many."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def simulated(shards: int) -> dict[str, float]:
    """In a process of its own, whose memory is nobody else's."""
    command = [sys.executable, "-m", "tests.cluster.scale", "--shards", str(shards), "--workers", "2", "--seconds", "0"]
    result = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    return dict(json.loads(result.stdout))


@pytest.mark.slow
def test_the_driver_spends_little_on_a_shard() -> None:
    few, many = simulated(100), simulated(1100)
    # Of the difference: starting the trial costs what it costs.
    spent = (1100 * many["driver_ms"] - 100 * few["driver_ms"]) / 1000
    assert spent < 5
    assert many["driver_bytes"] < 2**30
