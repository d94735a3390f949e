"""Workers that were given GPUs, on a machine without: Ray's are logical, and torch finds none behind them."""

from __future__ import annotations

from pathlib import Path

import pytest

import bench
from bench.runner.grid import RunFailedError
from cluster import GroupSize, run_jobs
from cluster.worker import UNMASKED
from tests.cluster.local import local_cluster
from tests.cluster.toys import MaskedWork, job


def masks(folder: Path) -> set[str]:
    assert run_jobs([job(folder)], MaskedWork(), GroupSize(2, 1, 1)) == {}
    return {(folder / "job" / f"rank-{rank}").read_text() for rank in range(2)}


def test_a_worker_that_cannot_use_its_gpu_ends_the_run_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "99")  # the GPUs of this machine, if it has any, stay hidden
    with (
        local_cluster(cpus=1, gpus=1),
        pytest.raises(
            RunFailedError,
            match=r"no room is left: GPU 99 of .*: it failed 2 times, at last with .*: an accelerator was given to "
            r"this process \(CUDA_VISIBLE_DEVICES=99\) and cannot be used: torch finds no CUDA device; .*, and torch .*"
            "; --gpus-per-worker 0 computes on the CPU",
        ),
    ):
        bench.run_grid("smoke", out=tmp_path / "run", methods=["gaussian"], sigmas=[0.25], workers=1, quiet=True)


@pytest.mark.parametrize("unmasked", [None, "1"])
def test_workers_see_one_accelerator_each_also_where_ray_masks_nothing(
    unmasked: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if unmasked:
        monkeypatch.setenv(UNMASKED, unmasked)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with local_cluster(cpus=2, gpus=2):
        assert masks(tmp_path) == {"0", "1"}
