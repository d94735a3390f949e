"""Ray's private parts: what a user sees of a version that was not checked, and of one that lacks something."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest

from cluster import ClusterError, connected, private  # before ray, whose environment it sets

import ray  # isort: skip
from ray import _raylet  # isort: skip
from ray._private import services  # isort: skip

REMEDY = r"this program was checked with Ray 2\.60 alone: pip install 'ray==2\.60\.\*'"


def test_the_installed_version_is_a_checked_one(caplog: pytest.LogCaptureFixture) -> None:
    private.warn_if_unchecked()
    assert not caplog.records


@pytest.mark.parametrize("version", ["2.6.0", "2.61.0", "3.0.0.dev0"])
def test_another_version_is_said_in_one_line(
    version: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "__version__", version)
    private.warn_if_unchecked()
    assert caplog.messages == [f"Ray {version} is installed; {REMEDY}".replace("\\", "")]


@pytest.mark.parametrize(
    "part", ["driver.listen_error_messages", "services.start_api_server", "_raylet.CoreWorker", "_raylet.persist_port"]
)
def test_a_part_that_is_no_more_is_named_and_nothing_starts(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(f"cluster.private.{part}")
    named = rf"^Ray [\d.]+ has no ray\.\S+\.{part.partition('.')[2]}; {REMEDY}$"
    with pytest.raises(ClusterError, match=named), connected(None, cores=1):
        pass
    assert not ray.is_initialized()


def test_a_node_knows_where_its_agent_will_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for 15 s until the agent says so, and then ends; on a busy machine the agent takes longer to start."""
    started, ports = list[list[str]](), dict[str, int]()
    monkeypatch.setattr(services, "start_ray_process", lambda command: started.append(command))
    monkeypatch.setattr(_raylet, "persist_port", lambda _folder, _node, name, port: ports.update({name: port}))
    command = ["raylet", "--session_dir=x", "--node_id=y", "--dashboard_agent_command=z"]
    agent = "--runtime_env_agent_command=python main.py --runtime-env-agent-port={} --more"
    with ExitStack() as kept, private.small_local_cluster(kept):
        services.start_ray_process([*command, agent.format(0)])
        [port] = [port for port in ports.values() if port > 0]
        assert started == [[*command[:3], "--dashboard_agent_command=cat", agent.format(port)]]
        with socket.socket() as another, pytest.raises(OSError, match="in use"):  # it stays free for the agent
            another.bind(("127.0.0.1", port))
        with pytest.raises(ClusterError, match=f"has no --runtime-env-agent-port; {REMEDY}"):
            services.start_ray_process(command)


def test_a_module_that_is_no_more_is_named_at_import() -> None:
    program = "import ray._common.utils as utils\ndel utils.get_default_ray_temp_dir\nimport cluster"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "cannot import name 'get_default_ray_temp_dir'" in result.stderr
    assert "pip install 'ray==2.60.*'" in result.stderr.splitlines()[-1]
