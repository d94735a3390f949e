"""How often a shard and a training are tried again."""

from __future__ import annotations

import errno

import pytest

from cluster.retry import ATTEMPTS, ERRORS_IN_A_ROW, ShardRetries, TrainingRetries
from cluster.work import WorkFailed

from ray.exceptions import ActorDiedError, RayTaskError  # isort: skip

DEATH = ActorDiedError()


def raised(error: Exception) -> RayTaskError:
    return RayTaskError("certify", "", error)


def test_a_shard_has_three_attempts_however_they_end() -> None:
    retries = ShardRetries()
    assert retries.again([4, 5], raised(ValueError("no")))
    assert retries.again([4, 5], DEATH)
    assert retries.again([0, 1], DEATH)  # each shard on its own
    retries.raise_if_given_up()
    assert not retries.again([4, 5], raised(ValueError("odd\nimage")))
    with pytest.raises(WorkFailed, match=r"^a shard failed 3 times: images 4 to 5: odd$"):
        retries.raise_if_given_up()


def test_a_second_shard_that_is_given_up_is_counted() -> None:
    retries = ShardRetries()
    for _ in range(ATTEMPTS):
        retries.again([0], raised(KeyError("a")))
        retries.again([1], DEATH)
    with pytest.raises(WorkFailed, match=r"images 0 to 0: KeyError: 'a', and 1 more$"):
        retries.raise_if_given_up()


def test_where_nothing_comes_through_the_shards_are_not_to_blame() -> None:
    retries = ShardRetries()
    for shard in range(ERRORS_IN_A_ROW - 1):
        retries.again([shard], raised(ValueError("no accelerator")))
    with pytest.raises(WorkFailed, match=r"^no accelerator$"):
        retries.again([99], raised(ValueError("no accelerator")))
    retries.came_through()
    assert retries.again([99], raised(ValueError("no accelerator")))


@pytest.mark.parametrize(("number", "fatal"), [(errno.ENOSPC, True), (errno.EROFS, True), (errno.EIO, False)])
def test_a_full_disk_ends_it_at_once(number: int, fatal: bool) -> None:
    retries, error = ShardRetries(), raised(OSError(number, "disk"))
    if fatal:
        with pytest.raises(WorkFailed, match="disk"):
            retries.again([0], error)
    else:
        assert retries.again([0], error)


def test_a_training_has_three_attempts_between_two_epochs() -> None:
    retries = TrainingRetries()
    for left in (9, 9, 8, 8):  # an epoch is finished after the second
        retries.begin(left)
        retries.failed(DEATH)
    retries.begin(8)
    with pytest.raises(WorkFailed, match=r"^the training was interrupted 3 times: "):
        retries.failed(DEATH)
