"""A question to every node of the cluster to which this process is connected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.retry import reason


def ask_nodes(question: Callable[[], Any], seconds: float) -> list[tuple[str, Any, str]]:
    """What a function returns on every node that is alive, at once and beside whatever runs there.

    Returns:
        Of every node its name, the answer, and why there is none; one of the two is empty.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    asked = [
        ray.remote(question)
        .options(
            num_cpus=0,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        )
        .remote()
        for node in nodes
    ]
    answered, _ = ray.wait(asked, num_returns=len(asked), timeout=seconds)
    found: list[tuple[str, Any, str]] = []
    for node, ref in zip(nodes, asked, strict=True):
        name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        try:
            found.append((name, ray.get(ref), "") if ref in answered else (name, None, f"no answer in {seconds:.0f} s"))
        except RayError as error:
            found.append((name, None, reason(error)))
    return found
