"""What a grid will cost, before it runs: forward passes are counted, and their speed is measured for some seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.certify.engine import COMPILE_FROM, Engine
from bench.data import ImageSet, load_images
from bench.machine.devices import own_device
from bench.machine.hardware import compute_reproducibly, device_name, peak_memory_bytes, resolve_precision
from bench.models.classifier import build_model
from bench.settings.normalisation import usual
from bench.settings.trial import Trial
from bench.train.passes import as_a_constant
from methods import TrainingStep
from results.analysis.power import Detectable, detectable
from results.store.shards import evenly_spaced

SECONDS = 10.0
"""Of all measurements of a network together."""
MEASURED_BATCH = 64
"""Images of a measured pass at most; fewer where one pass would take too long."""


@dataclass(frozen=True)
class Passes:
    """Images that pass through the network, by what is done with them."""

    train: int = 0
    """Forward and backward, for the parameters."""
    attack: int = 0
    """Forward and backward, for the images."""
    survey: int = 0
    """Forward alone: the noisy accuracy after each epoch, votes of a model or its teacher on training images."""
    certify: int = 0
    """Forward alone, at most: nothing is estimated where the selected class is wrong."""
    graphs: int = 1
    """Training passes whose activations are held at the same time."""


@dataclass(frozen=True)
class Forecast:
    """What one trial will cost here."""

    trial_id: str
    name: str
    sigma: float
    seed: int
    epochs: int
    passes: Passes
    memory_bytes: int
    """Of a worker while it trains, about; without an accelerator with the libraries it loads, as in the tables."""
    seconds: float
    shared: list[str]
    """Of which other trials it is a part: as a member or a teacher."""


@dataclass(frozen=True)
class Rates:
    """Images per second of a network on this machine, and what they take."""

    train: float
    attack: float
    survey: float
    certify: float
    activation_bytes: int
    """Held of each image until the backward pass."""
    model_bytes: int
    """Parameters, their gradients and momentum."""


def forecast(trials: Sequence[Trial]) -> dict[str, Any]:
    """Every trial of a grid, and every member and teacher that only others need, with passes, memory and time on this
    machine, all accelerators of it computing. What a run has already is not looked at.

    Raises:
        DataError: as `bench.data.load_images`.
    """
    device = own_device()
    devices = torch.cuda.device_count() if device.type == "cuda" else 1
    libraries = 0 if device.type == "cuda" else peak_memory_bytes(device)  # as the tables count memory
    wanted = {trial.trial_id: (trial, True) for trial in trials}
    for trial in trials:
        for needed in trial.needed:
            wanted.setdefault(needed.trial_id, (needed, False))
    shared = _shared(trials)
    rates: dict[tuple[str, int, str, str], Rates] = {}
    asked: set[tuple[str, int]] = set()
    found = []
    for trial, certify in wanted.values():
        train_set = load_images(trial.data, "train", trial.dataset).evenly(trial.train.images)
        test_set = load_images(trial.data, "test", trial.dataset)
        key = (trial.model, trial.width, trial.train.precision, trial.certify.precision)
        if key not in rates:
            rates[key] = measure(trial, train_set, device)
        passes = count_passes(trial, len(train_set), len(test_set), certify=certify)
        if trial.teacher and (votes := (trial.teacher.trial_id, trial.objective.teacher_copies)) not in asked:
            asked.add(votes)
            passes = replace(passes, survey=passes.survey + len(train_set) * trial.objective.teacher_copies)
        speed = rates[key]
        seconds = (
            passes.train / speed.train
            + passes.attack / speed.attack
            + passes.survey / speed.survey
            + passes.certify / speed.certify
        ) / devices
        together = trial.images_per_step * trial.objective.copies * passes.graphs
        pixels = train_set.images.nbytes + test_set.images.nbytes
        memory = libraries + speed.model_bytes + together * speed.activation_bytes + pixels
        found.append(
            Forecast(
                trial_id=trial.trial_id,
                name=trial.name,
                sigma=trial.sigma,
                seed=trial.seed,
                epochs=0 if trial.members else trial.train.epochs,
                passes=passes,
                memory_bytes=0 if trial.members else memory,
                seconds=seconds,
                shared=shared.get(trial.trial_id, []),
            )
        )
    return {
        "device": device_name(device),
        "devices": devices,
        "compiled": any(trial.certify.n >= COMPILE_FROM for trial in trials),
        "trials": [asdict(each) for each in found],
        "seconds": sum(each.seconds for each in found),
        "detectable": [asdict(each) for each in _detectable(trials)],
        "rates": {" ".join(map(str, key)): asdict(speed) for key, speed in rates.items()},
    }


def _detectable(trials: Sequence[Trial]) -> list[Detectable]:
    """At each σ at which there are two rows to compare, with the seeds that all of its rows have."""
    seeds: dict[float, dict[str, set[int]]] = {}
    images: dict[float, int] = {}
    for trial in trials:
        seeds.setdefault(trial.sigma, {}).setdefault(trial.name, set()).add(trial.seed)
        test_images = len(load_images(trial.data, "test", trial.dataset))
        images[trial.sigma] = len(evenly_spaced(test_images, trial.certify.images))
    shared = {sigma: len(set.intersection(*own.values())) for sigma, own in seeds.items() if len(own) > 1}
    pairs = sum(math.comb(len(seeds[sigma]), 2) for sigma in shared)
    return [detectable(sigma, images[sigma], max(1, count), pairs) for sigma, count in shared.items()]


def _shared(trials: Sequence[Trial]) -> dict[str, list[str]]:
    """By trial, for whom else it is trained."""
    found: dict[str, list[str]] = {}
    for trial in trials:
        for member in trial.members:
            found.setdefault(member.trial_id, []).append(f"member of {trial.name} at σ = {trial.sigma:g}")
        if trial.teacher:
            found.setdefault(trial.teacher.trial_id, []).append(f"teacher of {trial.name} at σ = {trial.sigma:g}")
    return found


# --- counting -------------------------------------------------------------------------------------------------------


def count_passes(trial: Trial, images: int, test_images: int, *, certify: bool) -> Passes:
    """The passes of a trial: of an ensemble, those of its certification alone.

    The method itself is asked, epoch by epoch, with images of one pixel, and its passes are counted; so this holds for
    any method. It is shown labels that are always right, so that none leaves an image out.
    """
    certified = len(evenly_spaced(test_images, trial.certify.images)) if certify else 0
    samples = certified * (trial.certify.n0 + trial.certify.n) * max(1, len(trial.members))
    if trial.members:
        return Passes(certify=samples)
    method = trial.objective
    counter = _Counter(method.copies, method.uniforms)
    memory: dict[str, Tensor] = {"votes": counter.votes} if trial.teacher else {}
    train = attack = graphs = 0
    for epoch in range(trial.train.epochs):
        memory = method.before_epoch(epoch, memory, counter.labels, counter.survey)
        trained, attacked = counter.step(method, trial.sigma, epoch, memory)
        train, attack, graphs = train + trained, attack + attacked, max(graphs, trained)
    return Passes(
        train=train * images,
        attack=attack * images,
        survey=counter.surveyed * images + trial.train.epochs * test_images,
        certify=samples,
        graphs=max(1, graphs // method.copies),
    )


class _Counter:
    """A classifier of images of one pixel that counts what it is asked."""

    images = 2

    def __init__(self, copies: int, uniforms: int) -> None:
        self.surveyed = 0
        self.labels = torch.zeros(self.images, dtype=torch.int64)
        self.votes = torch.tensor([[1, 0]] * self.images)
        self._pixels = torch.full((self.images, 1, 1, 1), 0.5)
        self._noise = torch.full((copies, self.images, 1, 1, 1), 0.1)
        self._uniforms = torch.zeros((uniforms, self.images))

    def survey(self, copies: int) -> Tensor:
        """Images passed are counted per image of the training set."""
        self.surveyed += copies
        return self.votes * copies

    def step(self, method: Any, sigma: float, epoch: int, memory: dict[str, Tensor]) -> tuple[int, int]:
        """Training and attack passes of each image in a step of that epoch."""
        counts = {"train": 0, "attack": 0}

        def passed(kind: str, copies: Tensor) -> Tensor:
            counts[kind] += len(copies)
            score = copies.flatten(2).mean(dim=2)
            return torch.stack([score + 1, -score], dim=2)

        method.training_loss(
            TrainingStep(
                images=self._pixels,
                labels=self.labels,
                noise=self._noise * sigma,
                sigma=sigma,
                epoch=epoch,
                train=partial(passed, "train"),
                attack=partial(passed, "attack"),
                uniforms=self._uniforms,
                memory=memory,
            )
        )
        return counts["train"], counts["attack"]


# --- measuring ------------------------------------------------------------------------------------------------------


def measure(trial: Trial, data: ImageSet, device: torch.device, seconds: float = SECONDS) -> Rates:
    """How fast this machine passes such images through the trial's network, without its linear decomposition.

    Args:
        seconds: of all measurements together, about.
    """
    compute_reproducibly()
    torch.manual_seed(0)
    shape, normalisation = torch.Size(data.images.shape[1:]), data.normalisation or usual(data.channels)
    model: nn.Module = build_model(
        trial.model, num_classes=data.num_classes, width=trial.width, normalisation=normalisation
    )
    engine = Engine(model, device, resolve_precision(trial.certify.precision, device))
    model = model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    low = resolve_precision(trial.train.precision, device) == "bf16"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    images = torch.rand((MEASURED_BATCH, *shape), device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(MEASURED_BATCH, dtype=torch.int64, device=device)

    def loss(batch: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=low):
            logits = model(batch)
        return torch.nn.functional.cross_entropy(logits.float(), labels[: len(batch)])

    def train(count: int) -> None:
        optimizer.zero_grad()
        loss(images[:count]).backward()
        optimizer.step()

    def attack(count: int) -> None:
        batch = images[:count].detach().requires_grad_()
        with as_a_constant(model):
            torch.autograd.grad(loss(batch), batch)

    @torch.no_grad()
    def survey(count: int) -> None:
        with as_a_constant(model):
            loss(images[:count])

    batch = engine.batch(shape)
    classify, _ = engine.classifier(shape, 1)
    noisy = torch.rand((batch, *shape), device=device)

    @torch.inference_mode()
    def certify(_count: int) -> None:
        classify(noisy)

    part = seconds / 4
    return Rates(
        train=_rate(train, part, device),
        attack=_rate(attack, part, device),
        survey=_rate(survey, part, device),
        certify=_rate(certify, part, device, whole=batch),
        activation_bytes=_held(lambda: loss(images[:2]), model) // 2,
        model_bytes=3 * sum(parameter.nbytes for parameter in model.parameters()),
    )


def _rate(work: Callable[[int], None], seconds: float, device: torch.device, whole: int | None = None) -> float:
    """Images per second. The first pass, of few images, warms up and tells how many a pass can have."""
    count = whole or min(8, MEASURED_BATCH)
    first = _timed(work, count, device)
    if whole is None:
        count = max(8, min(MEASURED_BATCH, int(count * seconds / max(first, 1e-6) / 3)))
        _timed(work, count, device)
    spent, done = 0.0, 0
    while not done or spent < seconds / 2:
        spent += _timed(work, count, device)
        done += count
    return done / spent


def _timed(work: Callable[[int], None], count: int, device: torch.device) -> float:
    started = time.perf_counter()
    work(count)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _held(run: Callable[[], Tensor], model: nn.Module) -> int:
    """Bytes that autograd keeps of a pass, the parameters aside."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        held = run()  # until here nothing that is kept is freed, and no address used twice
    del held
    return sum(kept.values())
