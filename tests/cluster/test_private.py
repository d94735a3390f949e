"""Ray's private parts: what a user sees of a version that was not checked, and of one that lacks something."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cluster import ClusterError, connected, private  # before ray, whose environment it sets

import ray  # isort: skip

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


def test_a_module_that_is_no_more_is_named_at_import() -> None:
    program = "import ray._common.utils as utils\ndel utils.get_default_ray_temp_dir\nimport cluster"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "cannot import name 'get_default_ray_temp_dir'" in result.stderr
    assert "pip install 'ray==2.60.*'" in result.stderr.splitlines()[-1]
