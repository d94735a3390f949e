"""Files of a training that were damaged, deleted or exchanged; data in a store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState

from bench.runner import stages
from bench.runner.stages import is_trained, repair
from bench.settings.trial import Trial
from bench.train import loop
from bench.train.resume import last_state
from results.store.folder import AnyPath, RunFolder, TrialFolder, location, read_json, sha256_of
from results.store.schema import EPOCHS, SPECTRA, read_table
from tests.conftest import small_trial
from tests.s3 import bucket, s3_server  # noqa: F401

pytestmark = pytest.mark.usefixtures("_fewer_test_images")

EPOCH_COUNT = 3


@pytest.fixture(scope="module")
def trial() -> Trial:
    return small_trial(
        "generalised_ld",
        decomposition_ratio=0.2,
        train={
            "epochs": EPOCH_COUNT, "decay_epochs": [2], "learning_rate": 0.05, "batch": 64, "images": 100,
            "precision": "fp32",
        },
    )  # fmt: skip


def train(trial: Trial, run: RunFolder) -> None:
    try:
        loop.train(trial, run)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def undisturbed(trial: Trial, tmp_path_factory: pytest.TempPathFactory) -> TrialFolder:
    run = RunFolder(tmp_path_factory.mktemp("undisturbed"))
    train(trial, run)
    assert is_trained(trial, run)
    return run.trial(trial.trial_id)


@pytest.fixture(params=["local", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> RunFolder:
    if request.param == "local":
        return RunFolder(tmp_path / "run")
    return RunFolder(location(request.getfixturevalue("bucket") + "/run"))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The epochs that are trained from now on."""
    epochs: list[int] = []
    one_epoch = loop.train_epoch

    def recorded(trial: Trial, epoch: int, *rest: Any) -> loop.EpochResult:
        epochs.append(epoch)
        return one_epoch(trial, epoch, *rest)

    monkeypatch.setattr(loop, "train_epoch", recorded)
    return epochs


def truncate(path: AnyPath) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flip(path: AnyPath) -> None:
    """One bit in five places of the file, of which some are what the file is for."""
    content = bytearray(path.read_bytes())
    for place in range(1, 6):
        content[place * len(content) // 6] ^= 4
    path.write_bytes(bytes(content))


def flip_end(path: AnyPath) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))


def delete(path: AnyPath) -> None:
    path.unlink()


def assert_same(folder: TrialFolder, undisturbed: TrialFolder, *, exactly: bool) -> None:
    assert sha256_of(folder.model) == sha256_of(undisturbed.model)
    assert read_table(folder.spectrum, SPECTRA).equals(read_table(undisturbed.spectrum, SPECTRA))
    found, expected = (read_table(place.epochs, EPOCHS) for place in (folder, undisturbed))
    if exactly:  # with times and memory
        assert found.equals(expected)
        assert folder.training.read_bytes() == undisturbed.training.read_bytes()
    else:
        assert found.drop_columns("seconds").equals(expected.drop_columns("seconds"))
    temporary = [path.name for path in folder.path.iterdir() if path.name.startswith(".")]
    assert not temporary


@pytest.mark.parametrize("damage", [truncate, flip, flip_end, delete])
@pytest.mark.parametrize("name", ["model", "training", "epochs", "spectrum"])
def test_a_damaged_file_of_a_finished_training_is_written_again_without_training(
    name: str,
    damage: Callable[[AnyPath], None],
    trial: Trial,
    tmp_path: Path,
    undisturbed: TrialFolder,
    trained: list[int],
) -> None:
    run = RunFolder(tmp_path)
    folder = copied(undisturbed, run)
    assert is_trained(trial, run)
    damage(getattr(folder, name))
    assert not is_trained(trial, run)
    train(trial, run)
    assert is_trained(trial, run)
    assert trained == []
    assert_same(folder, undisturbed, exactly=True)


@pytest.mark.parametrize("damage", [flip, delete])
def test_one_file_damaged_after_another_costs_one_epoch(
    damage: Callable[[AnyPath], None], trial: Trial, tmp_path: Path, undisturbed: TrialFolder, trained: list[int]
) -> None:
    run = RunFolder(tmp_path)
    folder = copied(undisturbed, run)
    damage(folder.checkpoint)
    repair(trial, run)
    damage(folder.epochs)
    train(trial, run)
    assert is_trained(trial, run)
    assert trained == [EPOCH_COUNT - 1]
    assert_same(folder, undisturbed, exactly=False)
    assert len(folder.checkpoint.read_bytes())


def test_a_training_that_ends_while_it_is_looked_at_keeps_its_record(
    trial: Trial, tmp_path: Path, undisturbed: TrialFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search asks of a teacher that its workers train."""
    run = RunFolder(tmp_path)
    folder = copied(undisturbed, run)
    delete(folder.training)

    def ends_meanwhile(*_: Any) -> bool:
        folder.training.write_bytes(undisturbed.training.read_bytes())
        return False

    monkeypatch.setattr(stages, "_take_over", ends_meanwhile)
    assert not repair(trial, run)
    assert is_trained(trial, run)


def test_the_same_in_a_store(trial: Trial, run: RunFolder, undisturbed: TrialFolder) -> None:
    finished = copied(undisturbed, run)
    assert is_trained(trial, run)
    flip(finished.model)
    delete(finished.training)
    assert not is_trained(trial, run)
    train(trial, run)
    assert is_trained(trial, run)
    assert_same(finished, undisturbed, exactly=True)


@pytest.fixture(scope="module")
def killed(trial: Trial, tmp_path_factory: pytest.TempPathFactory) -> TrialFolder:
    """A training that was killed in its last epoch."""
    evaluate = loop.noisy_accuracy

    def killed(trial: Trial, epoch: int, *rest: Any) -> float:
        if epoch == EPOCH_COUNT - 1:
            raise KeyboardInterrupt
        return evaluate(trial, epoch, *rest)

    run = RunFolder(tmp_path_factory.mktemp("killed"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "noisy_accuracy", killed)
        with pytest.raises(KeyboardInterrupt):
            train(trial, run)
    return run.trial(trial.trial_id)


def copied(source: TrialFolder, run: RunFolder) -> TrialFolder:
    folder = run.trial(source.path.name)
    folder.path.mkdir(parents=True, exist_ok=True)
    for path in source.path.iterdir():
        (folder.path / path.name).write_bytes((source.path / path.name).read_bytes())
    return folder


@pytest.mark.parametrize("damage", [truncate, flip, flip_end, delete])
def test_a_damaged_checkpoint_costs_one_epoch(
    damage: Callable[[AnyPath], None],
    trial: Trial,
    run: RunFolder,
    killed: TrialFolder,
    undisturbed: TrialFolder,
    trained: list[int],
) -> None:
    folder = copied(killed, run)
    damage(folder.checkpoint)
    train(trial, run)
    assert trained == [1, 2]  # both checkpoints were of finished epochs, 0 and 1
    assert is_trained(trial, run)
    assert_same(folder, undisturbed, exactly=False)
    aside = [path.name for path in folder.path.iterdir() if path.name.endswith(".set-aside")]
    assert len(aside) == (damage is not delete)


def test_without_a_usable_checkpoint_the_training_starts_anew(
    trial: Trial, run: RunFolder, killed: TrialFolder, undisturbed: TrialFolder, trained: list[int]
) -> None:
    folder = copied(killed, run)
    flip(folder.previous_checkpoint)
    folder.checkpoint.write_bytes(b"\x80\x04cos\nsystem\n")
    train(trial, run)
    assert trained == [0, 1, 2]
    assert_same(folder, undisturbed, exactly=False)


def test_a_checkpoint_of_another_training_is_not_used(
    trial: Trial, run: RunFolder, undisturbed: TrialFolder, trained: list[int]
) -> None:
    other = trial.model_copy(update={"sigma": 0.5})
    folder = run.trial(other.trial_id)
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.checkpoint.write_bytes(undisturbed.checkpoint.read_bytes())
    train(other, run)
    assert trained == [0, 1, 2]
    assert is_trained(other, run)
    assert read_json(folder.training)["training_id"] == other.training_id


def test_no_flipped_byte_of_a_checkpoint_goes_unnoticed(trial: Trial, tmp_path: Path, undisturbed: TrialFolder) -> None:
    content = undisturbed.checkpoint.read_bytes()
    folder = TrialFolder(tmp_path)
    header = 8 + int.from_bytes(content[:8], "little")
    for place in [*range(0, header, 7), *range(header, len(content), len(content) // 60)]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        folder.checkpoint.write_bytes(bytes(damaged))
        state = last_state(trial, folder, 10)
        if state is not None:  # whitespace or the order of keys in the header
            folder.checkpoint.write_bytes(content)
            whole = last_state(trial, folder, 10)
            assert whole
            assert state.progress == whole.progress
            assert all(
                tensor.equal(other)
                for tensor, other in zip(
                    state.model.state_dict().values(), whole.model.state_dict().values(), strict=True
                )
            )
