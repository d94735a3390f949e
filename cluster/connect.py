"""The way onto a cluster: one that runs, or one of this machine."""

from __future__ import annotations

import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import ray
from ray.exceptions import RayError

from cluster.authentication import check_head, ensure_token, sending_token
from cluster.errors import ClusterError
from cluster.private import (
    ending_as_before,
    head_address,
    small_local_cluster,
    temporary_folder,
    warn_if_unchecked,
    without_messages,
)

OBJECT_STORE_BYTES = 200 * 2**20  # nothing large goes through it


@contextmanager
def connected(address: str | None, *, allow_unauthenticated: bool = False, cores: int | None = None) -> Iterator[None]:
    """A cluster to run on while the block lasts: that at `address`, or one of this machine, started and stopped here.

    A process that is connected already keeps its cluster. The one of this machine listens on loopback only.

    Args:
        address: "auto" or HOST:PORT of a running cluster.
        cores: of the cluster that is started here; this machine's where not given.
        allow_unauthenticated: join a cluster also where it takes commands from anybody.

    Raises:
        ClusterError: no cluster at the address, or one that lets everybody in, or not us.
    """
    if ray.is_initialized():  # by whoever calls: theirs to end
        yield
        return
    warn_if_unchecked()
    if address is None:
        ensure_token()
        with ExitStack() as kept:
            kept.callback(ray.shutdown)
            with small_local_cluster(kept):
                _init(
                    "Ray cannot be started",
                    "local",
                    num_cpus=cores,
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    runtime_env=_python(),
                )
            yield
        return
    head = find_head(address)
    authenticated = check_head(head, allow_unauthenticated=allow_unauthenticated)
    with sending_token(authenticated):
        _init(f"no Ray cluster at {address}", head)
        try:
            yield
        finally:
            ray.shutdown()


def find_head(address: str) -> str:
    """HOST:PORT of the head of the cluster that "auto" or HOST:PORT means.

    Raises:
        ClusterError: nobody listens there; Ray itself would try for minutes.
    """
    try:
        head = head_address(address)
        host, _, port = (head or "").rpartition(":")
        if not head:
            raise ValueError("no node of one runs on this machine" if address == "auto" else "not an address")
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError, ValueError) as error:
        raise ClusterError(f"no Ray cluster at {address}: {error}") from None
    return str(head)


def _python() -> dict[str, str] | None:
    """What Ray must be told where this Python's path has a blank or another sign that a shell takes for its own."""
    quoted = shlex.quote(sys.executable)
    return None if quoted == sys.executable else {"py_executable": quoted}


def _init(failure: str, address: str, **options: object) -> None:
    remedy = ""
    try:
        with without_messages(), ending_as_before():
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", **options)
        return
    except ClusterError:  # this Ray lacks something
        raise
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        reason = str(error)
    except OSError as error:
        reason = str(error)
        remedy = f"; set RAY_TMPDIR to a folder of yours with a short name, for {temporary_folder()} does not do"
    raise ClusterError(f"{failure}: {' '.join(reason.split())}{remedy}")
