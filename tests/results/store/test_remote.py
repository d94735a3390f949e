from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
from pyarrow import NativeFile

from bench.cli import main
from results import read_run
from results.report.write import write_report
from results.store.description import RunError, add_trials
from results.store.folder import (
    AnyPath,
    RunFolder,
    listing,
    location,
    remove_leftovers,
    set_aside,
    write_json,
    write_text,
)
from results.store.lock import RunLock
from results.store.merge import MergeError, merge_run
from results.store.process import machine, started
from results.store.remote import RemotePath, StorageError
from results.store.secrecy import masked
from results.store.shards import repair_shards
from tests.conftest import here, small_trial, trial_ids, write_fake_run
from tests.s3 import bucket, s3_server  # noqa: F401

TRIALS = [
    small_trial(method, sigma, certify={"n": 2000, "n0": 10})
    for sigma in (0.25, 0.5)
    for method in ("generalised_ld", "gaussian")
]


@pytest.fixture
def remote(bucket: str) -> RemotePath:  # noqa: F811
    path = location(f"{bucket}/some/run")
    assert isinstance(path, RemotePath)
    return path


def test_paths_behave_like_those_of_pathlib(bucket: str) -> None:  # noqa: F811
    path = location(f"{bucket}/some/run")
    file = path / "trials" / "a.b.parquet"
    assert str(file) == f"{bucket}/some/run/trials/a.b.parquet"
    assert (file.name, file.stem, file.suffix) == ("a.b.parquet", "a.b", ".parquet")
    assert file.parent == path / "trials"
    assert file.with_suffix(".json") == file.with_name("a.b.json")
    assert location(str(file)) == file == pickle.loads(pickle.dumps(file))  # noqa: S301
    assert len({file, location(str(file))}) == 1
    assert str(location(f"{bucket}/two words")) == f"{bucket}/two%20words"
    assert location(f"{bucket}/two%20words") == location(f"{bucket}/two words")
    assert location(f"{bucket}/run/") == location(f"{bucket}/run")


def test_files_are_written_read_listed_renamed_and_deleted(remote: RemotePath) -> None:
    file = remote / "sub" / "x.json"
    assert not remote.exists()
    assert listing(remote) == []
    with pytest.raises(FileNotFoundError):
        file.read_bytes()
    write_json(file, {"a": 1})
    write_text(remote / "y.txt", "σ")
    assert remote.is_dir()
    assert file.exists()
    assert not file.is_dir()
    assert (remote / "y.txt").read_text() == "σ"
    assert sorted(path.name for path in remote.iterdir()) == ["sub", "y.txt"]
    assert list(remote.glob("*/x.json")) == list(remote.glob("sub/*.json")) == [file]
    assert list(remote.glob("none/*")) == []
    assert [(path.name, size) for path, size, _ in remote.walk()] == [("x.json", 13), ("y.txt", 2)]
    assert abs(dict(listing(remote))[remote / "y.txt"] / 1e9 - time.time()) < 60
    with file.open("rb") as opened:
        assert opened.read() == file.read_bytes()
    file.replace(remote / "z.json")
    assert not file.exists()
    with pytest.raises(FileNotFoundError):
        file.replace(remote / "z.json")
    with pytest.raises(FileNotFoundError):
        file.unlink()
    file.unlink(missing_ok=True)
    (remote / "z.json").unlink()
    assert [path.name for path, *_ in remote.walk()] == ["y.txt"]


@pytest.mark.parametrize("size", [0, 3, 6_000_000, 20_000_000])
def test_a_file_is_uploaded_whole(size: int, remote: RemotePath) -> None:
    content = os.urandom(size)
    (remote / "file").write_bytes(content)
    assert (remote / "file").read_bytes() == content


def test_a_reader_sees_the_file_before_or_after_never_between(remote: RemotePath) -> None:
    """Of changing length: pyarrow asks for the length before it reads."""
    program = """
import random, sys, time
from results.store.folder import location, write_json
for number in range(120):
    before = time.perf_counter()
    write_json(location(sys.argv[1]), {"number": "x" * (number % 5 * 50)})
    # At any moment of a read, and with gaps in which one has room, however slow the machine.
    time.sleep(random.uniform(0, 4) * (time.perf_counter() - before))
"""
    write_json(remote, {"number": ""})
    with subprocess.Popen([sys.executable, "-c", program, str(remote)]) as writer:
        while writer.poll() is None:
            assert remote.read_bytes().endswith(b'"\n}\n')
    assert writer.returncode == 0


def test_a_file_that_has_its_size_again_was_another_meanwhile(
    remote: RemotePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is longer while it is read, of which only the former size is seen."""
    opened: list[str] = []

    class Replaced:
        def __init__(self, file: NativeFile) -> None:
            self.file = file

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def read(self) -> bytes:
            remote.write_bytes(b"longer by far")
            content: bytes = self.file.read()
            remote.write_bytes(b"other")
            return content

    filesystem, root = remote._filesystem()

    def open_input_file(path: str) -> Any:
        opened.append(path)
        file = filesystem.open_input_file(path)
        return Replaced(file) if len(opened) == 1 else file

    remote.write_bytes(b"first")
    stand_in = SimpleNamespace(open_input_file=open_input_file, open_output_stream=filesystem.open_output_stream)
    monkeypatch.setattr(RemotePath, "_filesystem", lambda _: (stand_in, root))
    assert remote.read_bytes() == b"other"
    assert len(opened) == 4


@pytest.mark.parametrize("failures", [4, 5])
def test_a_store_that_is_busy_is_asked_again(
    failures: int,
    remote: RemotePath,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    remote.write_bytes(b"content")
    read, left = RemotePath._read, iter(range(failures))
    waits: list[float] = []

    def busy(path: RemotePath) -> tuple[bytes, bool]:
        if next(left, None) is not None:
            raise StorageError(f"{path}: SlowDown")
        return read(path)

    monkeypatch.setattr(RemotePath, "_read", busy)
    monkeypatch.setattr("time.sleep", waits.append)
    if failures == 4:
        assert remote.read_bytes() == b"content"
    else:
        with pytest.raises(StorageError, match="SlowDown"):
            remote.read_bytes()
    assert sorted(waits) == waits
    assert 1 < sum(waits) < 2


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("s3://me:geheim@bucket/run", "credentials, which belong into the environment"),
        ("s3://bucket/run?secret_key=geheim", "credentials, which belong into the environment"),
        ("nowhere://x", "nowhere://x: cannot be opened"),
        ("s3://", "s3:.*: cannot be opened"),
        ("s3://bucket/run?colour=red", "cannot be opened: Unexpected query parameter"),
        ("s3://bucket/../other", "must not have a part"),
        ("s3://bucket/a%2F..%2Fb", "must not have a part"),
    ],
)
def test_wrong_urls_are_refused_in_a_sentence(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        location(url)
    assert "geheim" not in str(caught.value)


def test_a_store_that_fails_is_told_in_a_sentence_and_harms_no_shard(
    bucket: str,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    nobody = location("s3://no-such-bucket/run")
    with pytest.raises(StorageError, match=r"^s3://no-such-bucket/run.*NO_SUCH_BUCKET"):
        write_text(nobody / "x", "y")
    run = write_fake_run(location(f"{bucket}/run"), TRIALS[:1])
    folder = run.trial(TRIALS[0].trial_id)
    shards = folder.shard_files()
    unreachable = location(f"{bucket}/run?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1")
    with pytest.raises(StorageError, match="Could not connect to server"):
        repair_shards(RunFolder(unreachable).trial(folder.path.name), trial_id="x", checkpoint_sha256="y")
    assert folder.shard_files() == shards
    assert bench("report", str(unreachable)) == 2
    printed = capsys.readouterr().err
    assert len(printed.strip().splitlines()) == 1
    assert str(unreachable).split("?")[0] in printed


def bench(*arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:  # noqa: PT012
        patch.setattr(sys, "argv", ["bench", *arguments])
        main()
    return int(ended.value.code or 0)


def test_the_server_may_stand_in_the_url(
    bucket: str,  # noqa: F811
    s3_server: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    path = location(f"{bucket}/run?endpoint_override={s3_server.removeprefix('http://')}&scheme=http&region=us-east-1")
    write_text(path / "x", "here")
    assert location(str(path / "x")).read_text() == "here"
    assert str(path / "x").startswith(f"{bucket}/run/x?endpoint_override=")


@pytest.mark.usefixtures("_one_figure")
def test_a_run_in_a_store_gives_the_same_tables(remote: RemotePath, tmp_path: Path) -> None:
    local, run = write_fake_run(tmp_path / "run", TRIALS), write_fake_run(remote, TRIALS)
    for folder in (local, run):
        assert merge_run(folder) == []
        write_report(folder)
    there, here_ = read_run(str(remote)), read_run(tmp_path / "run")
    assert there.certificates.drop(columns="counts").equals(here_.certificates.drop(columns="counts"))
    assert there.trials.equals(here_.trials)
    for name in (
        "tables/certified_accuracy.md",
        "tables/cost.csv",
        "figures/certified_accuracy_curves.pdf",
        "report.html",
    ):
        assert (remote / name).read_bytes() == (tmp_path / "run" / name).read_bytes()
    assert bench("report", str(remote)) == 0
    assert bench("compare", str(remote), str(tmp_path / "run")) == 0


def test_damaged_shards_in_a_store_are_set_aside(remote: RemotePath) -> None:
    run = write_fake_run(remote, TRIALS[:1])
    folder = run.trial(TRIALS[0].trial_id)
    first, second, _ = folder.shard_files()
    first.write_bytes(first.read_bytes()[:-100])
    content = second.read_bytes()
    second.write_bytes(content.replace(b"a machine", b"a mashine"))
    with pytest.raises(MergeError, match="not readable as Parquet"):
        merge_run(run)
    for _ in range(2):
        found = repair_shards(folder, trial_id=folder.path.name, checkpoint_sha256="0" * 64)
        assert found == {10, 11}
    assert sorted(path.suffix for path in folder.shards.iterdir()) == [".parquet", ".set-aside", ".set-aside"]


@pytest.mark.parametrize("step", [79, pytest.param(11, marks=pytest.mark.slow)])
def test_no_flipped_bit_of_a_shard_changes_its_rows(step: int, tmp_path: Path) -> None:
    run = write_fake_run(tmp_path, TRIALS[:1])
    folder = run.trial(TRIALS[0].trial_id)
    path = folder.shard_files()[0]
    content = here(path).read_bytes()
    whole = repair_shards(folder, trial_id=folder.path.name, checkpoint_sha256="0" * 64)
    merge_run(run)
    rows = read_run(tmp_path).certificates
    survived = 0
    for place in range(0, len(content), step):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        here(path).write_bytes(bytes(damaged))
        if repair_shards(folder, trial_id=folder.path.name, checkpoint_sha256="0" * 64) == whole:
            survived += 1
            merge_run(run)
            assert read_run(tmp_path).certificates.equals(rows)
    assert survived < len(content) / step / 2


def test_set_aside_twice_keeps_both(tmp_path: Path) -> None:
    for _ in range(3):
        write_text(tmp_path / "x.parquet", "x")
        set_aside(tmp_path / "x.parquet")
    assert len(list(tmp_path.glob("x*.set-aside"))) == 3
    assert not (tmp_path / "x.parquet").exists()


def half_written(folder: Path) -> subprocess.Popen[str]:
    """A process that was killed while it wrote folder/x.json."""
    program = """
import sys, time
from pathlib import Path
from results.store.folder import write_whole
def write(temporary):
    temporary.write_text("half")
    print("half", flush=True)
    time.sleep(1000)
write_whole(Path(sys.argv[1]), write)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(folder / "x.json")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "half\n"
    return process


def test_what_killed_processes_were_writing_is_removed_and_nothing_else(tmp_path: Path) -> None:
    process = half_written(tmp_path)
    [temporary] = tmp_path.iterdir()
    remove_leftovers(tmp_path)
    assert temporary.exists()  # its process lives
    process.send_signal(signal.SIGKILL)
    process.communicate()
    far_away = tmp_path / f".x.json.{'0' * 12}.{process.pid}.00000000"
    far_away.write_text("of another machine")
    (tmp_path / ".hidden").write_text("of somebody else")
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {far_away.name, ".hidden"}
    os.utime(far_away, (time.time() - 4000,) * 2)
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".hidden"]


def test_leftovers_do_not_make_a_folder_foreign_and_are_gone_after_the_next_command(tmp_path: Path) -> None:
    process = half_written(tmp_path)
    process.kill()
    process.communicate()
    run = RunFolder(tmp_path)
    with RunLock(run):
        add_trials(run, TRIALS[:1])
        assert {path.name for path in tmp_path.iterdir()} - {"trials", "run.json"} == {
            path.name for path, _ in run.claims("run")
        }
    assert {path.name for path in tmp_path.iterdir()} == {"trials", "run.json"}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="is not empty and holds no"):
        add_trials(RunFolder(tmp_path / "other"), TRIALS[:1])


@pytest.mark.parametrize("place", ["local", "s3"])
def test_clearing_a_run_leaves_its_lock(place: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    path: AnyPath = tmp_path / "run" if place == "local" else request.getfixturevalue("remote")
    run = write_fake_run(path, TRIALS[:1])
    with RunLock(run):
        run.clear()
        assert {path for path, _ in listing(path)} == {run.description, *(path for path, _ in run.claims("run"))}
        add_trials(run, TRIALS[:1], fresh=True)
    assert trial_ids(run) == [TRIALS[0].trial_id]


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "..", "a\0b", "/etc"])
def test_a_trials_id_cannot_lead_out_of_the_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not the id of a trial"):
        RunFolder(tmp_path).trial(name)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--token", "geheim", "x"], ["--token", "***", "x"]),
        (["--token=geheim"], ["--token=***"]),
        (["AWS_SECRET_ACCESS_KEY=geheim"], ["AWS_SECRET_ACCESS_KEY=***"]),
        (["s3://me:geheim@bucket/x?token=geheim&scheme=http"], ["s3://***@bucket/x?token=***&scheme=http"]),
        (["https://h/x?X-Amz-Signature=geheim"], ["https://h/x?X-Amz-Signature=***"]),
        (["--set", "certify.n=1000", "--out", "s3://b/x"], ["--set", "certify.n=1000", "--out", "s3://b/x"]),
        (["--address", "auto", "--workers=2"], ["--address", "auto", "--workers=2"]),
    ],
)
def test_credentials_are_masked_and_nothing_else(words: list[str], shown: list[str]) -> None:
    assert masked(words) == shown


def test_processes_are_told_apart() -> None:
    process = subprocess.Popen(["sleep", "1000"])
    since = started(process.pid)
    assert since is not None
    assert since >= (started(os.getpid()) or 0)
    process.kill()
    assert wait_until(lambda: started(process.pid) is None)  # also while nobody has asked for its end: a zombie
    process.wait()
    assert started(process.pid) is None
    same = subprocess.run(
        [sys.executable, "-c", "from results.store.process import machine; print(machine())"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert same.stdout.strip() == machine()


def wait_until(happened: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60
    while not happened():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
