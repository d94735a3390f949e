"""`bench submit` to a cluster started by hand: three nodes with resources and addresses of their own on one machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil
import pytest

import bench
from bench.settings.options import RunOptions
from results import read_run
from results.store.folder import read_json
from tests.ranks import free_ports

RAY = str(Path(sys.executable).with_name("ray"))
SAME = ["method", "index", "label", "predicted", "radius", "counts", "checkpoint_sha256"]
GRID = """
methods = ["halved"]
sigmas = [0.5]
model = "tiny"
width = 8
[train]
epochs = 2
decay_epochs = [1]
learning_rate = 0.1
batch = 96
images = 384
[certify]
n0 = 20
n = 600
images = 30
"""
OWN_METHOD = """
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F

from bench import Method, register_method


@register_method("halved")
@dataclass(frozen=True, kw_only=True)
class Halved(Method):
    title: ClassVar[str] = "Halved"
    source: ClassVar[str] = "a test"

    def loss(self, logits, labels, *, sigma, epoch):
        return F.cross_entropy(logits.flatten(0, 1), labels.repeat(logits.shape[0])) / 2
"""
OWN = ["--grid", "own.toml", "--plugin", "own.py"]
SIZE = ["--workers", "3", "--gpus-per-worker", "0"]


@dataclass
class Cluster:
    """A running cluster and the one who may use it."""

    head: str
    dashboard: str
    environment: dict[str, str]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """One with a short name, for sockets with long ones cannot be made."""
    path = Path(tempfile.mkdtemp(prefix="bench-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def program(folder: Path) -> Path:
    """A copy of the program beside a method of the user's own and a grid of it."""
    home = Path(bench.__file__).parent.parent
    for package in ("bench", "methods", "cluster", "results"):
        shutil.copytree(home / package, folder / "program" / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "program" / "own.py").write_text(OWN_METHOD)
    (folder / "program" / "own.toml").write_text(GRID)
    return folder / "program"


@contextmanager
def node(folder: Path, address: str, environment: dict[str, str], *options: str) -> Iterator[None]:
    """A node that is started as the README says, with one CPU, until the block ends."""
    log = folder / f"{address}.log"
    [agent] = free_ports(1)
    command = [RAY, "start", "--block", "--node-ip-address", address, "--num-cpus", "1", "--num-gpus", "0"]
    command += ["--object-store-memory", str(80 * 2**20), "--temp-dir", str(folder / address)]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--dashboard-agent-listen-port", agent, *options],
            env=environment,
            cwd=folder,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_until(lambda: "Ray runtime started" in log.read_text(), process, log)
        yield
    finally:
        family = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
        process.terminate()
        alive = [psutil.Process(pid) for pid in family if psutil.pid_exists(pid)]
        for left in psutil.wait_procs(alive, timeout=20)[1]:
            left.kill()
        process.wait()


def wait_until(
    reached: Callable[[], bool], process: subprocess.Popen[str] | subprocess.Popen[bytes], log: Path
) -> None:
    deadline = time.monotonic() + 240
    while not reached():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


@pytest.fixture(scope="module")
def cluster(folder: Path) -> Iterator[Cluster]:
    home = folder / "home"
    (home / ".ray").mkdir(parents=True)
    environment = {**os.environ, "HOME": str(home), "RAY_AUTH_MODE": "token", "OMP_NUM_THREADS": "1"}
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "BENCH_GIT_COMMIT", "PYTHONPATH"):
        environment.pop(name, None)
    subprocess.run([RAY, "get-auth-token", "--generate"], env=environment, check=True, capture_output=True)
    gcs, dashboard, client = free_ports(3)
    options = ["--head", "--port", gcs, "--dashboard-port", dashboard, "--ray-client-server-port", client]
    with node(folder, "127.0.0.2", environment, *options), ExitStack() as others:
        for address in ("127.0.0.3", "127.0.0.4"):
            others.enter_context(node(folder, address, environment, "--address", f"127.0.0.2:{gcs}"))
        yield Cluster(f"127.0.0.2:{gcs}", f"http://127.0.0.1:{dashboard}", environment)


def run_bench(program: Path, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(
        command, cwd=program, env=environment, capture_output=True, text=True, timeout=500, check=False
    )


def submit_and_leave(program: Path, cluster: Cluster, log: Path, *options: str) -> tuple[str, str]:
    """Submit, and press Ctrl-C once the job writes; the job and what was printed."""
    arguments = ["submit", "--address", cluster.dashboard, *OWN, "--cpus-per-worker", "1", *SIZE]
    # A submitter's own credentials stay with the submitter.
    environment = {**cluster.environment, "BENCH_GIT_COMMIT": "0123abc", "AWS_SECRET_ACCESS_KEY": "hunter2"}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench", *arguments, *options],
            cwd=program,
            env=environment,
            stdout=output,
            stderr=output,
        )
    wait_until(lambda: "1 trial of " in log.read_text(), process, log)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) == 130
    printed = log.read_text()
    assert "Traceback" not in printed
    job = printed.split("Job ")[1].split(".")[0]
    back = f"bench submit --address {cluster.dashboard}"
    assert f"The job goes on. To come back to it: {back} --follow {job}\nTo stop it: {back} --stop {job}" in printed
    return job, printed


def certificates(run: Path) -> pd.DataFrame:
    rows = read_run(run).certificates[SAME].copy()
    rows["counts"] = rows["counts"].map(tuple)
    return rows


@pytest.mark.slow
def test_a_job_on_three_nodes_ends_as_a_run_of_this_machine(cluster: Cluster, program: Path, folder: Path) -> None:
    job, _ = submit_and_leave(program, cluster, folder / "submit.log", "--out", str(folder / "run"))
    result = run_bench(program, cluster.environment, "submit", "--address", cluster.dashboard, "--follow", job)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 trial of grids/own.toml" in result.stdout  # the log from its beginning
    assert "Certified accuracy (%)" in result.stdout
    trials = read_run(folder / "run").trials
    assert trials[["method", "workers"]].to_numpy().tolist() == [["halved", 3]]
    assert read_json(folder / "run" / "run.json")["git_commit"] == "0123abc"
    token = (folder / "home" / ".ray" / "auth_token").read_bytes()
    written = [path.read_bytes() for path in (folder / "run").rglob("*") if path.is_file()]
    assert len(written) > 10
    assert not any(secret in text for text in written for secret in (b"hunter2", token))

    here = ["run", *OWN, "--out", str(folder / "here"), "--cpus-per-worker", "0.3", *SIZE]
    result = run_bench(program, cluster.environment, *here)
    assert result.returncode == 0, result.stderr
    pd.testing.assert_frame_equal(certificates(folder / "here"), certificates(folder / "run"))


@pytest.mark.slow
def test_a_job_can_be_stopped(cluster: Cluster, program: Path, folder: Path) -> None:
    job, _ = submit_and_leave(
        program, cluster, folder / "stop.log", "--out", str(folder / "stopped"), "--set", "train.epochs=500"
    )
    address = ["submit", "--address", cluster.dashboard]
    result = run_bench(program, cluster.environment, *address, "--stop", job)
    assert (result.returncode, result.stdout) == (0, f"{job} is told to stop\n"), result.stderr
    result = run_bench(program, cluster.environment, *address, "--follow", job)
    assert result.returncode == 1
    assert f"failed: job {job}" in result.stderr
    result = run_bench(program, cluster.environment, *address, "--stop", job)
    assert (result.returncode, result.stdout) == (0, f"{job} had ended already\n"), result.stderr


@pytest.mark.slow
def test_a_wrong_token_and_an_unknown_job_are_one_sentence(cluster: Cluster, program: Path, folder: Path) -> None:
    wrong = {**cluster.environment, "RAY_AUTH_TOKEN": "b" * 64}
    out = str(folder / "refused")
    for arguments, cluster_name in (
        (["submit", "--address", cluster.dashboard], cluster.dashboard),
        (["run", "--address", cluster.head], cluster.head),
    ):
        result = run_bench(program, wrong, *arguments, *OWN, "--out", out)
        assert result.returncode == 2
        assert result.stderr.startswith(
            f"error: the Ray cluster at {cluster_name} refuses the token in RAY_AUTH_TOKEN: "
        )
        assert result.stderr.count("\n") == 1
    result = run_bench(program, cluster.environment, "submit", "--address", cluster.dashboard, "--follow", "nothing")
    assert result.returncode == 2
    assert "nothing does not exist" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_head_without_tokens_is_refused_unless_allowed(cluster: Cluster, program: Path, folder: Path) -> None:
    open_to_all = {**cluster.environment, "RAY_AUTH_MODE": "disabled"}
    gcs, dashboard, client = free_ports(3)
    options = ["--head", "--port", gcs, "--dashboard-port", dashboard, "--ray-client-server-port", client]
    with node(folder, "127.0.0.5", open_to_all, *options):
        url = f"http://127.0.0.1:{dashboard}"
        out = [*OWN, "--out", str(folder / "open")]
        for environment, arguments in (
            (cluster.environment, ["submit", "--address", url]),
            (open_to_all, ["run", "--address", f"127.0.0.5:{gcs}"]),
        ):
            result = run_bench(program, environment, *arguments, *out)
            assert result.returncode == 2
            assert f"{arguments[-1]} lets anybody in without a token: " in result.stderr
            assert result.stderr.count("\n") == 1
        # Allowed in, the run finds no room for its worker group, and says so.
        group = ["--workers", "2", "--cpus-per-worker", "1"]
        result = run_bench(
            program, cluster.environment, "submit", "--address", url, "--allow-unauthenticated", *out, *group
        )
        assert result.returncode == 1
        assert "2 workers with 1 CPU each do not fit" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing option '--grid'"),
        (["--grid", "smok", "--out", "/run"], "unknown grid 'smok': did you mean 'smoke'?"),
        (["--grid", "smoke", "--out", "/run", "--methods", "macr"], "unknown method 'macr'"),
        (["--grid", "smoke", "--out", "/run", "--sigmas", "a"], "--sigmas 'a': must be numbers"),
        (["--grid", "smoke", "--out", "/run", "--set", "certify.n=x"], "certify.n = 'x'"),
        (["--grid", "smoke", "--out", "/run", "--wrong"], "No such option: --wrong"),
        (["--grid", "smoke"], "--out is missing: must be an absolute path"),
        (["--grid", "smoke", "--out", "run"], "--out run: must be an absolute path"),
        (
            ["--grid", "smoke", "--out", "/run", "--data", "images"],
            "data images: must be synthetic, cifar10, cifar100, svhn, mnist, fashion_mnist, a URL, or an absolute path "
            "on every node",
        ),
        (["--grid", "smoke", "--out", "s3://key:secret@bucket/run"], "no place for credentials"),
        (["--follow", "a", "--stop", "b"], "--follow and --stop take the name of a job and nothing else"),
        (["--grid", "smoke", "--out", "/run", "--plugin", "nowhere.py"], "--plugin nowhere.py: cannot be read"),
        (["--grid", "smoke", "--out", "/run", "--address", "auto"], "--address names the dashboard, as in http://"),
        (["--follow", "a", "--plugin", "mine.py"], "--follow and --stop take the name of a job and nothing else"),
        (["--follow", "a", "--grid", "smoke"], "--follow and --stop take the name of a job and nothing else"),
    ],
)
def test_what_bench_run_would_refuse_is_refused_before_a_cluster_is_asked(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench import cli

    monkeypatch.setattr(sys, "argv", ["bench", "submit", "--address", "http://127.0.0.1:1", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_a_job_is_sent_the_grid_and_the_plugins_and_is_told_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.cli.submit import _pack

    monkeypatch.chdir(tmp_path)
    for place, text in (("a", "x = 1\n"), ("b c", "x = 2\n")):
        Path(place).mkdir()
        Path(place, "mine.py").write_text(text)
    Path("own.toml").write_text(GRID)
    given = {"grid": "own.toml", "out": "s3://bucket/run", "plugins": ["a/mine.py", "b c/mine.py", "json"]}
    options = RunOptions.of(**given, sigmas=".25,.5", set=["rows.a.options.b='c d'"], full=True)
    there = _pack(tmp_path / "job", options)
    assert there.arguments() == [
        "--grid=grids/own.toml", "--out=s3://bucket/run", "--sigmas=0.25,0.5", "--set=rows.a.options.b='c d'",
        "--full", "--plugin=plugins/0/mine.py", "--plugin=plugins/1/mine.py", "--plugin=json",
    ]  # fmt: skip
    assert (tmp_path / "job" / "plugins/1/mine.py").read_text() == "x = 2\n"
    assert (tmp_path / "job" / "grids/own.toml").read_text() == GRID
    assert (tmp_path / "job" / "bench" / "cli" / "submit.py").exists()


def test_the_arguments_of_options_are_read_as_those_options(monkeypatch: pytest.MonkeyPatch) -> None:
    import typer

    from bench.cli.base import app

    read: list[RunOptions] = []

    def opened(options: RunOptions) -> None:
        read.append(options)
        raise ZeroDivisionError

    monkeypatch.setattr(RunOptions, "opened", property(opened))
    for given in (
        {"grid": "smoke"},
        {"grid": "-odd", "data": "-d", "out": "--fresh", "set": ["a=-1", "--x=y", "z= "], "methods": ["a", "b"]},
        {"grid": "g", "workers": 3, "cpus_per_worker": 0.1, "gpus_per_worker": 1 / 3, "shard_size": 5, "fresh": True},
        {"grid": "g", "sigmas": [0.1 + 0.2, 1.0], "full": True, "tensorboard": True, "plugins": ["a.py", "b"]},
        {"grid": "g", "gpus_per_worker": 0.0},
    ):
        options = RunOptions.of(**given)
        with pytest.raises(ZeroDivisionError):
            typer.main.get_command(app).main(["run", *options.arguments()], standalone_mode=False)
        assert read.pop() == options
