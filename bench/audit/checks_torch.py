"""Checks of `bench doctor` that compute; each runs in a process of its own, since a device may hang or crash it."""

from __future__ import annotations

import gc
import hashlib
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench.audit.contest import DTYPES, forward_flops, matrix_products
from bench.audit.finding import Finding, Verdict
from bench.certify.engine import COMPILE_FROM, Engine
from bench.certify.noise import NoiseSamples
from bench.data import ImageSet, Split, load_images, resolve_data
from bench.data.imageset import NoSplitError
from bench.data.known import KNOWN
from bench.machine.devices import drivers, fault_of, is_driver_too_old, is_given, needed_driver, own_device, unusable
from bench.machine.driver import MASK, driver_version
from bench.machine.hardware import device_name, has_fast_bf16, resolve_precision
from bench.machine.randomness import Role
from bench.models.classifier import build_model
from bench.settings.trial import Trial
from results.store.shards import evenly_spaced

SHAPE = torch.Size((3, 32, 32))
NOISE_DIGEST = "5e084b27cf0522c2031ab99427497133e325aec7692c3e11ade89a43fa13171a"
"""SHA-256 of `noise_block`, on every device."""
NOISE_SAMPLES = 64
AGREEMENT = 0.99
"""Share of noise samples on which compiled and eager must give the same class."""
MEASURED_NETWORK = "resnet20"
MEASURED_SECONDS = 6.0


@dataclass(frozen=True)
class Figures:
    """Images per second that were measured here, one by one, with `MEASURED_NETWORK`."""

    train: float
    certify: float


FIGURES = {("AMD EPYC", "bf16", 2): Figures(train=920.0, certify=3700.0)}
"""By device, precision and, on CPUs, threads (0 on accelerators): docs/performance.md."""
SLOW = 0.5
"""Of the figure."""
SPLITS: dict[Split, str] = {
    "train": "certified on, not trained on",
    "test": "trained on, not certified on",
}
"""What data can be used for that lacks one."""
LOOKED_AT = 1000
"""Images of a split whose pixels are looked at."""


def check_devices() -> list[Finding]:
    """The driver, and every device that this process sees."""
    cuda = torch.cuda.is_available()
    places = [torch.device("cuda", index) for index in range(torch.cuda.device_count())] if cuda else []
    return [_check_driver(), *map(_check_device, places or [torch.device("cpu")])]


def _check_driver() -> Finding:
    found = driver_version()
    sentence = drivers()
    if torch.cuda.is_available():
        return Finding("driver", "right", sentence)
    if is_given():
        return Finding("driver", "wrong", unusable("torch finds no CUDA device"), f"unset {MASK}, or mend the driver")
    if found and MASK in os.environ:
        return Finding("driver", "skipped", f"{sentence}, but {MASK} hides every accelerator")
    if not found:
        return Finding("driver", "right", "no NVIDIA driver: the processor computes")
    if not torch.version.cuda:
        return Finding("driver", "wrong", sentence, "install torch with CUDA, as pip does by default on Linux")
    remedy = f"install driver {needed_driver()} or later, or a torch that was built for an older CUDA"
    if is_driver_too_old(found):
        return Finding("driver", "wrong", sentence, remedy)
    return Finding(
        "driver", "wrong", f"{sentence}; all the same torch finds no CUDA device", "see what nvidia-smi says"
    )


def _check_device(device: torch.device) -> Finding:
    name, fault = str(device), fault_of(device)
    if fault:
        return Finding(name, "wrong", fault, f"leave it out: {MASK}={_others(device)}")
    low = "bf16 and fp32" if has_fast_bf16(device) else "fp32, for bf16 would be emulated"
    size = ""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        size = f", {torch.cuda.get_device_properties(device).total_memory / 2**30:.0f} GB, capability {major}.{minor}"
    return Finding(name, "right", f"{device_name(device)}{size}: a matrix product comes out right; {low}")


def _others(device: torch.device) -> str:
    """The mask without that device."""
    seen = os.environ.get(MASK, "").split(",") if is_given() else map(str, range(torch.cuda.device_count()))
    return ",".join(place for index, place in enumerate(seen) if index != device.index)


@contextmanager
def _heard() -> Iterator[list[str]]:
    """What this program says in a block, also what it usually keeps to itself."""
    said: list[str] = []
    logger, handler = logging.getLogger("bench"), logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield said
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def expected_way(name: str, device: torch.device, precision: str) -> str:
    """By what the engine is to run one of `check_compilation`'s networks."""
    if device.type != "cuda":
        return "inductor"
    return "triton" if name == "resnet8" and precision == "bf16" else "cudnn"


def check_compilation() -> list[Finding]:
    """Small networks by the ways that certification takes, beside the same ones in eager mode."""
    # On a GPU ResNets have kernels of their own, and other networks cuDNN's.
    return [_check_fast(name) for name in (("resnet8", "tiny") if own_device().type == "cuda" else ("tiny",))]


def _check_fast(name: str) -> Finding:
    from torch._dynamo.utils import counters

    device = own_device()
    precision = resolve_precision("auto", device)
    torch.manual_seed(0)
    engine = Engine(build_model(name, num_classes=10), device, precision)
    counters.clear()
    started = time.perf_counter()
    with _heard() as said:
        fast, kind = engine.classifier(SHAPE, COMPILE_FROM)
    failures = [line for line in said if line.startswith("certifying without")]
    eager, _ = engine.classifier(SHAPE, 1)
    seconds = time.perf_counter() - started
    gc.collect()
    _ = [torch.full((2**power,), torch.nan, device=device) for power in range(10, 24)]  # in what nobody holds any more
    if kind == "eager":
        return Finding("compilation", "wrong", failures[-1], "see the line of the compiler; without, runs are slower")
    draw = NoiseSamples(0.25, device).batches(torch.full(SHAPE, 0.5), engine.batch(SHAPE), 0, Role.PREDICT, 0)
    with torch.inference_mode():  # as the batches of a certification are
        pairs = [(eager(batch).clone(), fast(batch).clone()) for batch, _ in zip(draw, range(3), strict=False)]
    same = float(torch.cat([slow.argmax(1) == quick.argmax(1) for slow, quick in pairs]).float().mean())
    how = f"a {name} network by {kind} in {seconds:.0f} s, {precision}"
    if same < AGREEMENT:
        sentence = f"{how}: only {same:.1%} of its answers are those of the same network before"
        return Finding("compilation", "wrong", sentence, "do not certify on this machine; tell us of it")
    expected = expected_way(name, device, precision)
    if kind != expected:
        if kind == "inductor":
            graphs, skipped = counters["stats"]["unique_graphs"], counters["inductor"]["cudagraph_skips"]
            how += f" ({graphs} graphs, {skipped} of them not as a CUDA graph)"
        return Finding("compilation", "slow", f"{how}, and not by {expected}, which is faster: {'; '.join(failures)}")
    return Finding("compilation", "right", f"{how}: {same:.1%} of its answers are those of the same network before")


def noise_block(device: torch.device) -> Tensor:
    """The first noise samples of the first test image, with σ = 1: seed 0, `Role.ESTIMATE`, index 0."""
    samples = NoiseSamples(1.0, device).batches(torch.zeros(SHAPE), NOISE_SAMPLES, 0, Role.ESTIMATE, 0)
    return next(samples).cpu().contiguous()


def check_noise() -> Finding:
    """The first noise: where it is another, counts are, too."""
    with _heard() as said:
        digest = hashlib.sha256(noise_block(own_device()).numpy().tobytes()).hexdigest()
    if digest == NOISE_DIGEST:
        sentence = f"its first {NOISE_SAMPLES} samples are {digest[:12]}…, as elsewhere"
        by_cpu = [line for line in said if line.startswith("drawing noise on the CPU")]
        return Finding("noise", "slow" if by_cpu else "right", "; ".join([sentence, *by_cpu]))
    return Finding(
        "noise",
        "wrong",
        f"its first {NOISE_SAMPLES} samples are {digest[:12]}…, elsewhere they are {NOISE_DIGEST[:12]}…",
        "counts of this machine agree with others' in distribution only: use one kind of machine for a run",
    )


def check_data(data: str | None) -> list[Finding]:
    """Whether the images are there, and look like images with labels; nothing is downloaded."""
    name = data or "cifar10"
    if "://" in name:
        return [Finding("data", "skipped", f"{name} is in a store, from which each machine fetches it once")]
    if name in KNOWN:
        from bench.data.downloaded import given_place

        known, root = KNOWN[name], (given_place() or Path("data")).absolute()
        place = str(root / known.folder)
        if not Path(place).is_dir():
            missing: Verdict = "skipped" if data is None else "wrong"
            remedy = f"`bench run` downloads it, or put {known.wanted(root)}"
            return [Finding("data", missing, f"{known.title} is not in {place}", remedy)]
    else:
        place = resolve_data(name)
    found: list[Finding] = []
    lacks: list[NoSplitError] = []
    for split, use in SPLITS.items():
        try:
            found.append(_check_split(name, split, load_images(place, split)))
        except NoSplitError as error:
            lacks.append(error)
            found.append(Finding("data", "skipped", f"{name} has no {split}: it can be {use}"))
    if len(lacks) == len(SPLITS):
        raise lacks[0]
    return found


def _check_split(name: str, split: Split, found: ImageSet) -> Finding:
    counts = np.bincount(found.labels, minlength=found.num_classes)
    shape = " × ".join(map(str, found.images.shape[1:]))
    looked_at = found.images[evenly_spaced(len(found), min(len(found), LOOKED_AT))]
    least, most = int(looked_at.min()), int(looked_at.max())
    sentence = f"{name}, {split}: {len(found)} images of {shape}, {least} to {most}; {found.num_classes} classes of "
    sentence += f"{counts.min()} to {counts.max()}" if counts.min() < counts.max() else f"{counts.min()}"
    missing = np.flatnonzero(counts == 0).tolist()
    if missing and split == "train":
        return Finding("data", "wrong", f"{sentence}: none of class {missing[0]}", "give all classes, or fewer labels")
    if least == most:
        return Finding("data", "wrong", f"{sentence}: every pixel is the same", "see what wrote the images")
    if most <= 1:
        return Finding("data", "wrong", f"{sentence}: bytes from 0 to 255 are expected", "see what wrote the images")
    return Finding("data", "right", sentence)


def check_rates() -> list[Finding]:
    """Training and certification, each for some seconds, beside matrix products and beside what we measured."""
    from bench.audit.forecast import measure  # takes longer to import than all that the other checks need but torch

    device = own_device()
    precision = resolve_precision("auto", device)
    trial = Trial(name="gaussian", method="gaussian", sigma=0.25, model=MEASURED_NETWORK)
    found = measure(trial, load_images("synthetic", "test"), device, MEASURED_SECONDS)
    flops = forward_flops(build_model(MEASURED_NETWORK, num_classes=10).eval(), torch.rand(SHAPE))
    roof = _matrix_rate(device, precision)
    threads = 0 if device.type == "cuda" else torch.get_num_threads()
    known = FIGURES.get((device_name(device), precision, threads))
    kind = f"{MEASURED_NETWORK}, {precision}, not compiled"
    return [
        _rate("certify", f"samples a second ({kind})", found.certify, flops, roof, known.certify if known else None),
        _rate("train", f"images a second ({kind})", found.train, 3 * flops, roof, known.train if known else None),
    ]


def _rate(name: str, unit: str, rate: float, flops: float, roof: float, known: float | None) -> Finding:
    sentence = f"{rate:.0f} {unit}, {rate * flops / roof:.0%} of the matrix rate, {roof / 1e12:.2f} TFLOP/s; "
    if known is None:
        return Finding(name, "right", f"{sentence}no figure for this device")
    sentence += f"we measured {known:.0f} on such a device"
    if rate >= SLOW * known:
        return Finding(name, "right", sentence)
    return Finding(name, "slow", sentence, "see whether others compute here, and OMP_NUM_THREADS")


def _matrix_rate(device: torch.device, precision: str) -> float:
    """Operations per second of large matrix products, which bound both."""
    work, operations = matrix_products(1.0, DTYPES[precision], device)
    seconds = []
    for _ in range(3):  # the first one warms up, and a roof is the best of them
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return operations / min(seconds)
