"""What only a GPU shows. `make gpu` runs these where there is one; all other tests run on CPUs, wherever they are."""

from __future__ import annotations

import gc
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

from bench.audit.checks_torch import NOISE_DIGEST, noise_block
from bench.certify.engine import COMPILE_FROM, Engine
from bench.certify.noise import NoiseSamples
from bench.certify.smoothing import Smoothed
from bench.data import load_images
from bench.machine.capture import captured_in
from bench.machine.hardware import compute_reproducibly, release_memory
from bench.machine.randomness import Role
from bench.models.classifier import Classifier, Consensus, MeanLogits, build_model
from bench.settings.trial import Trial
from bench.train import loop
from bench.train.batches import batches
from bench.train.replay import Steps
from methods import METHODS
from results.store.description import add_trials
from results.store.folder import RunFolder, TrialFolder
from results.store.records import TrainingRecord
from results.store.settings import CertifySettings
from tests.conftest import here, small_trial
from tests.ranks import free_ports

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("default"),  # what libraries say on some GPU is shown, and no fault of a test
]
GPU = torch.device("cuda")
SHAPE = torch.Size((3, 32, 32))
STEPS: dict[str, dict[str, Any]] = {"smoothadv": {"steps": 2}, "smoothmix": {"steps": 2}, "cat_rs": {"steps": 2}}


def trained(name: str, seed: int = 0) -> Classifier:
    """A network whose batch norms hold statistics, the same every time."""
    compute_reproducibly()
    torch.manual_seed(seed)
    model = build_model(name, num_classes=10).to(GPU).train()
    with torch.no_grad():
        for _ in range(10):
            model(torch.rand(256, 1, 1, 3, device=GPU).permute(0, 3, 1, 2) + 0.3 * torch.randn(256, *SHAPE, device=GPU))
    return model.eval()


def reuse_memory() -> None:
    """What nobody holds is gone, and others' numbers stand where it was."""
    gc.collect()
    for size in (2**10, 2**16, 2**20, 2**24):
        _ = [torch.full((size,), torch.nan, device=GPU) for _ in range(20)]
    release_memory()


def test_noise_has_the_bits_that_cpus_draw() -> None:
    assert hashlib.sha256(noise_block(GPU).numpy().tobytes()).hexdigest() == NOISE_DIGEST


@pytest.mark.parametrize(
    ("network", "precision", "way"),
    [
        ("resnet8", "bf16", "triton"),
        ("resnet110", "bf16", "triton"),
        ("tiny", "bf16", "cudnn"),
        ("resnet8", "fp32", "cudnn"),
        ("resnet8", "bf16", "cudnn"),
        ("resnet8", "bf16", "inductor"),
        ("mean", "bf16", "triton"),
        ("consensus", "bf16", "triton"),
    ],
)
@torch.inference_mode()
def test_what_is_made_fast_answers_like_the_eager_network_and_goes_on_to(
    network: str, precision: str, way: str
) -> None:
    """It is not much further from the network in fp32 than the eager one is; also after memory that nobody holds has
    been given to others: a graph knows addresses alone."""
    members = [trained("resnet8", seed) for seed in range(3)]
    ensembles = {"mean": MeanLogits(members), "consensus": Consensus(members, 2)}
    with torch.inference_mode(False):
        model = ensembles.get(network) or trained(network)
    engine = Engine(model, GPU, precision)
    if network == "resnet8" and way != "triton":
        engine.settle(way)
    fast, found = engine.classifier(SHAPE, COMPILE_FROM)
    assert found == way
    eager, _ = engine.classifier(SHAPE, 1)
    exact, _ = Engine(model, GPU, "fp32").classifier(SHAPE, 1)
    reuse_memory()
    draw = NoiseSamples(0.25, GPU).batches(torch.full(SHAPE, 0.5), engine.batch(SHAPE), 0, Role.PREDICT, 0)
    for noisy, _ in zip(draw, range(4), strict=False):
        expected, usual, answers = exact(noisy).clone(), eager(noisy).clone(), fast(noisy).clone()
        errors = [float((found - expected).norm() / expected.norm()) for found in (usual, answers)]
        assert errors[1] < max(1.5 * errors[0], 1e-4), errors  # roundings of bf16 add up to .03 in a ResNet-110
        assert float((answers.argmax(1) == usual.argmax(1)).float().mean()) > 0.98
    engine.check(SHAPE)


def test_a_capture_that_fails_leaves_the_process_as_it_was() -> None:
    release_memory()
    stream, before = torch.cuda.current_stream(), torch.cuda.memory_reserved()
    with pytest.raises(RuntimeError, match="captur"), captured_in(torch.cuda.CUDAGraph()):
        torch.ones(2**26, device=GPU).sum().item()
    assert torch.cuda.current_stream() == stream
    release_memory()
    assert torch.cuda.memory_reserved() < before + 2**26  # what the block took
    numbers, graph = torch.randn(10, device=GPU), torch.cuda.CUDAGraph()
    with captured_in(graph):
        doubled = 2 * numbers
    numbers.fill_(1.5)
    graph.replay()
    assert doubled.tolist() == [3.0] * 10


def test_counts_depend_neither_on_the_order_nor_on_the_process() -> None:
    images = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(1))
    settings = CertifySettings(n=COMPILE_FROM)
    counts: list[dict[int, list[int]]] = []
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        smoothed = Smoothed(trained("resnet20"), 0.25, 10)
        rows = smoothed.certify(images[order], settings, indices=order)
        assert {row.engine for row in rows} == {"triton"}
        counts.append(dict(zip(order, [row.counts for row in rows], strict=True)))
        reuse_memory()
    assert counts[0] == counts[1]


def train_once(trial: Trial, *, replay: bool) -> tuple[dict[str, Tensor], list[loop.EpochResult]]:
    """The weights after two epochs, and what the epochs were like."""
    accelerator = loop.make_accelerator(trial, TrialFolder(Path("none")))
    images = load_images("synthetic", "train").evenly(600)  # the last batch is ragged
    torch.manual_seed(0)
    model: nn.Module = build_model(trial.model, num_classes=10)
    model = model.to(GPU, memory_format=torch.channels_last)  # type: ignore[call-overload]
    votes = torch.randint(1, 9, (600, 10), generator=torch.Generator().manual_seed(1)).to(GPU)
    labels = torch.from_numpy(images.labels).to(GPU)
    data = loop.TrainData(torch.from_numpy(images.images).to(GPU), labels, 10, True, {"votes": votes})
    steps = Steps(accelerator)
    steps._able = steps._able and replay
    optimizer, prepared = loop._make_optimizer(trial, model, {}), accelerator.prepare(model)
    results = [loop.train_epoch(trial, epoch, prepared, optimizer, data, steps) for epoch in range(2)]
    assert steps._able is replay
    return {name: value.cpu() for name, value in model.state_dict().items()}, results


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("ensemble", "ensemble_ld", "sun")])
def test_replayed_steps_train_the_same_weights(method: str) -> None:
    trial = small_trial(method, model="resnet8", options=STEPS.get(method, {}), train={"batch": 64})
    (one, first), (other, second) = (train_once(trial, replay=replay) for replay in (False, True))
    assert first == second
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("method", ["gaussian", "macer", "smoothadv"])
def test_a_step_waits_for_nothing(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = small_trial(method, model="resnet8", options=STEPS.get(method, {}), train={"batch": 64})

    def watched(*arguments: Any) -> Any:
        for number, batch in enumerate(batches(*arguments)):
            torch.cuda.set_sync_debug_mode("error" if number else "default")
            yield batch
        torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr("bench.train.loop.batches", watched)
    try:
        train_once(trial, replay=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_an_interrupted_training_continues_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"epochs": 3, "decay_epochs": [2], "learning_rate": 0.05, "batch": 64, "images": 600}
    trial = small_trial("consistency", model="resnet20", train=settings)
    runs = [RunFolder(tmp_path / name) for name in ("whole", "interrupted")]
    for run in runs:
        add_trials(run, [trial])
    loop.train(trial, runs[0])
    evaluate = loop.noisy_accuracy

    def killed(trial: Trial, epoch: int, *rest: Any) -> float:
        if epoch == 1:
            raise KeyboardInterrupt
        return evaluate(trial, epoch, *rest)

    monkeypatch.setattr(loop, "noisy_accuracy", killed)
    with pytest.raises(KeyboardInterrupt):
        loop.train(trial, runs[1])
    monkeypatch.undo()
    loop.train(trial, runs[1])
    weights = [here(run.trial(trial.trial_id).model).read_bytes() for run in runs]
    assert weights[0] == weights[1]


def bench(*arguments: str, **environment: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.PIPE, start_new_session=True)


def ends_well(process: subprocess.Popen[bytes]) -> None:
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said.decode()


def killed_once(process: subprocess.Popen[bytes], seen: Callable[[], object]) -> None:
    """With all that it started, as soon as something is seen."""
    while not seen() and process.poll() is None:
        time.sleep(0.02)
    assert seen(), process.communicate()[1].decode()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def certificates(run: RunFolder) -> pa.Table:
    table = pq.read_table(here(run.certificates)).sort_by("index")
    return table.drop_columns([name for name in table.column_names if "seconds" in name or "joules" in name])


def test_a_trial_that_is_killed_in_each_stage_ends_as_one_beside_it_that_is_not(tmp_path: Path) -> None:
    """In processes of their own, side by side on one GPU, in shards of other sizes and with nothing compiled yet."""
    settings = {"epochs": 6, "decay_epochs": [4], "learning_rate": 0.05, "batch": 64, "images": 2000}
    certify = {"n": COMPILE_FROM, "n0": 100, "images": 40}
    trial = small_trial("consistency", model="resnet8", width=16, train=settings, certify=certify)
    (tmp_path / "trial.json").write_text(trial.model_dump_json())
    whole, killed = (RunFolder(tmp_path / name) for name in ("whole", "killed"))
    command = ["trial", str(tmp_path / "trial.json"), "--out"]
    beside = bench(*command, str(whole.path), "--shard-size", "4")
    caches = {name: str(tmp_path / name) for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")}
    folder, again = killed.trial(trial.trial_id), [*command, str(killed.path), "--shard-size", "1"]
    killed_once(bench(*again, **caches), folder.epochs.exists)
    assert not folder.training.exists()
    killed_once(bench(*again, **caches), folder.shard_files)
    assert 0 < len(folder.shard_files()) < 40
    for process in (bench(*again, **caches), beside):
        ends_well(process)
    assert here(folder.model).read_bytes() == here(whole.trial(trial.trial_id).model).read_bytes()
    found = certificates(killed)
    assert found.equals(certificates(whole))
    assert set(found["device_kind"].to_pylist()) == {GPU.type}
    ends_well(bench("verify", str(killed.path), "--images", "20"))
    record = TrainingRecord.read(whole.trial(trial.trial_id).training)
    assert record.memory_bytes is not None
    assert record.reserved_bytes is not None
    assert record.memory_bytes <= record.reserved_bytes <= (record.driver_bytes or record.reserved_bytes)
    if record.train_joules is not None:
        assert record.train_seconds is not None
        assert 10 < record.train_joules / record.train_seconds < 2000  # watts, of the whole device


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_train_together_and_where_one_dies_the_other_ends(tmp_path: Path) -> None:
    settings = {"epochs": 4, "decay_epochs": [3], "learning_rate": 0.05, "batch": 64, "images": 2000}
    trial = small_trial("gaussian", model="resnet8", width=16, train=settings, certify={"n": COMPILE_FROM, "images": 8})
    (tmp_path / "trial.json").write_text(trial.model_dump_json())
    run = RunFolder(tmp_path / "run")
    folder = run.trial(trial.trial_id)

    def together() -> list[subprocess.Popen[bytes]]:
        [port] = free_ports(1)
        group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = ["trial", str(tmp_path / "trial.json"), "--out", str(run.path)]
        return [bench(*command, RANK=str(rank), LOCAL_RANK=str(rank), **group) for rank in range(2)]

    first, second = together()
    killed_once(second, folder.epochs.exists)
    _, said = first.communicate(timeout=400)  # a collective has five minutes
    assert first.returncode not in (0, None), said.decode()
    for process in together():
        ends_well(process)
    assert TrainingRecord.read(folder.training).workers == 2
    ends_well(bench("verify", str(run.path), "--images", "8"))


def test_a_process_with_a_gpu_that_is_not_there_refuses() -> None:
    command = [sys.executable, "-m", "bench", "perf", "train", "--model", "tiny"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "99"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 2
    assert "CUDA_VISIBLE_DEVICES=99" in result.stderr
