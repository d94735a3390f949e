"""What a grid will cost, before it runs: forward passes are counted, and their speed is measured for some seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from bench.certify.engine import COMPILE_FROM, Engine
from bench.certify.noise import NoiseSamples
from bench.data import ImageSet, load_images
from bench.machine.capture import captured_in
from bench.machine.devices import own_device
from bench.machine.hardware import compute_reproducibly, device_name, peak_memory_bytes, resolve_precision
from bench.machine.normals import NormalStream
from bench.machine.randomness import Role
from bench.machine.resources import usable_cores
from bench.models.classifier import build_model
from bench.settings.normalisation import usual
from bench.settings.trial import Trial
from bench.train.passes import as_a_constant, expected_logits, scalar_loss
from methods import TrainingStep
from results.analysis.power import Detectable, detectable
from results.store.shards import evenly_spaced

SECONDS = 2.0
"""Of all measurements of a network together."""
START_SECONDS, TRIAL_SECONDS, REPORT_SECONDS, REPORT_SECONDS_OF_A_ROW = 11.0, 1.0, 6.0, 1.2e-4
"""Until the first trial trains; of each trial, besides its passes; of the report, and for each of its certificates.
Measured on two cores of an AMD EPYC (docs/performance.md); where they matter, the run is short."""
MEASURED_BATCH = {"cpu": 64, "cuda": 256}
"""Images of a measured pass at most; fewer where one pass would take too long on a CPU."""


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
    train_seconds: float
    certify_seconds: float
    seconds: float
    """Of both."""
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


def forecast(
    trials: Sequence[Trial],
    workers: int | None = None,
    cpus: float | None = None,
    ready: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Every trial of a grid, and every member and teacher that only others need, with passes, memory and time on this
    machine, all of it computing and nothing else. What a run has already is not looked at.

    Args:
        workers: of a trial, on CPUs; two where not given.
        cpus: of a worker; its share of the cores where not given.
        ready: called once, when all is there that the measurement of the first network needs; it may wait.

    Raises:
        DataError: as `bench.data.load_images`.
    """
    machine = _Machine.of(workers, cpus)
    rates = MeasuredRates(machine.device, Company(machine.at_once * machine.workers, machine.threads))
    if machine.device.type == "cpu":
        # The first passes import and make what others find; a GPU's would be compiled twice.
        rates.warm_up(trials[0])
    ready()
    found = _forecasts(trials, machine, rates)
    report_seconds = REPORT_SECONDS + sum(map(_certified_images, trials)) * REPORT_SECONDS_OF_A_ROW
    besides = START_SECONDS + len(found) * TRIAL_SECONDS / machine.at_once + report_seconds
    return {
        "device": device_name(machine.device),
        "devices": count_devices(machine.device),
        "workers": machine.workers,
        "compiled": any(trial.certify.n >= COMPILE_FROM for trial in trials),
        "others": rates.others.share,
        "start_seconds": START_SECONDS,
        "trial_seconds": TRIAL_SECONDS,
        "report_seconds": report_seconds,
        "trials": [asdict(each) for each in found],
        "at_once": machine.at_once,
        "seconds": sum(each.seconds for each in found) / machine.at_once + besides,
        "detectable": [asdict(each) for each in _detectable(trials)],
        "rates": {" ".join(map(str, key)): asdict(speed) for key, speed in rates.found.items()},
    }


@dataclass(frozen=True)
class _Machine:
    """What computes here, and how a run shares it out."""

    device: torch.device
    workers: int
    """Of a trial."""
    threads: int
    """Of a worker."""
    at_once: int
    """Trials."""
    library_bytes: int
    """Of a worker, before it has a network or data; 0 with an accelerator, as the tables count memory."""

    @classmethod
    def of(cls, workers: int | None, cpus: float | None) -> _Machine:
        """As `forecast` is asked."""
        device, cores = own_device(), usable_cores()
        if device.type == "cuda":
            return cls(device, count_devices(device), threads=1, at_once=1, library_bytes=0)
        together = workers or min(2, cores)
        return cls(
            device,
            together,
            threads=max(1, int(cpus or cores // together)),
            at_once=1 if cpus is None else max(1, int(cores // (together * cpus))),
            library_bytes=peak_memory_bytes(device),
        )


def count_devices(device: torch.device) -> int:
    """The accelerators of its kind here; 1 without."""
    return torch.cuda.device_count() if device.type == "cuda" else 1


def _forecasts(trials: Sequence[Trial], machine: _Machine, rates: MeasuredRates) -> list[Forecast]:
    """Of each trial, and of each member and teacher that only others need."""
    wanted = {trial.trial_id: (trial, True) for trial in trials}
    for trial in trials:
        for needed in trial.needed:
            wanted.setdefault(needed.trial_id, (needed, False))
    shared = _shared(trials)
    asked: set[tuple[str, int]] = set()
    found = []
    for trial, certify in wanted.values():
        training = partial(load_images, trial.data, "train", trial.dataset)
        train_set = training().evenly(trial.train.images)
        test_set = load_images(trial.data, "test", trial.dataset)
        speed = rates.of(trial, train_set)
        passes = count_passes(trial, len(train_set), len(test_set), certify=certify, like=training)
        if trial.teacher and (votes := (trial.teacher.trial_id, trial.objective.teacher_copies)) not in asked:
            asked.add(votes)
            passes = replace(passes, survey=passes.survey + len(train_set) * trial.objective.teacher_copies)
        pixels = train_set.images.nbytes + test_set.images.nbytes
        found.append(_forecast_of(trial, passes, pixels, speed, machine, shared.get(trial.trial_id, [])))
    return found


def _forecast_of(
    trial: Trial, passes: Passes, pixels: int, speed: Rates, machine: _Machine, shared: list[str]
) -> Forecast:
    train_seconds = passes.train / speed.train + passes.attack / speed.attack + passes.survey / speed.survey
    train_seconds, certify_seconds = train_seconds / machine.workers, passes.certify / speed.certify / machine.workers
    samples = trial.images_per_step * trial.objective.copies * passes.graphs
    memory = machine.library_bytes + speed.model_bytes + samples * speed.activation_bytes + pixels
    return Forecast(
        trial_id=trial.trial_id,
        name=trial.name,
        sigma=trial.sigma,
        seed=trial.seed,
        epochs=0 if trial.members else trial.train.epochs,
        passes=passes,
        memory_bytes=0 if trial.members else memory,
        train_seconds=train_seconds,
        certify_seconds=certify_seconds,
        seconds=train_seconds + certify_seconds,
        shared=shared,
    )


def _certified_images(trial: Trial) -> int:
    return len(evenly_spaced(len(load_images(trial.data, "test", trial.dataset)), trial.certify.images))


def _detectable(trials: Sequence[Trial]) -> list[Detectable]:
    """At each σ at which there are two rows to compare, with the seeds that all of its rows have."""
    seeds: dict[float, dict[str, set[int]]] = {}
    images: dict[float, int] = {}
    for trial in trials:
        seeds.setdefault(trial.sigma, {}).setdefault(trial.name, set()).add(trial.seed)
        images[trial.sigma] = _certified_images(trial)
    shared = {sigma: len(set.intersection(*own.values())) for sigma, own in seeds.items() if len(own) > 1}
    pairs = sum(math.comb(len(seeds[sigma]), 2) for sigma in shared)
    return [detectable(sigma, images[sigma], max(1, count), pairs) for sigma, count in shared.items()]


class _Others:
    """What other processes take of this machine's cores while a block runs."""

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._wall = self._taken = 0.0

    def __enter__(self) -> None:
        self._before = time.monotonic(), self._busy()

    def __exit__(self, *_: object) -> None:
        self._wall += time.monotonic() - self._before[0]
        self._taken += self._busy() - self._before[1]

    @property
    def share(self) -> float | None:
        """Of all cores; None where this process may use a part of the machine only, whose load is not known."""
        if psutil.cpu_count() != self._cores or not self._wall:
            return None
        return min(1.0, max(0.0, self._taken / (self._wall * self._cores)))

    def _busy(self) -> float:
        """Core-seconds that were used, without this process's own."""
        times = psutil.cpu_times()
        return float(sum(times) - times.idle - getattr(times, "iowait", 0.0)) - time.process_time()


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


def count_passes(
    trial: Trial, images: int, test_images: int, *, certify: bool, like: Callable[[], ImageSet] | None = None
) -> Passes:
    """The passes of a trial: of an ensemble, those of its certification alone.

    The method itself is asked, epoch by epoch, with images and classes like CIFAR-10's, and its passes are counted; so
    this holds for any method. Where it cannot take these, they are like the data's, which may take longer. It is shown
    labels that are always right, so that none leaves an image out.

    Args:
        like: gives the data, where it is needed.
    """
    certified = len(evenly_spaced(test_images, trial.certify.images)) if certify else 0
    samples = certified * (trial.certify.n0 + trial.certify.n) * max(1, len(trial.members))
    if trial.members:
        return Passes(certify=samples)
    try:
        counted = _Counter(trial, (3, 32, 32), 10)
    except Exception:  # the method's own
        if like is None:
            raise
        data = like()
        counted = _Counter(trial, data.images.shape[1:], data.num_classes)
    return Passes(
        train=counted.train * images,
        attack=counted.attack * images,
        survey=counted.surveyed * images + trial.train.epochs * test_images,
        certify=samples,
        graphs=max(1, counted.graphs // trial.objective.copies),
    )


class _Counter:
    """A classifier by the mean of an image that counts what it is asked."""

    images = 2

    def __init__(self, trial: Trial, shape: Sequence[int], classes: int) -> None:
        """Asked at once what a whole training asks of each image.

        Args:
            shape: (channel, height, width) of an image.
        """
        method = trial.objective
        self.train = self.attack = self.graphs = self.surveyed = 0
        self.labels = torch.zeros(self.images, dtype=torch.int64)
        self.votes = torch.nn.functional.one_hot(self.labels, classes)
        self._pixels = torch.full((self.images, *shape), 0.5)
        self._noise = torch.full((method.copies, self.images, *shape), 0.1)
        self._uniforms = torch.zeros((method.uniforms, self.images))
        memory: dict[str, Tensor] = {"votes": self.votes} if trial.teacher else {}
        for epoch in range(trial.train.epochs):
            memory = method.before_epoch(epoch, memory, self.labels, self.survey)
            trained, attacked = self._step(trial, epoch, memory)
            self.train += trained
            self.attack += attacked
            self.graphs = max(self.graphs, trained)

    def survey(self, copies: int) -> Tensor:
        """Images passed are counted per image of the training set."""
        self.surveyed += copies
        return self.votes * copies

    def _step(self, trial: Trial, epoch: int, memory: dict[str, Tensor]) -> tuple[int, int]:
        """Training and attack passes of each image in a step of that epoch."""
        counts = {"train": 0, "attack": 0}

        def passed(kind: str, copies: Tensor) -> Tensor:
            counts[kind] += len(copies)
            score = copies.flatten(2).mean(dim=2, keepdim=True)
            return torch.cat([score + 1, (-score).expand(-1, -1, self.votes.shape[1] - 1)], dim=2)

        step = TrainingStep(
            images=self._pixels,
            labels=self.labels,
            noise=self._noise * trial.sigma,
            sigma=trial.sigma,
            epoch=epoch,
            train=partial(passed, "train"),
            attack=partial(passed, "attack"),
            uniforms=self._uniforms,
            memory=memory,
        )
        scalar_loss(trial.objective.training_loss(step), trial.method)
        return counts["train"], counts["attack"]


# --- measuring ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Company:
    """How many workers compute at the same time, and the threads of each: they share caches and memory."""

    workers: int = 1
    threads: int | None = None
    """None: as torch has them."""


class MeasuredRates:
    """The rates of networks on this machine, each measured once, and what others took of its cores meanwhile."""

    def __init__(self, device: torch.device, company: Company = Company()) -> None:
        self.found: dict[tuple[str, int, str, str], Rates] = {}
        self.others = _Others(usable_cores())
        self._device = device
        self._company = company

    def of(self, trial: Trial, data: ImageSet) -> Rates:
        """Of the trial's network, as `measure` finds them."""
        key = (trial.model, trial.width, trial.train.precision, trial.certify.precision)
        if key not in self.found:
            with self.others:
                self.found[key] = measure(trial, data, self._device, SECONDS, self._company)
        return self.found[key]

    def warm_up(self, trial: Trial) -> None:
        """Have the passes of its network once."""
        images = load_images(trial.data, "train", trial.dataset).evenly(trial.train.images)
        measure(trial, images, self._device, 0.0, self._company)


def measure(
    trial: Trial, data: ImageSet, device: torch.device, seconds: float = SECONDS, company: Company = Company()
) -> Rates:
    """How fast this machine passes such images, with noise drawn for each, through the trial's network, without its
    linear decomposition.

    Args:
        seconds: of all measurements together, about.
        company: of the workers, on CPUs; the rates are those of one.
    """
    compute_reproducibly()
    torch.manual_seed(0)
    before = torch.get_num_threads()
    if company.threads:
        torch.set_num_threads(company.threads)
    try:
        subjects = [_Subject(trial, data, device) for _ in range(1 if device.type == "cuda" else company.workers)]
        rates = {}
        with ThreadPoolExecutor(len(subjects)) as pool:
            for kind in ("train", "attack", "survey", "certify"):
                found = [pool.submit(_rate, subject, kind, seconds / 4) for subject in subjects]
                rates[kind] = sum(each.result() for each in found) / len(found)
        first = subjects[0]
        return Rates(
            **rates,
            activation_bytes=_held(lambda: first.loss(first.images[:2]), first.model) // 2,
            model_bytes=3 * sum(parameter.nbytes for parameter in first.model.parameters()),
        )
    finally:
        torch.set_num_threads(before)


class _Subject:
    """A network whose passes are timed: of a trial's kind, with weights of its own."""

    def __init__(self, trial: Trial, data: ImageSet, device: torch.device) -> None:
        shape, normalisation = torch.Size(data.images.shape[1:]), data.normalisation or usual(data.channels)
        model: nn.Module = build_model(
            trial.model, num_classes=data.num_classes, width=trial.width, normalisation=normalisation
        )
        engine = Engine(model, device, resolve_precision(trial.certify.precision, device))
        self.device = device
        self._num_classes = data.num_classes
        self.model = model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.most = MEASURED_BATCH[device.type]
        self.images = torch.rand((self.most, *shape), device=device).contiguous(memory_format=torch.channels_last)
        self.batch = engine.batch(shape)
        self._low = resolve_precision(trial.train.precision, device) == "bf16"
        self._optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0, momentum=0.9)
        self._labels = torch.zeros(self.most, dtype=torch.int64, device=device)
        self._stream = NormalStream(0, Role.TRAIN_NOISE, 0)
        # On a CPU compilation would take longer than all that is measured.
        self._classify, _ = engine.classifier(shape, trial.certify.n if device.type == "cuda" else 1)
        samples = NoiseSamples(trial.sigma, device)
        self._noisy = samples.batches(self.images[0], self.batch, 0, Role.ESTIMATE, 0)

    def loss(self, batch: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._low):
            logits = expected_logits(self.model(batch), len(batch), self._num_classes)
        return torch.nn.functional.cross_entropy(logits, self._labels[: len(batch)])

    def train(self, count: int) -> None:
        self._optimizer.zero_grad()
        self.loss(self._with_noise(count)).backward()
        self._optimizer.step()

    def attack(self, count: int) -> None:
        batch = self.images[:count].detach().requires_grad_()
        with as_a_constant(self.model):
            torch.autograd.grad(self.loss(batch), batch)

    def survey(self, count: int) -> None:
        with torch.no_grad(), as_a_constant(self.model):
            self.loss(self._with_noise(count))

    def certify(self, _count: int) -> None:
        with torch.inference_mode():
            self._classify(next(self._noisy))

    def _with_noise(self, count: int) -> Tensor:
        images = self.images[:count]
        return images + self._stream.draw(0, images.shape, self.device)


def _rate(subject: _Subject, kind: str, seconds: float) -> float:
    """Images per second. On a CPU the first pass, of few images, warms up and tells how many a pass can have.

    With one thread there, of the processor's time: what others take of it does not count.
    """
    work: Callable[[int], None] = getattr(subject, kind)
    count = subject.batch if kind == "certify" else 8
    if subject.device.type == "cuda":
        count = subject.batch if kind == "certify" else subject.most
        work = _as_it_will_be(work, count, capture=kind != "certify")
    own = subject.device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if own else time.perf_counter

    def timed() -> float:
        started = clock()
        work(count)
        if subject.device.type == "cuda":
            torch.cuda.synchronize(subject.device)
        return clock() - started

    end = time.monotonic() + 2 * seconds
    first = timed()
    if kind != "certify" and subject.device.type == "cpu":
        count = max(8, min(subject.most, int(count * seconds / max(first, 1e-6) / 3)))
        timed()
    spent, done = 0.0, 0
    while not done or (spent < seconds / 2 and time.monotonic() < end):
        spent += timed()
        done += count
    return done / max(spent, 1e-9)


def _as_it_will_be(work: Callable[[int], None], count: int, *, capture: bool) -> Callable[[int], None]:
    """The work of a GPU that has made its plans: replayed as a graph, as steps of a training are, where that works."""
    for _ in range(3):
        work(count)
    torch.cuda.synchronize()
    if not capture:
        return work
    graph = torch.cuda.CUDAGraph()
    try:
        with captured_in(graph):
            work(count)
    except Exception:  # then steps of a training cannot be replayed either
        return work
    return lambda _: graph.replay()


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
