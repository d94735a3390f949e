from __future__ import annotations

import gc
import logging
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest

from bench.machine.resources import usable_cores
from bench.settings.trial import Trial
from results.bounds.radius import certified_radius, lower_confidence_bound, two_sided_radius
from results.store.folder import AnyPath, RunFolder, TrialFolder, read_json, write_json
from results.store.record import DIGEST, digest_of
from results.store.records import RunRecord, TrainingRecord
from results.store.rows import NOISE, CertificateRow
from results.store.schema import CERTIFICATES, EPOCHS, with_identity, write_table
from results.store.settings import CertifiedTrial
from results.store.shards import write_shard

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests start two training processes on two cores
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # and a thread that waits leaves its core to other tests
# Ray's workers are nice (15), and would get a thirtieth of a core beside the tests of other processes.
os.environ.setdefault("RAY_worker_niceness", "0")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--seed",
        type=int,
        default=0,
        help="of what tests draw: inputs, faults and their moments, points and noise; the same every time if not given",
    )


ENVIRONMENT = re.compile(
    r"BENCH_.*|(FORCE|NO)_COLOR|PY_COLORS|COLORTERM|COLUMNS|LINES|TERM|TERMINAL_WIDTH|TTY_.*|GITHUB_ACTIONS|"
    r"(HTTP|HTTPS|ALL|NO)_PROXY|RAY_ADDRESS|AWS_(ENDPOINT_URL_S3|PROFILE)|(LOCAL_)?RANK|WORLD_SIZE|MASTER_(ADDR|PORT)|"
    r"PYTHONDONTWRITEBYTECODE",
    re.IGNORECASE,
)
"""Variables that change what commands print, whom they ask or join, and how long they take to start."""


def pytest_sessionstart() -> None:
    """Tests, and the processes they start, see nothing of how they were called; pytest's own output does."""
    for name in filter(ENVIRONMENT.fullmatch, list(os.environ)):
        del os.environ[name]


def pytest_configure(config: pytest.Config) -> None:
    """Tests mean CPUs, on machines with a GPU as on others, but for those of GPUs (`make gpu`)."""
    if config.getoption("markexpr") != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return
    import torch

    if not torch.cuda.is_available():
        raise pytest.UsageError("torch finds no GPU here, on which these tests are; bench doctor may say why")


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard() -> None:
    """What runs in a script's background ignores it, and so would the commands that tests start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _disks_are_not_waited_for() -> Iterator[None]:
    """No test can cut the power, and files are as whole without it; where others write too, a test with a run of its
    own would wait for the disk longer than it takes. Other processes do wait."""
    with patch("os.fsync"):
        yield


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order() -> None:
    """What a test draws from torch's own generator must not depend on the tests before it in its process."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _commands_are_not_quiet_for_the_next_test() -> Iterator[None]:
    """`--quiet` is of a process, which a command has for itself and tests share."""
    yield
    logging.getLogger("bench").setLevel(logging.NOTSET)


@pytest.fixture(autouse=True)
def _no_group_is_left() -> Iterator[None]:
    """A process that trained in one precision cannot form a group of another before it has left the first."""
    yield
    state = sys.modules.get("accelerate.state")
    if state and state.AcceleratorState._shared_state:
        from bench.machine.processes import leave_group

        leave_group()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Nearly all that is imported stays: to look for garbage in between takes a fifth of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_xdist_auto_num_workers() -> int:
    """One process more than there are cores: tests of clusters, locks and stores wait for most of their time."""
    return usable_cores() + 1


LONGEST = (
    "test_faults.py", "test_trained.py", "test_storage.py", "test_fuzz.py", "test_cli.py", "test_contract.py",
    "test_training.py",
)  # fmt: skip
WAITING = (
    "tests/test_end_to_end.py", "runner/test_group_faults.py", "cluster/test_connect.py", "cluster/test_devices.py",
    "cluster/test_gpus.py", "cluster/test_nodes.py", "cluster/test_schedule.py", "store/test_lock.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several processes share the tests: files that take long come first, so that none is left with one at the
    end, and those that wait for most of their time lie apart, so that seldom all processes wait.
    """
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    waiting = [path for path in files if path.as_posix().endswith(WAITING)]
    order = sorted((path for path in files if path not in waiting), key=lambda path: path.name not in LONGEST)
    apart = 3 * len(order) // (4 * len(waiting)) + 1 if waiting else 1
    for number, path in enumerate(waiting):
        order.insert(number * apart, path)
    items[:] = [item for path in order for item in files[path]]


@pytest.fixture(autouse=True)
def _collected_garbage() -> None:
    """Modules stay. Left to the garbage collector, their half a million objects would be looked through whenever a
    test, the program or a library collects: a third of a second each time. Some are imported only when a test runs.
    Not while Ray runs: its handles of processes would stay too, and complain when pytest ends.
    """
    ray = sys.modules.get("ray")
    if len(sys.modules) > _frozen[0] + 100 and not (ray and ray.is_initialized()):
        gc.collect()
        gc.freeze()
        _frozen[0] = len(sys.modules)


_frozen = [0]
"""How many modules there were when those were last left out of garbage collection."""


def pytest_unconfigure() -> None:
    """At its end the process may take everything apart: some libraries complain of what is left."""
    gc.unfreeze()


def repeated(few: int, many: int) -> pytest.MarkDecorator:
    """A test that counts how often something random happens, and so takes its bounds from `repeats`: few show a gross
    fault from day to day, many a small one."""
    return pytest.mark.parametrize("repeats", [few, pytest.param(many, marks=pytest.mark.slow)])


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--seed"))


SMALL: dict[str, Any] = {
    "model": "tiny",
    "width": 4,
    "dataset": "synthetic",
    "train": {"epochs": 2, "decay_epochs": [1], "learning_rate": 0.05, "batch": 64, "images": 200, "precision": "fp32"},
    "certify": {"n": 40, "n0": 10, "images": 12, "precision": "fp32"},
}


def here(place: AnyPath) -> Path:
    """A place on this machine, as those of most tests are."""
    assert isinstance(place, Path)
    return place


def small_trial(method: str = "gaussian", sigma: float = 0.25, **changes: Any) -> Trial:
    """A trial that trains in a second."""
    settings = {"name": method, "method": method, "sigma": sigma, **SMALL, **changes}
    return Trial.model_validate(settings)


def write_fake_run(path: AnyPath, trials: list[Trial], *, images: int = 12, shard: int = 5) -> RunFolder:
    """A finished run whose certificates come from a coin, not from a model."""
    run = RunFolder(path)
    for number, trial in enumerate(trials):
        folder = run.trial(trial.trial_id)
        sha256 = f"{number:064x}"
        trial.write(folder.settings)
        fake_training(trial, sha256, images).write(folder.training)
        rows = [fake_row(trial, sha256, index, number) for index in range(images)]
        for first in range(0, images, shard):
            write_shard(folder, rows[first : first + shard])
        epoch = {"trial_id": trial.trial_id, "method": trial.name, "sigma": trial.sigma, "seed": trial.seed, "epoch": 0}
        epoch |= {"learning_rate": 0.1, "loss": 1.0, "noisy_test_accuracy": 0.5, "seconds": 1.0}
        write_table(folder.epochs, pa.Table.from_pylist([epoch], EPOCHS))
    RunRecord(trials=[trial.trial_id for trial in trials]).write(run.description)
    return run


def trial_ids(run: RunFolder) -> list[str]:
    """The trials of a run, in the order of its grid."""
    return RunRecord.read(run.description).trials


def write_odd_shard(folder: TrialFolder, table: pa.Table) -> Path:
    """A shard of rows that need not be right, named and marked as `write_shard` would."""
    trial_id, sha256 = folder.path.name, read_json(folder.training)["checkpoint_sha256"]
    path = folder.shard(table["index"][0].as_py(), table["index"][-1].as_py())
    write_table(path, table.cast(with_identity(CERTIFICATES, trial_id=trial_id, checkpoint_sha256=sha256)))
    return here(path)


def edit_record(path: AnyPath, **changes: object) -> None:
    """Change keys of a sealed record as a clever forger would: with a digest that fits."""
    values = {key: value for key, value in read_json(path).items() if key != DIGEST} | changes
    write_json(path, {**values, DIGEST: digest_of(values)})


def fake_training(trial: Trial, sha256: str, images: int) -> TrainingRecord:
    return TrainingRecord(
        training_id=trial.training_id,
        title=trial.objective.title,
        checkpoint_sha256=sha256,
        num_classes=10,
        train_images=200,
        test_images=images,
        copies=trial.objective.copies,
        parameters=1_500_000,
        model_bytes=6_100_000,
        train_seconds=36.0,
        train_samples_per_second=100.0,
        memory_bytes=2_000_000_000,
        member_memory_bytes=2_000_000_000,
        memory_kind="resident",
        workers=1,
        device="a machine",
        train_precision="fp32",
        torch_version="0",
    )


def two_sided(counts: Any, selected: int, alpha: float, sigma: float) -> float:
    return float(two_sided_radius(np.array([counts]), np.array([selected]), alpha, sigma)[0])


def fake_row(trial: CertifiedTrial, sha256: str, index: int, number: int) -> CertificateRow:
    random = np.random.default_rng([number, index])
    n, label, selected = trial.certify.n, index % 10, (index + (index % 4 == 0)) % 10
    counts = random.multinomial(n, [0.002] * 9 + [0.982])
    counts[[selected, 9]] = counts[[9, selected]]
    skipped = trial.certify.skip_misclassified and selected != label
    if skipped:
        n, counts = 0, 0 * counts
    selection = np.zeros(10, dtype=np.int64)
    selection[[selected, (selected + 1) % 10]] = trial.certify.n0 - 1, 1
    p_lower = 0.0 if skipped else float(lower_confidence_bound(counts[selected], n, trial.certify.alpha))
    predicted = selected if p_lower >= 0.5 else -1
    return CertificateRow(
        trial_id=trial.trial_id,
        method=trial.name,
        sigma=trial.sigma,
        seed=trial.seed,
        dataset=trial.dataset,
        split="test",
        index=index,
        label=label,
        predicted=predicted,
        status="misclassified" if skipped else "certified" if predicted >= 0 else "abstained",
        correct=predicted == label,
        radius=float(certified_radius(p_lower, trial.sigma)),
        radius_two_sided=None if skipped else two_sided(counts, selected, trial.certify.alpha, trial.sigma),
        p_lower=p_lower,
        selected=selected,
        count_top=int(counts[selected]),
        n=n,
        n0=trial.certify.n0,
        alpha=trial.certify.alpha,
        estimator=trial.certify.estimator,
        classifier="network",
        selection_counts=selection.tolist(),
        counts=counts.tolist(),
        base_clean=label if index % 6 else (label + 1) % 10,
        base_noisy=label if index % 3 else (label + 1) % 10,
        seconds=0.5,
        joules=None,
        precision="fp32",
        engine="eager",
        batch=64,
        device="a machine",
        device_kind="cpu",
        noise=NOISE,
        noise_seed=trial.noise_seed(sha256),
        torch_version="0",
        checkpoint_sha256=sha256,
    )


@pytest.fixture(scope="session")
def written_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every `fake_run` is a copy of."""
    trials = [
        small_trial(method, sigma, certify={"n": 2000, "n0": 10})
        for sigma in (0.25, 0.5)
        for method in ("generalised_ld", "gaussian")
    ]
    return here(write_fake_run(tmp_path_factory.mktemp("fake") / "run", trials).path)


@pytest.fixture
def fake_run(written_run: Path, tmp_path: Path) -> RunFolder:
    """Two methods at two σ, merged by nobody yet."""
    return RunFolder(shutil.copytree(written_run, tmp_path / "run"))


@pytest.fixture(scope="module")
def _fewer_test_images() -> Iterator[None]:
    """For small trainings that are not certified: to test a model on all 500 after each epoch takes a fifth of them."""
    from bench.data import ImageSet, Split
    from bench.train import loop

    load_images = loop.load_images  # type: ignore[attr-defined]  # where it is looked up

    def fewer(data: str, split: Split, dataset: str = "") -> ImageSet:
        return load_images(data, split, dataset).evenly(100 if split == "test" else None)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(loop, "load_images", fewer)
        yield


@contextmanager
def without_figures(but: int = 0) -> Iterator[None]:
    """Reports without figures, or with the first of them, which take longer than all the rest of a report."""
    from results.report.figures import figures_of

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("results.report.write.figures_of", lambda *of: islice(figures_of(*of), but))
        yield


@pytest.fixture
def _no_figures() -> Iterator[None]:
    """For a test that looks at rows, tables or the page alone."""
    with without_figures():
        yield


@pytest.fixture
def _one_figure() -> Iterator[None]:
    """For a test of what is done with figures, whichever they are."""
    with without_figures(but=1):
        yield
