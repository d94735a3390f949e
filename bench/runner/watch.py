"""A server of one page: that of a run while it goes on, for a browser of this machine.

It gives that page and nothing else: no name in a request leads to a file. Whoever asks must be on this machine and have
asked for this machine, since a page from elsewhere may have its own name lead here (DNS rebinding); or must know a
token.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
import sys
from hashlib import sha256
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from urllib.parse import parse_qs, quote, urlsplit

from bench.runner.live_page import LivePage
from results.errors import BenchError
from results.store.folder import RunFolder

SHORTEST_TOKEN = 16
"""Characters of a token."""
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Besides that of the page itself, which names its scripts: nothing comes from, or goes, elsewhere."""


class WatchServer(ThreadingHTTPServer):
    """Serves the page of a run.

    Args:
        run: may not exist yet.
        host: an address of this machine, or a name of one.
        port: 0 for any that is free.
        token: that whoever asks must know; needed where others than this machine's users can ask.

    Raises:
        BenchError: the address is not loopback and there is no token, the token is too short, or the address cannot be
            had; one sentence.
    """

    daemon_threads = True

    def __init__(self, run: RunFolder, host: str, port: int, token: str = "") -> None:
        if token and (len(token) < SHORTEST_TOKEN or not (token.isascii() and token.isprintable())):
            raise BenchError(f"--token: must have at least {SHORTEST_TOKEN} characters, which any keyboard has")
        if not token and not is_loopback(host):
            raise BenchError(
                f"--host {host}: others than this machine's users could read the page there: give --token as well, or "
                "leave it at 127.0.0.1 and come through ssh -L"
            )
        self.host, self.token, self.page = host, token, LivePage(run)
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError, UnicodeError) as error:
            reason = (getattr(error, "strerror", None) or str(error)).lower()
            raise BenchError(f"--host {host} --port {port}: {reason}; --port 0 takes any that is free") from None

    def server_bind(self) -> None:
        """As any TCP server does it; one of HTTP would ask the network for its own name."""
        TCPServer.server_bind(self)

    @property
    def url(self) -> str:
        """Where a browser finds the page, with the token."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.server_address[1]}/" + f"?token={quote(self.token)}" * bool(self.token)

    def serve(self) -> None:
        """Answer until a KeyboardInterrupt, then end in order."""
        try:
            self.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            pass
        finally:
            self.server_close()
            self.page.close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Who asked may have gone meanwhile; that is no matter of this side."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine's users comes to that address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    server: WatchServer
    timeout = 10
    """Seconds in which whoever asks must have done so."""
    server_version, sys_version = "bench", ""

    def do_GET(self) -> None:  # the standard library calls it so
        """The page at /, if it may be had."""
        address = urlsplit(self.path)
        given = parse_qs(address.query).get("token", [""])[0]
        if not self._asks_for_this_machine():
            self._refuse(HTTPStatus.MISDIRECTED_REQUEST, "This server answers to the names of its own machine alone.")
        elif self.server.token and not (self._is_token(given) or self._has_cookie()):
            self._refuse(
                HTTPStatus.FORBIDDEN, "This page takes the token: ask at the address that bench watch printed."
            )
        elif address.path != "/":
            self._refuse(HTTPStatus.NOT_FOUND, "There is one page here, at /.")
        elif given:  # out of the address, which others may see
            cookie = f"{self._cookie_name}={self._cookie}; HttpOnly; SameSite=Lax; Path=/"
            self._answer(HTTPStatus.SEE_OTHER, b"", "text/plain", {"Location": "/", "Set-Cookie": cookie})
        else:
            self._give_page()

    def _give_page(self) -> None:
        page = self.server.page.now()
        kept = {"ETag": page.tag, "Cache-Control": "no-cache"}
        if self.headers.get("If-None-Match") == page.tag:
            self._answer(HTTPStatus.NOT_MODIFIED, b"", "text/html", kept)
        else:
            self._answer(HTTPStatus.OK, page.html, "text/html", kept)

    def _only_get(self) -> None:
        self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, "This server gives a page, and takes nothing.", {"Allow": "GET"})

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = _only_get  # noqa: N815

    def _asks_for_this_machine(self) -> bool:
        """Whether the name under which the server was found is one that leads to this machine everywhere."""
        try:
            name = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        except ValueError:
            return False
        if is_loopback(name):
            return True
        if not self.server.token:
            return False
        try:
            return bool(ipaddress.ip_address(name))
        except ValueError:
            return name.lower() in {each.lower() for each in (self.server.host, socket.gethostname(), socket.getfqdn())}

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.server.token.encode())

    def _has_cookie(self) -> bool:
        try:
            found = SimpleCookie(self.headers.get("Cookie", "")).get(self._cookie_name)
        except CookieError:
            return False
        return found is not None and hmac.compare_digest(found.value.encode("utf-8", "replace"), self._cookie.encode())

    @property
    def _cookie_name(self) -> str:
        return f"bench-watch-{self.server.server_address[1]}"  # cookies do not tell ports apart

    @property
    def _cookie(self) -> str:
        return sha256(self.server.token.encode()).hexdigest()

    def _refuse(self, status: HTTPStatus, sentence: str, headers: dict[str, str] | None = None) -> None:
        self._answer(status, f"{sentence}\n".encode(), "text/plain", headers or {})

    def _answer(self, status: HTTPStatus, body: bytes, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        fixed = {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
        }
        for name, value in {**fixed, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing is said of each request, which may have the token in it."""
