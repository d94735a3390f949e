from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import results.store.lock
from results.store.folder import AnyPath, RunFolder, listing, location, remove_leftovers
from results.store.lock import LockedError, RunLock, end_command, holder
from results.store.process import machine
from tests.s3 import bucket, s3_server  # noqa: F401

HOLD = """
import socket, sys
import results.store.lock
from results.store.folder import RunFolder, location
from results.store.lock import RunLock
if len(sys.argv) > 2:
    results.store.lock.BEAT_SECONDS = 0.5
    results.store.lock.machine, socket.gethostname = lambda: "0" * 12, lambda: sys.argv[2]
with RunLock(RunFolder(location(sys.argv[1]))):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=["local", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> RunFolder:
    if request.param == "local":
        return RunFolder(tmp_path / "run")
    return RunFolder(location(request.getfixturevalue("bucket") + "/some/run"))


@pytest.fixture
def elsewhere(run: RunFolder) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts processes that hold the lock until their input ends, on this machine or, by what they say, on another."""
    processes = []

    def start(*host: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(run.path), *host], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def from_another_machine(run: RunFolder) -> None:
    """Make it look as if the claims were of processes that cannot be seen from here."""
    for claim, _ in run.claims("run"):
        content = json.loads(claim.read_bytes())
        claim.write_bytes(json.dumps(content | {"machine": "0" * 12, "host": "far-away"}).encode())


def quick(monkeypatch: pytest.MonkeyPatch, *, stale: float) -> None:
    monkeypatch.setattr(results.store.lock, "STALE_SECONDS", stale)


def test_a_second_one_is_told_who_holds_the_run_and_nothing_stays_behind(
    run: RunFolder, elsewhere: Callable[[], subprocess.Popen[str]]
) -> None:
    process = elsewhere()
    with pytest.raises(LockedError, match=rf"is in use by process {process.pid} on .+ since 20.+: wait for it, stop"):
        RunLock(run).__enter__()
    found = holder(run)
    assert found
    assert (found.pid, found.dead) == (process.pid, False)
    assert len(run.claims("run")) == 1
    process.communicate()
    assert holder(run) is None
    with RunLock(run), RunLock(run, name="report"):
        mine = holder(run)
        assert mine
        assert (mine.pid, mine.dead) == (os.getpid(), False)
    assert not listing(run.path) or not any(path.name.startswith("lock") for path, _ in listing(run.path))


def is_followed_at_once(run: RunFolder) -> None:
    """The one claim is of a process that is gone, and nobody waits for it."""
    found = holder(run)
    assert found
    assert found.dead
    slept: list[float] = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(results.store.lock, "time", SimpleNamespace(**{**vars(time), "sleep": slept.append}))
        with RunLock(run):
            assert slept == []
            assert len(run.claims("run")) == 1


def test_a_killed_holder_is_followed_at_once(run: RunFolder, elsewhere: Callable[[], subprocess.Popen[str]]) -> None:
    process = elsewhere()
    process.send_signal(signal.SIGKILL)
    process.wait()
    is_followed_at_once(run)


def test_one_of_another_machine_is_dead_when_it_no_longer_renews(
    run: RunFolder,
    elsewhere: Callable[[], subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    quick(monkeypatch, stale=1.5)
    process = elsewhere()
    process.send_signal(signal.SIGKILL)
    process.wait()
    from_another_machine(run)
    with caplog.at_level(logging.WARNING), RunLock(run):
        assert f"claimed by process {process.pid} on far-away" in caplog.text
        assert len(run.claims("run")) == 1


def test_one_of_another_machine_that_renews_keeps_the_run(
    run: RunFolder, elsewhere: Callable[[str], subprocess.Popen[str]]
) -> None:
    elsewhere("far-away")  # it renews twice a second
    with pytest.raises(LockedError, match="on far-away"):
        RunLock(run).__enter__()
    found = holder(run)
    assert found
    assert not found.dead


def test_a_holder_renews_several_times_before_it_is_taken_for_dead() -> None:
    assert results.store.lock.STALE_SECONDS >= 5 * results.store.lock.BEAT_SECONDS


def test_a_claim_is_of_a_process_and_not_of_its_number(run: RunFolder) -> None:
    """Another process may have the number of a dead one."""
    with RunLock(run):
        [(claim, _)] = run.claims("run")
        content = json.loads(claim.read_bytes())
    claim.write_bytes(json.dumps(content | {"started": content["started"] - 1}).encode())
    is_followed_at_once(run)


def test_a_process_that_cannot_be_seen_is_watched_and_not_taken_for_dead(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where /proc is mounted so that a user sees his own processes alone."""

    def kill(_pid: int, _signal: int) -> None:
        raise PermissionError

    quick(monkeypatch, stale=20)
    monkeypatch.setattr(results.store.lock, "BEAT_SECONDS", 0.5)
    temporary = tmp_of_another(run)
    with RunLock(run):
        monkeypatch.setattr("results.store.lock.started", lambda _: None)
        monkeypatch.setattr("results.store.folder.started", lambda _: None)
        monkeypatch.setattr("results.store.process.os.kill", kill)
        found = holder(run)
        assert found
        assert not found.dead
        with pytest.raises(LockedError, match="is in use by process"):
            RunLock(run).__enter__()
        if temporary:
            remove_leftovers(run.path)
            assert temporary.exists()
    monkeypatch.undo()
    if temporary:
        remove_leftovers(run.path)
        assert not temporary.exists()


def tmp_of_another(run: RunFolder) -> Path | None:
    """A file that a process which is gone had begun, where a file system has the run."""
    if not isinstance(run.path, Path):
        return None
    run.path.mkdir()
    path = run.path / f".run.json.{machine()}.{2**22 + 1}.{'0' * 8}"
    path.touch()
    return path


@pytest.fixture
def renewing(monkeypatch: pytest.MonkeyPatch) -> threading.Lock:
    """Held while a claim is renewed, every tenth of a second: a store cannot tell that a file went while it was written
    anew."""
    monkeypatch.setattr(results.store.lock, "BEAT_SECONDS", 0.1)
    held, renew = threading.Lock(), results.store.lock._renew

    def renew_alone(claim: AnyPath) -> bool:
        with held:
            return renew(claim)

    monkeypatch.setattr(results.store.lock, "_renew", renew_alone)
    return held


def test_a_removed_claim_is_noticed_and_never_made_again(run: RunFolder, renewing: threading.Lock) -> None:
    noticed = threading.Event()
    with RunLock(run, on_lost=noticed.set) as lock:
        [(claim, _)] = run.claims("run")
        assert not noticed.wait(0.5)
        with renewing:
            claim.unlink()
        assert noticed.wait(60)
        assert lock.lost
        assert not run.claims("run")
        with RunLock(run) as other:
            assert not other.lost
    assert not run.claims("run")


def test_a_garbled_claim_is_watched_like_any_other(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch, stale=1.5)
    run.path.mkdir(parents=True, exist_ok=True)
    run.new_claim("run").write_bytes(b"\xff not JSON")
    with RunLock(run):
        assert len(run.claims("run")) == 1


CONTEND = """
import os, sys, time
from pathlib import Path
from results.store.folder import RunFolder, location
from results.store.lock import LockedError, RunLock
run, inside, rounds = RunFolder(location(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3])
held = tries = 0
while tries < rounds or (held < 7 and tries < 200):
    tries += 1
    while time.time() % 0.2 > 0.02:  # all at the same instant
        time.sleep(0.001)
    try:
        with RunLock(run):
            held += 1
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # fails where another is inside
            time.sleep(0.05)
            inside.unlink()
    except LockedError:
        pass
print(held)
"""


def test_of_many_at_the_same_instant_never_two_hold_it(run: RunFolder, tmp_path: Path) -> None:
    rounds = 20
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CONTEND, str(run.path), str(tmp_path / "inside"), str(rounds)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    answers = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], answers
    assert all(int(out) >= 7 for out, _ in answers), answers
    assert not run.claims("run")


def test_a_claim_that_came_back_is_not_removed(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, elsewhere: Callable[[], subprocess.Popen[str]]
) -> None:
    """Of a process that withdrew, and tried again before this one looked at what it had listed."""
    elsewhere()
    [(claim, _)] = run.claims("run")
    read, reads = results.store.lock._read, []

    def late(path: AnyPath) -> object:
        reads.append(path)
        return None if len(reads) == 1 else read(path)

    monkeypatch.setattr(results.store.lock, "_read", late)
    with pytest.raises(LockedError), RunLock(run):
        pass
    assert reads[:2] == [claim, claim]
    assert claim.exists()


def test_who_waits_gets_its_turn(run: RunFolder) -> None:
    order = []

    def follow() -> None:
        with RunLock(run, name="report", wait=True):
            order.append("second")

    with RunLock(run, name="report"):
        thread = threading.Thread(target=follow)
        thread.start()
        time.sleep(0.5)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_secrets_of_the_command_line_are_not_written(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "argv", ["bench", "run", "--set", "aws_secret_key=geheim", "--token", "geheim", "--out=s3://me:geheim@b/x"]
    )
    with RunLock(run):
        [(claim, _)] = run.claims("run")
        text = claim.read_text()
    assert "geheim" not in text
    assert "aws_secret_key=***" in text


def test_a_command_whose_run_was_taken_over_ends_in_order_and_says_so(run: RunFolder, renewing: threading.Lock) -> None:
    def end(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        with (  # noqa: PT012
            pytest.raises(LockedError, match="was taken over by another command"),
            RunLock(run, on_lost=end_command),
        ):
            with renewing:
                run.claims("run")[0][0].unlink()
            time.sleep(60)
    finally:
        signal.signal(signal.SIGTERM, before)
