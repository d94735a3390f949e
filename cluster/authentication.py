"""Tokens: who may come onto a cluster. A Ray cluster without them runs whatever anybody sends it."""

from __future__ import annotations

import http.client
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from cluster.errors import ClusterError
from cluster.private import CHECK_ALIVE, DASHBOARD_VERSION, set_authentication

SECONDS_TO_ANSWER = 10.0
PLACES = "RAY_AUTH_TOKEN, the file that RAY_AUTH_TOKEN_PATH names, or ~/.ray/auth_token"


def find_token() -> tuple[str, str]:
    """The token and where it is from, as Ray looks for it; two empty texts where there is none."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token, "RAY_AUTH_TOKEN"
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        token = ""
    return (token, str(file)) if token else ("", "")


def ensure_token() -> None:
    """A token for a cluster of this machine: ~/.ray/auth_token is made where there is none, for its owner alone. Where
    it cannot be kept, RAY_AUTH_TOKEN has one for this process and its children.

    Raises:
        ClusterError: RAY_AUTH_TOKEN_PATH names a file without one.
    """
    if os.environ["RAY_AUTH_MODE"].lower() != "token" or find_token()[0]:
        return
    if path := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        raise ClusterError(f"RAY_AUTH_TOKEN_PATH: {path} holds no token")
    file = Path.home() / ".ray" / "auth_token"
    temporary = file.with_name(f".auth_token.{os.getpid()}")
    token = secrets.token_hex(32)
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(
            os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii"
        ) as opened:
            opened.write(token)
        with suppress(FileExistsError):  # another command made one meanwhile, and uses it
            os.link(temporary, file)
    except OSError:  # a home that is not this user's, or read-only, or full, or without links
        os.environ["RAY_AUTH_TOKEN"] = token
    with suppress(OSError):
        temporary.unlink()


def check_head(address: str, *, allow_unauthenticated: bool) -> bool:
    """Whether the cluster whose head is at HOST:PORT wants a token; then it accepts ours.

    Raises:
        ClusterError: nobody answers, anybody may come in although that is not allowed, or our token is not accepted.
    """
    try:
        import grpc
    except ImportError:
        raise ClusterError("joining a cluster takes grpcio: pip install 'ray[default]'") from None

    def accepts(token: str) -> bool:
        bearer = [("authorization", f"Bearer {token}")] if token else None
        # Ray's own clients go past proxies too.
        with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
            ask = channel.unary_unary(CHECK_ALIVE)
            try:
                ask(b"", metadata=bearer, timeout=SECONDS_TO_ANSWER)
            except grpc.RpcError as error:
                if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
                    return False
                raise ClusterError(f"no Ray cluster at {address}: {error.details()}") from None
        return True

    return _check(f"the Ray cluster at {address}", accepts, allow_unauthenticated)


def check_dashboard(url: str, *, allow_unauthenticated: bool) -> bool:
    """Whether the cluster whose dashboard is at the URL wants a token; then it accepts ours. Raises as `check_head`."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection

    def accepts(token: str) -> bool:
        bearer = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            connection = kind(parts.netloc, timeout=SECONDS_TO_ANSWER)
            connection.request("GET", f"{parts.path.rstrip('/')}{DASHBOARD_VERSION}", headers=bearer)
            answer = connection.getresponse()
            text = answer.read()
            connection.close()
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise ClusterError(f"no Ray dashboard at {url}: {error}") from None
        if answer.status in (401, 403):
            return False
        if answer.status != 200 or b"ray_version" not in text:
            raise ClusterError(f"no Ray dashboard at {url}: it answers {answer.status} {answer.reason}")
        return True

    return _check(f"the Ray cluster at {url}", accepts, allow_unauthenticated)


def _check(cluster: str, accepts: Callable[[str], bool], allow_unauthenticated: bool) -> bool:
    if accepts(""):
        if not allow_unauthenticated:
            raise ClusterError(
                f"{cluster} lets anybody in without a token: start it with RAY_AUTH_MODE=token on every node, "
                f"or give --allow-unauthenticated"
            )
        return False
    if os.environ["RAY_AUTH_MODE"].lower() != "token":
        raise ClusterError(f"{cluster} wants a token: set RAY_AUTH_MODE=token here too, or leave it unset")
    token, place = find_token()
    if not token:
        raise ClusterError(f"{cluster} wants a token and there is none here: put the cluster's into {PLACES}")
    if not accepts(token):
        raise ClusterError(f"{cluster} refuses the token in {place}: put the cluster's own into {PLACES}")
    return True


@contextmanager
def sending_token(send: bool) -> Iterator[None]:
    """Ray's clients of this process send the token, or keep it to themselves and ask for none, in the block."""
    before = os.environ["RAY_AUTH_MODE"]
    set_authentication(before if send else "disabled")
    try:
        yield
    finally:
        set_authentication(before)
