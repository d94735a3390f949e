"""The way onto a cluster: what is refused and in which words, and a cluster of this machine is closed to others."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import venv
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]

from bench.audit import doctor
from cluster import ClusterError, connect, connected
from cluster.authentication import check_dashboard, check_head, ensure_token, find_token
from cluster.submit import jobs_at

TOKEN = "a" * 64


@dataclass
class Door:
    """A stand-in for a head or a dashboard, and the check that knocks at it."""

    address: str
    check: Callable[..., bool]


@contextmanager
def head(accepts: Callable[[str], bool]) -> Iterator[Door]:
    def answer(_request: bytes, context: Any) -> bytes:
        if not accepts(dict(context.invocation_metadata()).get("authorization", "")):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
        return b""

    server = grpc.server(ThreadPoolExecutor(1))
    handlers = {"CheckAlive": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("ray.rpc.NodeInfoGcsService", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield Door(f"127.0.0.1:{port}", check_head)
    server.stop(None).wait()


@contextmanager
def dashboard(accepts: Callable[[str], bool], text: bytes = b'{"ray_version": "2"}') -> Iterator[Door]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if accepts(self.headers.get("Authorization", "")) else 401)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield Door(f"http://127.0.0.1:{server.server_port}", check_dashboard)
        server.shutdown()
        thread.join()


both = pytest.mark.parametrize("door", [head, dashboard])


def secured(header: str) -> bool:
    return header == f"Bearer {TOKEN}"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    loader = AuthenticationTokenLoader.instance()  # of this process; it remembers the first token that it found
    loader.reset_cache()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    yield tmp_path
    loader.reset_cache()


@both
@pytest.mark.parametrize("mode", ["token", "disabled"])
def test_a_cluster_without_tokens_is_refused_unless_allowed(
    door: Callable[..., Any], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with door(lambda header: True) as open_door:
        with pytest.raises(ClusterError, match=r"lets anybody in without a token: .* or give --allow-unauthenticated"):
            open_door.check(open_door.address, allow_unauthenticated=False)
        assert open_door.check(open_door.address, allow_unauthenticated=True) is False


@both
def test_a_token_is_not_shown_to_a_cluster_that_wants_none(
    door: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    seen: list[str] = []

    def sees(header: str) -> bool:
        seen.append(header)
        return True

    def accepts_all(header: str) -> bool:
        seen.append(header)
        return True

    with door(accepts_all) as open_door:
        open_door.check(open_door.address, allow_unauthenticated=True)
    assert seen == [""]


@both
@pytest.mark.parametrize("allowed", [False, True])
def test_the_right_token_opens(door: Callable[..., Any], allowed: bool, home: Path) -> None:
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text(TOKEN + "\n")
    with door(secured) as closed:
        assert closed.check(closed.address, allow_unauthenticated=allowed) is True


@both
def test_a_wrong_token_a_missing_one_and_a_disabled_mode_are_told_apart(
    door: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    with door(secured) as closed:
        with pytest.raises(ClusterError, match=r"wants a token and there is none here: .* or ~/.ray/auth_token$"):
            closed.check(closed.address, allow_unauthenticated=True)
        monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
        with pytest.raises(ClusterError, match=r"refuses the token in RAY_AUTH_TOKEN: "):
            closed.check(closed.address, allow_unauthenticated=True)
        monkeypatch.delenv("RAY_AUTH_TOKEN")
        (home / "other").write_text("wrong")
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "other"))
        with pytest.raises(ClusterError, match=f"refuses the token in {home}/other: "):
            closed.check(closed.address, allow_unauthenticated=True)
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        with pytest.raises(ClusterError, match="wants a token: set RAY_AUTH_MODE=token here too"):
            closed.check(closed.address, allow_unauthenticated=True)


def test_the_doctor_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "b" * 64)
    monkeypatch.setattr(connect, "head_address", str)  # Ray's own would name this machine's outward address
    with head(secured) as door:
        [found] = doctor._ask_cluster(door.address, allow_unauthenticated=False)
    assert (found.name, found.verdict) == ("cluster", "wrong")
    assert f"the Ray cluster at {door.address} refuses the token in RAY_AUTH_TOKEN: put" in found.sentence


@pytest.mark.parametrize("alive", [True, False])
def test_no_proxy_sees_the_token_or_stands_in_the_way(alive: bool, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    (home / ".netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    seen: list[str] = []

    def sees(header: str) -> bool:
        seen.append(header)
        return True

    version = b'{"ray_version": "2.60.0", "version": "4", "ray_commit": "a"}'
    with dashboard(sees, version) as proxy, dashboard(secured, version) as closed:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.address if alive else "http://127.0.0.1:9")
        monkeypatch.setenv("no_proxy", "example.org")
        with jobs_at(closed.address, allow_unauthenticated=False) as jobs:
            assert jobs.authenticated
        assert os.environ["no_proxy"] == "example.org"
    assert not seen


def test_other_servers_and_silence_are_no_clusters() -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"
        for address in (nobody, "127.0.0.1", "ray://127.0.0.1:10001", "127.0.0.1:http", "http://127.0.0.1:8265"):
            with pytest.raises(ClusterError, match=f"^no Ray cluster at {address}: "), connected(address):
                pass
        with pytest.raises(ClusterError, match=f"^no Ray dashboard at http://{nobody}: "):
            check_dashboard(f"http://{nobody}", allow_unauthenticated=True)
    with dashboard(lambda header: True, b"hello") as other:
        with pytest.raises(ClusterError, match=r"no Ray dashboard at .*: it answers 200 OK"):
            check_dashboard(other.address, allow_unauthenticated=True)
        with pytest.raises(ClusterError, match="no Ray cluster at "):
            check_head(other.address.removeprefix("http://"), allow_unauthenticated=True)


def test_a_token_is_made_once_for_its_owner_alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_token()
    file = home / ".ray" / "auth_token"
    assert file.stat().st_mode & 0o777 == 0o600
    token, place = find_token()
    assert len(token) == 64
    assert place == str(file)
    ensure_token()
    assert find_token()[0] == token
    assert [path.name for path in file.parent.iterdir()] == ["auth_token"]
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "absent"))
    with pytest.raises(ClusterError, match=r"RAY_AUTH_TOKEN_PATH: .*absent holds no token"):
        ensure_token()


LOOK_AROUND = """
import json, psutil
from contextlib import suppress
import ray  # first, as in a notebook that has its own use for it: it reads then whether there are tokens
from cluster import connected
from cluster.authentication import check_head

with connected(None, cores=1):
    @ray.remote
    class Worker:
        def alive(self):
            return True

    worker = Worker.remote()
    assert ray.get(worker.alive.remote())
    head = ray.get_runtime_context().gcs_address
    sockets = []
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):  # it has just ended
            listening = [each for each in process.net_connections("inet") if each.status == "LISTEN"]
            sockets += [(process.name(), connection.laddr.ip) for connection in listening]
    print(json.dumps({"sockets": sockets, "authenticated": check_head(head, allow_unauthenticated=True)}))
"""


def test_a_cluster_of_this_machine_listens_on_loopback_alone_and_wants_a_token(home: Path) -> None:
    temporary = tempfile.mkdtemp(prefix="ray-")  # sockets of long names cannot be made
    try:
        result = subprocess.run(
            [sys.executable, "-c", LOOK_AROUND],
            env={**os.environ, "RAY_TMPDIR": temporary},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert {"gcs_server", "raylet", "ray::Worker"} <= {name for name, _ in found["sockets"]}
    assert {ip.removeprefix("::ffff:") for _, ip in found["sockets"]} == {"127.0.0.1"}
    assert found["authenticated"]
    assert (home / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600


def test_a_token_that_cannot_be_kept_is_for_this_command_alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".ray").touch()  # as where the home is another user's, or read-only
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")  # undone after the test
    ensure_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert find_token() == (os.environ["RAY_AUTH_TOKEN"], "RAY_AUTH_TOKEN")


@pytest.mark.parametrize("kind", ["long", "of somebody else"])
def test_a_temporary_folder_that_ray_cannot_use_is_named_with_the_remedy(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("x" * 100 if kind == "long" else "file")
    if kind != "long":
        folder.touch()  # root may write everywhere else
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    remedy = rf"^Ray cannot be started: .*; set RAY_TMPDIR to .*, for {folder}/ray "
    with pytest.raises(ClusterError, match=remedy), connected(None, cores=1):
        pass


SIGNALLED = """
import os, signal, sys, time
from cluster import connected
from ray import _raylet

class Stopped(KeyboardInterrupt):
    pass

def end(*_):
    raise Stopped

signal.signal(signal.SIGTERM, end)
made = _raylet.CoreWorker

def core_worker(*arguments):
    core = made(*arguments)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.2)
    return core

if sys.argv[1] == "while it starts":
    _raylet.CoreWorker = core_worker
try:
    with connected(None, cores=1):
        assert signal.getsignal(signal.SIGTERM) is end
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
except Stopped:
    time.sleep(4)  # Ray's own way would abort after three
    print("in order")
"""


def test_sigterm_does_what_it_did_before_ray_came() -> None:
    """Both at once, for each waits longer than it computes."""
    with ExitStack() as stack:
        processes = []
        for moment in ("while it starts", "thereafter"):
            temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True))
            process = subprocess.Popen(
                [sys.executable, "-c", SIGNALLED, moment],
                env={**os.environ, "RAY_TMPDIR": temporary},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.callback(process.kill)
            processes.append(process)
        for process in processes:
            said, errors = process.communicate(timeout=240)
            assert (process.returncode, said, errors) == (0, "in order\n", "")


WORKER_WITH_A_RUNTIME_ENVIRONMENT = """
import sys
from cluster import connected
with connected(None, cores=1):
    import ray
    # Tune gives every trial some variables, and Ray then starts its worker through a shell
    print(ray.get(ray.remote(runtime_env={"env_vars": {"A": "1"}})(lambda: sys.executable).remote(), timeout=100))
"""


def test_a_python_whose_path_a_shell_takes_apart_runs_workers(tmp_path: Path) -> None:
    place = tmp_path / "it's my (new) $env"
    venv.create(place, symlinks=True)
    [packages] = place.glob("lib/*/site-packages")
    (packages / "these.pth").write_text("\n".join(path for path in sys.path if path))
    with tempfile.TemporaryDirectory(prefix="ray ", ignore_cleanup_errors=True) as temporary:
        result = subprocess.run(
            [place / "bin" / "python", "-c", WORKER_WITH_A_RUNTIME_ENVIRONMENT],
            env={**os.environ, "RAY_TMPDIR": temporary},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    assert result.stdout == f"{place / 'bin' / 'python'}\n", result.stderr
