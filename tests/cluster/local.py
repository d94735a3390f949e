"""A Ray cluster of this machine for tests that bring nothing else to one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from cluster.authentication import ensure_token  # before ray, whose environment it sets
from cluster.private import small_local_cluster

import ray  # isort: skip


@contextmanager
def local_cluster(*, cpus: int, gpus: int = 0) -> Iterator[None]:
    """One node with so many CPUs and logical GPUs, with a token of its own home, whichever test ran before."""
    ensure_token()
    with ExitStack() as kept:
        kept.callback(ray.shutdown)
        with small_local_cluster(kept):
            ray.init(
                address="local",
                num_cpus=cpus,
                num_gpus=gpus,
                include_dashboard=False,
                log_to_driver=False,
                object_store_memory=100 * 2**20,
            )
        yield
