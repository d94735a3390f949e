"""The files in cluster/ that describe clusters: against Ray's schema, by their structure, and in a dry run of SLURM."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path, PurePosixPath
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from results import read_run

ROOT = Path(__file__).parent.parent.parent
FILES = ROOT / "cluster" / "deploy"
SBATCH = FILES / "slurm.sbatch"
DOCKERFILE = FILES / "Dockerfile"
GRID = """
methods = ["gaussian"]
sigmas = [0.5]
model = "tiny"
train = { epochs = 1, decay_epochs = [], images = 200, batch = 64 }
certify = { n0 = 10, n = 40, images = 6 }
"""


@pytest.mark.parametrize("file", ["ray-up.yaml", "slurm.sbatch", "kuberay.yaml"])
def test_every_cluster_that_is_described_wants_a_token_and_shows_nobody_its_dashboard(file: str) -> None:
    text = (FILES / file).read_text(encoding="utf-8")
    assert "RAY_AUTH_MODE" in text
    assert "127.0.0.1" in text
    assert "0.0.0." not in text
    assert "disabled" not in text


def test_the_file_for_ray_up_is_of_rays_schema() -> None:
    config = yaml.safe_load((FILES / "ray-up.yaml").read_text(encoding="utf-8"))
    schema = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    jsonschema.validate(config, json.loads(schema.read_text(encoding="utf-8")))
    head = config["available_node_types"][config["head_node_type"]]
    [worker] = [node for name, node in config["available_node_types"].items() if name != config["head_node_type"]]
    assert head["resources"]["CPU"] == 0
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert worker["max_workers"] <= config["max_workers"]
    assert ("~/.ray/auth_token", "~/.ray/auth_token") in config["file_mounts"].items()
    for place in ("head", "worker"):
        [start] = [command for command in config[f"{place}_start_ray_commands"] if "ray start" in command]
        assert start.index("export RAY_AUTH_MODE=token;") < start.index("ray start")
    assert "--dashboard-host=127.0.0.1" in " ".join(config["head_start_ray_commands"])


def test_ray_up_leaves_out_no_package_of_the_program() -> None:
    """A pattern of rsync holds of every folder of that name, or, with a slash before it, of the one in the root."""
    left_out = yaml.safe_load((FILES / "ray-up.yaml").read_text(encoding="utf-8"))["rsync_exclude"]
    folders = {"/data", "/.venv"}
    for package in ("bench", "methods", "cluster", "results"):
        folders |= {f"/{path.parent.relative_to(ROOT)}" for path in (ROOT / package).rglob("*.py")}
    found = {folder for folder in folders for pattern in left_out if PurePosixPath(folder).match(pattern)}
    assert found == {"/data", "/.venv"}
    assert "/bench/data" in folders


def test_the_manifest_for_kuberay_takes_its_token_from_a_secret_and_is_closed() -> None:
    text = (FILES / "kuberay.yaml").read_text(encoding="utf-8")
    documents = list(yaml.safe_load_all(text))
    kinds = {document["kind"]: document for document in documents}
    assert set(kinds) == {"RayCluster", "ServiceAccount", "NetworkPolicy"}
    cluster = kinds["RayCluster"]
    assert cluster["apiVersion"] == "ray.io/v1"
    assert f" raycluster/{cluster['metadata']['name']} --timeout" in text  # there may be no pod yet
    head, workers = cluster["spec"]["headGroupSpec"], cluster["spec"]["workerGroupSpecs"]
    assert head["serviceType"] == "ClusterIP"
    assert head["rayStartParams"] == {"dashboard-host": "127.0.0.1", "num-cpus": "0"}
    for group in (head, *workers):
        pod: dict[str, Any] = group["template"]["spec"]
        assert pod["serviceAccountName"] == kinds["ServiceAccount"]["metadata"]["name"]
        for container in pod["containers"]:
            environment = {variable["name"]: variable for variable in container["env"]}
            assert environment["RAY_AUTH_MODE"]["value"] == "token"
            assert set(environment["RAY_AUTH_TOKEN"]["valueFrom"]) == {"secretKeyRef"}
    assert all(group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] for group in workers)
    assert workers[0]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    policy = kinds["NetworkPolicy"]["spec"]
    mine = {"matchLabels": {"ray.io/cluster": cluster["metadata"]["name"]}}
    assert policy == {
        "podSelector": mine,
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": mine}]}],
    }


def test_shellcheck_finds_nothing_in_the_sbatch_script() -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    result = subprocess.run([shellcheck, SBATCH], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    result = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_the_image_is_made_of_what_a_checkout_has_and_runs_as_nobody_special() -> None:
    text = re.sub(r"\s*\\\n\s*", " ", DOCKERFILE.read_text(encoding="utf-8"))
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    copied = [name for step, rest in steps if step == "COPY" for name in rest.split()[:-1]]
    ignore = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text(encoding="utf-8").split("*\n", 1)[1]
    assert sorted(copied) == sorted(line[1:] for line in ignore.splitlines() if line.startswith("!"))
    assert all((ROOT / name).exists() for name in copied)
    assert [rest for step, rest in steps if step == "USER"] == ["1000"]
    assert "USER" in [step for step, _ in steps[-2:]]
    assert [rest for step, rest in steps if step == "FROM"] == ["python:3.11-slim"]
    assert not {"ARG", "ADD"} & {step for step, _ in steps}  # nothing from outside, and no secret
    assert "://" not in text


def test_the_image_holds_the_ray_that_the_manifests_name() -> None:
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    [version] = [line.partition("==")[2] for line in constraints if line.startswith("ray==")]
    assert f'rayVersion: "{version}"' in (FILES / "kuberay.yaml").read_text(encoding="utf-8")
    assert f"rayproject/ray:{version}-py311-gpu" in (FILES / "ray-up.yaml").read_text(encoding="utf-8")


# The two nodes of a dry run are loopback addresses of this machine.
SRUN = r"""#!/bin/bash
node=${3#--nodelist=}
shift 3
echo "$node: $*" >>"$CALLS"
case "$1 $2" in
"hostname --ip-address") echo "fe80::1 127.0.0.2" ;;
"ray start")
    cp -p "$RAY_AUTH_TOKEN_PATH" "$CALLS.token"
    if [ "$node" = n2 ]; then set -- "$@" --node-ip-address=127.0.0.3; fi
    exec "$@" --num-gpus=0 --object-store-memory=80000000 --dashboard-agent-listen-port="$AGENT_PORT${node#n}"
    ;;
*) exec "$@" ;;
esac
"""
SCONTROL = """#!/bin/bash
echo "scontrol $*" >>"$CALLS"
if [ "$1" = show ]; then printf 'n1\\nn2\\n'; fi
"""


def allocation(folder: Path, **programs: str) -> dict[str, str]:
    """The environment of a batch script, with stand-ins for SLURM's and other programs."""
    programs |= {"scontrol": SCONTROL}
    (folder / "bin").mkdir()
    for name, text in programs.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return own | {
        "PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder),
        "CALLS": str(folder / "calls"),
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_CPUS_PER_TASK": "1",
        "OMP_NUM_THREADS": "1",
    }


@pytest.mark.slow
def test_the_sbatch_script_starts_both_nodes_runs_and_takes_its_token_away(tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text(GRID)
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as temporary:
        environment = allocation(tmp_path, srun=SRUN) | {"RAY_TMPDIR": temporary, "AGENT_PORT": "4520"}
        grid = ["--grid", "grid.toml", "--out", str(tmp_path / "run"), "--workers", "2", "--cpus-per-worker", "1"]
        with (tmp_path / "log").open("w") as log:
            result = subprocess.run(
                ["bash", SBATCH, *grid], cwd=tmp_path, env=environment, stdout=log, stderr=log, timeout=500, check=False
            )
    assert result.returncode == 0, (tmp_path / "log").read_text()
    assert read_run(tmp_path / "run").trials["workers"].tolist() == [2]  # one on each node
    token = tmp_path / "calls.token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert len(token.read_text()) == 64
    assert token.read_text() not in (tmp_path / "calls").read_text() + (tmp_path / "log").read_text()
    assert not list(tmp_path.glob(".bench-slurm-*"))
    assert "requeue" not in (tmp_path / "calls").read_text()


# A run that ends in order when it is told to, as `bench run` does.
PYTHON = """#!/bin/bash
if [ "$1" = - ]; then cat >/dev/null; exit; fi
echo "python $*, umask $(umask)" >>"$CALLS"
trap 'exit 143' TERM
while :; do read -r -t 0.1 _ <> <(:) || true; done
"""
IDLE = (
    '#!/bin/bash\necho "$3 ${*:4}" >>"$CALLS"\nshift 3\n'
    'if [ "$1" = hostname ]; then echo 10.0.0.1; fi\nif [ "$1" = ray ]; then exec sleep 600; fi\n'
)


@pytest.mark.parametrize(("sent", "requeued"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_before_its_time_limit_the_sbatch_script_ends_the_run_and_queues_again(
    tmp_path: Path, sent: signal.Signals, requeued: bool
) -> None:
    environment = allocation(tmp_path, srun=IDLE, python=PYTHON)
    process = subprocess.Popen(["bash", SBATCH, "--grid", "thesis"], cwd=tmp_path, env=environment, umask=0o027)
    calls = tmp_path / "calls"
    deadline = time.monotonic() + 60
    while not (calls.exists() and "python -m bench run --grid thesis --address 10.0.0.1:" in calls.read_text()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(sent)
    assert process.wait(timeout=60) == 143
    assert (f"scontrol requeue {os.getpid()}" in calls.read_text()) is requeued
    assert not list(tmp_path.glob(".bench-slurm-*"))
    assert "umask 0027" in calls.read_text()  # colleagues may read the run
    assert all(f"--nodelist={node} rm -rf /tmp/ray-{os.getpid()}\n" in calls.read_text() for node in ("n1", "n2"))


def test_the_logs_of_a_cluster_that_failed_are_kept(tmp_path: Path) -> None:
    environment = allocation(tmp_path, srun=IDLE, python=PYTHON.replace("trap", "exit 1; trap"))
    done = subprocess.run(["bash", SBATCH, "--grid", "thesis"], cwd=tmp_path, env=environment, timeout=60, check=False)
    assert done.returncode == 1
    assert "rm -rf" not in (tmp_path / "calls").read_text()


@pytest.mark.parametrize(("restarts", "arrives"), [(None, True), ("0", True), ("1", False)])
def test_a_job_that_was_requeued_deletes_nothing(tmp_path: Path, restarts: str | None, arrives: bool) -> None:
    environment = allocation(tmp_path, srun=IDLE, python=PYTHON.replace("trap", "exit 0; trap"))
    environment |= {"SLURM_RESTART_COUNT": restarts} if restarts else {}
    command = ["bash", str(SBATCH), "--grid", "my grid.toml", "--fresh", "--full"]
    subprocess.run(command, cwd=tmp_path, env=environment, timeout=60, check=True)
    given = "--grid my grid.toml --fresh --full" if arrives else "--grid my grid.toml --full"
    assert f"python -m bench run {given} --address" in (tmp_path / "calls").read_text()
