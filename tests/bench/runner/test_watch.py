"""`bench watch`: what its page shows while a run goes on, and to whom it is given."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from bench.runner import live_page
from bench.runner.display import POLL_SECONDS_OF_A_STORE
from bench.runner.live_page import NOT_YET, ODD, LivePage
from bench.runner.watch import WatchServer
from results.analysis.groups import certified_groups
from results.errors import BenchError
from results.report.page.charts import methods
from results.report.update import update_report
from results.store.folder import RunFolder, location, write_json
from results.store.run import read_run
from results.store.schema import EPOCHS, write_table
from tests.conftest import here, small_trial, trial_ids, write_fake_run
from tests.results.report.pages import Parts
from tests.s3 import bucket, s3_server  # noqa: F401

TOKEN = "a secret of many characters"  # noqa: S105
CELLS = [(method, sigma) for sigma in (0.25, 0.5) for method in ("generalised_ld", "gaussian")]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Two trials done, one in training, one not begun."""
    trials = [small_trial(method, sigma, certify={"n": 2000, "n0": 10}) for method, sigma in CELLS]
    folder = write_fake_run(tmp_path / "run", trials)
    for number, state in ((2, "running"), (3, "waiting")):
        unfinished = folder.trial(trial_ids(folder)[number])
        for path in (*unfinished.shard_files(), unfinished.training):
            path.unlink()
        write_json(unfinished.state, {"state": state})
    folder.trial(trial_ids(folder)[3]).epochs.unlink()
    return folder


def page_now(page: LivePage) -> Parts:
    page._looked = -float("inf")  # as if a second had passed
    path = here(page.folder.path).with_suffix(".html")
    path.write_bytes(page.now().html)
    return Parts(path)


def finish(run: RunFolder, number: int) -> None:
    """Give the trial of that place what it lacks."""
    trials = [small_trial(method, sigma, certify={"n": 2000, "n0": 10}) for method, sigma in CELLS]
    write_fake_run(here(run.path), [trials[number]])
    ids = [trial.trial_id for trial in trials]
    write_json(run.description, json.loads(here(run.description).read_text()) | {"trials": ids})
    run.trial(ids[number]).state.unlink(missing_ok=True)


def test_a_run_that_is_not_there_yet_and_one_that_goes_on(run: RunFolder) -> None:
    content = Parts.content.fget(page_now(LivePage(RunFolder(here(run.path) / "none"))))  # type: ignore[attr-defined]
    assert content["progress"] == {"done": 0, "trials": [], "said": [NOT_YET]}
    page = LivePage(run)
    content = page_now(page).content
    progress = content["progress"]
    assert progress["done"] == 2
    assert [trial["stage"] for trial in progress["trials"]] == ["done", "done", "stopped", "waiting"]
    assert progress["said"] == ["nobody runs it now: the same command goes on from there"]
    [accuracy] = [table for table in content["tables"] if table["name"] == "certified_accuracy"]
    assert {row["sigma"] for row in accuracy["rows"]} == {0.25}
    assert [(panel["title"], len(panel["lines"])) for panel in content["charts"]["loss"]] == [
        ("σ = 0.25", 2),
        ("σ = 0.5", 1),
    ]
    assert content["summary"]["title"] == "tiny of width 4 on synthetic"


@pytest.mark.usefixtures("_no_figures")
def test_a_method_has_its_colour_before_it_is_finished(run: RunFolder) -> None:
    early = page_now(LivePage(run)).content["methods"]
    finish(run, 2)
    finish(run, 3)
    update_report(run)
    whole = read_run(here(run.path))
    assert early == methods(whole, certified_groups(whole))
    assert {look["title"] for look in early} == {"Ours", "Gaussian"}


def test_what_is_finished_is_put_together_again_only_where_it_changed(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    whole = live_page.finished_parts

    def counted(*given: Any) -> Any:
        made.append(given[3])
        return whole(*given)

    monkeypatch.setattr(live_page, "finished_parts", counted)
    page = LivePage(run)
    first = page_now(page).content
    tag = page.now().tag
    assert page_now(page).content == first
    assert page.now().tag == tag
    training = run.trial(trial_ids(run)[2])
    row = {"trial_id": training.path.name, "method": "generalised_ld", "sigma": 0.5, "seed": 0, "learning_rate": 0.1}
    rows = [
        row | {"epoch": epoch, "loss": 1.0 / (1 + epoch), "noisy_test_accuracy": 0.5, "seconds": 1.0}
        for epoch in (0, 1)
    ]
    write_table(training.epochs, pa.Table.from_pylist(rows, EPOCHS))
    assert page_now(page).content["charts"]["loss"][1]["lines"][0]["values"] == [1.0, 0.5]
    assert len(made) == 1
    finish(run, 2)
    assert page_now(page).content["progress"]["done"] == 3
    assert [len(names) for names in made] == [2, 3]


def test_damage_and_deletion_leave_the_page_as_it_was(run: RunFolder) -> None:
    page = LivePage(run)
    before = page_now(page).content
    shard = run.trial(trial_ids(run)[0]).shard_files()[0]
    here(shard).write_bytes(b"PAR1 nothing")
    content = page_now(page).content
    assert content["progress"]["said"][-1] == ODD
    assert content["tables"] == before["tables"]
    assert page_now(LivePage(run)).content["tables"] == []  # whoever comes now
    here(run.description).write_text("{")
    assert page_now(page).content == content
    shutil.rmtree(here(run.path))
    assert page_now(page).content["progress"]["said"] == [NOT_YET]


@pytest.mark.usefixtures("_no_figures")
def test_a_finished_run_shows_its_report(run: RunFolder) -> None:
    page = LivePage(run)
    finish(run, 2)
    finish(run, 3)
    assert page_now(page).content["progress"]["done"] == 4
    update_report(run)
    assert page_now(page).content["progress"] is None
    assert page.now().html == here(run.page).read_bytes()


def test_a_run_in_a_store_is_watched_likewise(bucket: str) -> None:  # noqa: F811
    folder = RunFolder(location(f"{bucket}/run"))
    page = LivePage(folder)
    assert page._period == POLL_SECONDS_OF_A_STORE
    assert NOT_YET.encode() in page.now().html
    write_fake_run(folder.path, [small_trial(certify={"n": 2000, "n0": 10})])
    page._looked = -float("inf")
    assert b'"done":1' in page.now().html


@contextmanager
def served(run: RunFolder, host: str = "127.0.0.1", token: str = "") -> Iterator[WatchServer]:
    server = WatchServer(run, host, 0, token)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(server: WatchServer, path: str = "/", method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
    """Status, headers and body of the answer; `Host=""`: without that header."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in {"Host": f"127.0.0.1:{server.server_address[1]}", **headers}.items():
        if value:
            connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read().decode()
    connection.close()
    return found


def test_the_page_is_given_to_this_machine_alone(run: RunFolder) -> None:
    secret = here(run.path) / "trials" / trial_ids(run)[0] / "trial.json"
    assert secret.exists()
    with served(run) as server:
        port = server.server_address[1]
        for name in ("localhost", f"LOCALHOST:{port}", "127.0.0.1:1", f"[::1]:{port}", "127.9.9.9"):
            assert ask(server, Host=name)[0] == 200, name
        for name in (
            "",
            "evil.example",
            f"evil.example:{port}",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "0.0.0.0",  # noqa: S104
            "[",
            "10.0.0.1",
        ):
            status, _, text = ask(server, Host=name)
            assert status == 421, name
            assert "html" not in text
        up = "../" * 12
        paths = [
            "/run.json",
            "/../run.json",
            f"/{up}etc/passwd",
            "/%2e%2e/run.json",
            "//etc/passwd",
            f"{secret}",
            "/trials",
            "*",
            "/?x=../run.json/..",
        ]
        for path in paths[:-1]:
            status, _, text = ask(server, path)
            assert status == 404, path
            assert text == "There is one page here, at /.\n"
        for method in ("POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"):
            assert ask(server, method=method)[0] == 405
        assert ask(server, method="BREW")[0] == 501
        status, headers, text = ask(server)
        assert status == 200
        assert "connect-src 'self'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in headers
        assert str(here(run.path)) not in text
        assert ask(server, If_None_Match=headers["ETag"])[0::2] == (304, "")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.org", ""])  # noqa: S104
def test_other_addresses_take_a_token(host: str, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="give --token as well"):
        WatchServer(RunFolder(tmp_path), host, 0)
    with pytest.raises(BenchError, match="at least 16 characters"):
        WatchServer(RunFolder(tmp_path), host, 0, "short")
    with pytest.raises(BenchError, match="any keyboard has"):
        WatchServer(RunFolder(tmp_path), host, 0, "\udcff" * 20)


def test_a_token_opens_the_page_and_leaves_the_address(run: RunFolder) -> None:
    with served(run, "0.0.0.0", TOKEN) as server:  # noqa: S104
        for path, cookie in (
            ("/", ""),
            ("/?token=another+one", ""),
            ("/", "bench-watch=1"),
            ("/?token=%ff", "\x01;;="),
        ):
            status, headers, text = ask(server, path, Cookie=cookie)
            assert status == 403
            assert "Set-Cookie" not in headers
            assert "html" not in text
        status, headers, _ = ask(server, "/?token=" + TOKEN.replace(" ", "+"))
        assert (status, headers["Location"]) == (303, "/")
        assert "HttpOnly" in headers["Set-Cookie"]
        assert TOKEN not in headers["Set-Cookie"]
        cookie = headers["Set-Cookie"].split(";")[0]
        assert ask(server, Cookie=cookie)[0] == 200
        assert ask(server, Cookie=cookie, Host="10.1.2.3:80")[0] == 200
        assert ask(server, Cookie=cookie, Host="evil.example")[0] == 421
        assert ask(server, "/run.json", Cookie=cookie)[0] == 404


PROGRAM = """
import sys
from bench.cli import main
sys.argv = ["bench", *sys.argv[1:]]
try:
    main()
finally:
    assert not {"torch", "ray"} & sys.modules.keys()
"""


def test_ctrl_c_ends_it_without_a_word_and_it_needs_neither_torch_nor_ray(run: RunFolder) -> None:
    command = [sys.executable, "-c", PROGRAM, "watch", str(run.path), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "80"}
    ) as process:
        try:
            assert process.stdout is not None
            [port] = re.findall(r"http://127\.0\.0\.1:(\d+)/", process.stdout.readline())
            connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)
            connection.request("GET", "/")
            assert b"2 of 4" not in (body := connection.getresponse().read())
            assert b'"done":2' in body
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (0, "", "")


def test_a_port_that_is_taken_is_one_sentence(run: RunFolder) -> None:
    with served(run) as server, pytest.raises(BenchError, match="address already in use; --port 0 takes any"):
        WatchServer(run, "127.0.0.1", server.server_address[1])
