"""What a group does about an error that reaches it and about workers whose work stands still, without a cluster."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest
from ray import ObjectRef
from ray.exceptions import RayError, RayTaskError, WorkerCrashedError

from cluster.certification import _Shards, _shards_left
from cluster.elastic import ShardTimes
from cluster.group import GroupSize, WorkerGroup
from cluster.retry import ATTEMPTS
from cluster.schedule import _log_traceback
from cluster.training import train
from cluster.work import WorkFailed
from cluster.worker import Doing
from tests.cluster.toys import AcceleratorError, FailingWork

OF_A_DEVICE = AcceleratorError(FailingWork.MESSAGE)


def group_that(*answers: object, death: RayError | None = None) -> Mock:
    """Gives these answers in turn; an error is raised."""
    return Mock(call=Mock(side_effect=answers), find_death=Mock(return_value=death))


def raised(error: Exception) -> RayTaskError:
    return RayTaskError("work", "", error)


@pytest.mark.parametrize(
    ("error", "death"),
    [
        (ValueError("its connection is gone, in words of tomorrow"), WorkerCrashedError()),
        (OF_A_DEVICE, None),
    ],
)
def test_a_training_is_tried_again_after_a_death_or_an_error_of_a_device(
    error: Exception, death: RayError | None
) -> None:
    group = group_that(raised(error), 0, death=death)
    train(group)
    group.stop_all.assert_called_once_with()


def test_a_training_that_raised_while_all_lived_is_not() -> None:
    group = group_that(raised(ValueError("the loss became nan")), 0)
    with pytest.raises(WorkFailed, match="the loss became nan") as caught:
        train(group)
    assert isinstance(caught.value.__cause__, RayTaskError)  # which has the worker's own traceback


def test_the_log_of_a_job_has_the_worker_s_traceback_without_colours(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    error = RayTaskError("train", '  File "mine.py", line 7, in loss\nValueError: no', ValueError("no"))
    try:
        train(group_that(error, 0))
    except WorkFailed:
        _log_traceback(log)
    assert 'File "mine.py", line 7, in loss' in log.read_text()
    assert "\x1b" not in log.read_text()


def test_what_is_left_to_certify_is_asked_again_after_an_error_of_a_device_and_no_other() -> None:
    assert _shards_left(group_that(raised(OF_A_DEVICE), WorkerCrashedError(), [[0], [1]])) == [[0], [1]]
    with pytest.raises(WorkFailed, match="no such model") as caught:
        _shards_left(group_that(raised(ValueError("no such model"))))
    assert isinstance(caught.value.__cause__, RayTaskError)
    with pytest.raises(WorkFailed, match=f"failed {ATTEMPTS} times before the first shard: .*illegal memory access"):
        _shards_left(group_that(*[raised(OF_A_DEVICE)] * ATTEMPTS))


def test_an_error_in_certification_counts_against_its_device() -> None:
    group, error = group_that(), raised(OF_A_DEVICE)
    worker = Mock(shard=[0], result=Mock(side_effect=error), elastic=False)
    shards = _Shards(group, [], ShardTimes(0.0))
    shards.running[ObjectRef.nil()] = worker
    shards._take_back(ObjectRef.nil())
    group.devices.note.assert_called_once_with(worker, error)
    group.replace.assert_called_once_with(worker)
    assert list(shards.waiting) == [[0]]


@pytest.mark.parametrize(
    ("doing", "still", "stopped"),
    [
        ([Doing.TRAINING, Doing.TRAINING], [90.0, 0.0], []),  # waits for the other, which goes on
        ([Doing.TRAINING, Doing.TRAINING], [90.0, 80.0], [0, 1]),  # which of them is at fault nobody can say
        ([Doing.CERTIFYING, Doing.CERTIFYING], [90.0, 0.0], [0]),
        ([Doing.CERTIFYING, Doing.TRAINING], [90.0, 0.0], [0]),
    ],
)
def test_workers_whose_work_stands_still_are_stopped_but_for_those_that_wait(
    doing: list[Doing], still: list[float], stopped: list[int]
) -> None:
    group = WorkerGroup(GroupSize(2, 1.0, 0.0), stalled_after=60.0)
    workers = [
        Mock(doing=at, stalled=False, still_for=Mock(return_value=seconds))
        for at, seconds in zip(doing, still, strict=True)
    ]
    group.workers = [*workers]
    group._stop_still_ones()
    assert [index for index, worker in enumerate(workers) if worker.stop_as_stalled.called] == stopped
    for index in stopped:
        workers[index].stop_as_stalled.assert_called_once_with(f"its work did not go on for {still[index]:.0f} s")
