"""All that touches Ray's private parts; tried with Ray 2.60."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from ray._private import node, ray_constants, services
from ray._private import worker as driver


def head_address(address: str) -> str | None:
    """HOST:PORT of the head that "auto" or an address means, as far as this machine knows."""
    found: str | None = services.canonicalize_bootstrap_address(address)
    return found


@contextmanager
def without_messages() -> Iterator[None]:
    """Whoever connects in this block prints nothing: Ray else writes to this process's stdout, whatever it is told,
    when a worker or a node dies."""
    with patch.object(driver, "listen_error_messages", lambda *_: None):
        yield


@contextmanager
def small_local_cluster() -> Iterator[None]:
    """What is started in this block listens on loopback alone, and has no processes but those that run tasks: no
    dashboard, autoscaler or collector of logs, which take two seconds to start, and of which nobody hears."""
    with ExitStack() as patches:
        # Ray else takes this machine's outward address for its own even where it is told 127.0.0.1.
        patches.enter_context(patch.object(ray_constants, "ENABLE_RAY_CLUSTER", False))
        patches.enter_context(patch.object(services, "start_api_server", lambda *_, **__: ("", None)))
        for name in ("start_monitor", "start_log_monitor"):
            patches.enter_context(patch.object(node.Node, name, lambda _: None))
        yield
