"""An S3 server on loopback for tests: `from tests.s3 import bucket, s3_server  # noqa: F401`."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from urllib.request import Request, urlopen

import pytest


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The endpoint of a server, without buckets."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """s3://NAME of a new bucket; this process and those that it starts find it by their environment."""
    for name, value in (
        ("AWS_ENDPOINT_URL", s3_server),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
    ):
        monkeypatch.setenv(name, value)
    name = f"bench-{uuid.uuid4().hex[:12]}"
    with urlopen(Request(f"{s3_server}/{name}", method="PUT")) as answer:
        assert answer.status == 200
    return f"s3://{name}"
