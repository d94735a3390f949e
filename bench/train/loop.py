"""One training loop for every method, under accelerate: as one process, or as one rank of DDP.

Order and augmentation of the global batch are drawn alike on every rank, which then takes its part; noise is that of an
image's place in the global batch. So the run depends on the number of workers in two things alone: batch norm's
statistics, for each rank normalises by its own part of a batch, and the running ones are averaged once an epoch; and
what modules such as dropout draw, for they are seeded per rank.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, gather_object
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from bench.data import ImageSet, load_images
from bench.machine.advance import advance
from bench.machine.devices import own_device
from bench.machine.driver import driver_bytes
from bench.machine.energy import EnergyMeter
from bench.machine.hardware import (
    compute_reproducibly,
    device_name,
    memory_kind,
    peak_memory_bytes,
    reserved_bytes,
    resolve_precision,
    restart_peak_memory,
)
from bench.machine.normals import NormalStream
from bench.machine.processes import agreed, join_group, wait_for_all
from bench.machine.randomness import Role, seeded
from bench.models.checkpoint import save_tensors
from bench.models.classifier import build_model, count_parameters
from bench.models.decomposition import LinearDecomposition, Spectrum, spectrum_of
from bench.settings.normalisation import usual
from bench.settings.trial import Trial
from bench.train.augment import crop_and_flip
from bench.train.batches import Batch, batches
from bench.train.passes import Passes, scalar_loss
from bench.train.replay import Steps
from bench.train.resume import (
    Progress,
    State,
    last_state,
    last_trained_on,
    save_checkpoint,
    state_after,
    write_epochs,
    write_spectrum,
)
from bench.train.survey import survey
from methods.base import TrainingStep
from results.errors import BenchError
from results.store.folder import SHARED_FOLDER_SECONDS, RunFolder, TrialFolder, refresh
from results.store.records import TrainedOn, TrainingRecord
from results.store.rows import EpochRow

EVALUATION_BATCH = {"cpu": 250, "cuda": 1000}
"""Test images of a forward pass, by kind of device. Of few images, too, each rank then has some; on an accelerator a
ResNet-110 is 618 launches, however few they are."""


class TrainingError(BenchError):
    """A training that cannot go on; the message is one sentence for the user."""


class DivergedError(TrainingError):
    """One that never could: it would end likewise if it were tried again."""


def make_accelerator(trial: Trial, folder: TrialFolder) -> Accelerator:
    """The Accelerator of this process: RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT decide its place, if set.

    Args:
        folder: of the training. What precision `auto` is, the first process decides for all, and one that goes on keeps
            it: the same training is one in the same precision, on whatever machines.

    Raises:
        DeviceError: as `own_device`.
        RuntimeError: accelerate did not join the group it was told to join.
    """
    compute_reproducibly()
    # Without cpu=True, accelerate on a machine without an accelerator silently trains every rank alone.
    device = own_device()
    join_group()
    precision = agreed(lambda: _precision(trial, folder, device))
    AcceleratorState._reset_state()  # it refuses another precision than that of this process's training before
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision="bf16" if precision == "bf16" else "no",
        # Batch statistics are shared once an epoch, below; the basis of a decomposition never changes.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    expected = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != expected:
        raise RuntimeError(f"accelerate formed a group of {accelerator.num_processes} processes, not {expected}")
    return accelerator


def _precision(trial: Trial, folder: TrialFolder, device: torch.device) -> str:
    before = last_trained_on(trial, folder) if trial.train.precision == "auto" else None
    return before.train_precision if before else resolve_precision(trial.train.precision, device)


@dataclass(frozen=True)
class Lesson:
    """What a teacher tells a training that begins."""

    votes: Tensor
    """(images, num_classes), int64."""
    seconds: float
    """Wall clock of the teacher's training and votes."""
    joules: float | None


Teach = Callable[[ImageSet, Accelerator], Lesson]


def train(trial: Trial, run: RunFolder, teach: Teach | None = None) -> None:
    """Train a single model to its end and write its files; every rank calls this. Finished epochs are not repeated.

    Args:
        teach: gives the votes of the trial's teacher, where it has one; every rank calls it, if the training begins.

    Raises:
        DataError: the data is not usable.
        TrainingError: the training cannot go on.
    """
    with advance.without_steps("loading"):
        accelerator = make_accelerator(trial, run.trial(trial.trial_id))
        train_set = load_images(trial.data, "train", trial.dataset).evenly(trial.train.images)
        test_set = load_images(trial.data, "test", trial.dataset)
        wait_for_all()  # who has them early would wait in a collective, which has a limit, for who fetches them
    _run_training(trial, run.trial(trial.trial_id), train_set, test_set, accelerator, teach)


def _run_training(
    trial: Trial,
    folder: TrialFolder,
    train_set: ImageSet,
    test_set: ImageSet,
    accelerator: Accelerator,
    teach: Teach | None,
) -> None:
    started = time.perf_counter()
    device = accelerator.device
    state = _start_or_continue(trial, folder, train_set, accelerator, teach)
    # A teacher's votes are metered by themselves, and a basis may be that of an earlier trial.
    restart_peak_memory(device)
    meter = EnergyMeter(device)
    model: nn.Module = state.model
    progress = state.progress
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = _make_optimizer(trial, model, state.momentum)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)  # all accelerate knows
        parallel = accelerator.prepare(model)
    memory = {name: values.to(device) for name, values in state.memory.items()}
    train_data = TrainData(*_on(device, train_set), train_set.num_classes, train_set.flip, memory)
    test_data = _on(device, test_set)
    earlier_seconds, earlier_joules = progress.seconds, progress.joules
    steps = Steps(accelerator)

    for epoch in range(len(progress.epochs), trial.train.epochs):
        epoch_started = time.perf_counter()
        rate = learning_rate(trial, epoch)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with seeded(device, trial.seed, Role.TRAINING, epoch):  # alike on every rank
            memory = _before_epoch(trial, epoch, model, train_data, train_set, accelerator)
        train_data = replace(train_data, memory=memory)
        with seeded(device, trial.seed, Role.TRAINING, epoch, accelerator.process_index):
            trained = train_epoch(trial, epoch, parallel, optimizer, train_data, steps)
        for what, value in (("loss", trained.loss), ("gradient's norm", trained.gradient_norm)):
            if not math.isfinite(value):
                raise DivergedError(f"the {what} became {value} in epoch {epoch}: lower train.learning_rate")
        _share_statistics(model, accelerator)
        accuracy = noisy_accuracy(trial, epoch, model, test_data, accelerator)
        progress.epochs.append(
            EpochRow(
                trial_id=trial.trial_id,
                method=trial.name,
                sigma=trial.sigma,
                seed=trial.seed,
                epoch=epoch,
                learning_rate=rate,
                loss=trained.loss,
                gradient_norm=trained.gradient_norm,
                noisy_test_accuracy=accuracy,
                seconds=time.perf_counter() - epoch_started,
            )
        )
        progress.seconds = earlier_seconds + time.perf_counter() - started
        joules = _joules_of_all(meter)
        progress.joules = None if joules is None or earlier_joules is None else earlier_joules + joules
        progress.memory_bytes = max(progress.memory_bytes, _memory_of_all(accelerator))
        progress.trained_on = _trained_on(accelerator, progress.trained_on)
        if accelerator.is_main_process:
            state.memory = memory
            with advance.without_steps("writing"):
                save_checkpoint(trial, folder, state, model, optimizer)
        wait_for_all()
    if accelerator.is_main_process:
        with advance.without_steps("writing"):
            _finish(trial, folder, model, state, train_set, test_set)
    wait_for_all()


def _before_epoch(
    trial: Trial, epoch: int, model: nn.Module, data: TrainData, train_set: ImageSet, accelerator: Accelerator
) -> dict[str, Tensor]:
    def votes(copies: int) -> Tensor:
        return survey(trial, epoch, copies, model, train_set, accelerator)

    try:
        return trial.objective.before_epoch(epoch, data.memory, data.labels, votes)
    except ValueError as error:
        raise DivergedError(f"epoch {epoch}: {error}") from error


def _on(device: torch.device, data: ImageSet) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(data.pixels).to(device), torch.from_numpy(data.labels).to(device)


def learning_rate(trial: Trial, epoch: int) -> float:
    """The rate of an epoch: the initial rate times decay_factor for every decay epoch reached."""
    reached = sum(epoch >= decay for decay in trial.train.decay_epochs)
    return trial.train.learning_rate * trial.train.decay_factor**reached


@dataclass(frozen=True)
class TrainData:
    """The training images on the device, and what the method remembers of each."""

    images: Tensor
    """(count, channel, height, width), uint8."""
    labels: Tensor
    """(count,)."""
    num_classes: int
    flip: bool = True
    """Whether they may be mirrored."""
    memory: dict[str, Tensor] = field(default_factory=dict)
    """(count, …) each."""


@dataclass(frozen=True)
class EpochResult:
    """What an epoch of training was like."""

    loss: float
    """Mean over the images."""
    gradient_norm: float
    """Mean over the steps of the ℓ2 norm of the loss's gradient with respect to all parameters."""


def train_epoch(
    trial: Trial,
    epoch: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: TrainData,
    steps: Steps,
) -> EpochResult:
    """One pass over as many images as there are, in the order that the method gives."""
    model.train()
    accelerator = steps.accelerator
    method, sigma, device = trial.objective, trial.sigma, accelerator.device
    passes = Passes(model, accelerator, data.num_classes)
    total, norms = torch.zeros((), device=device), torch.zeros((), device=device)

    def one(batch: Batch) -> None:
        x = data.images[batch.indices]
        if trial.train.augment:  # bytes are moved in a quarter of the time of floats
            x = crop_and_flip(x, batch.offsets, batch.flips & data.flip)
        step = TrainingStep(
            images=x.float() / 255,
            labels=data.labels[batch.indices],
            noise=sigma * batch.noise,
            sigma=sigma,
            epoch=epoch,
            train=passes.train,
            attack=passes.attack,
            uniforms=batch.uniforms,
            memory={name: values[batch.indices] for name, values in data.memory.items()},
        )
        # DDP averages the ranks' gradients; this weight turns it into the mean over the global batch, ragged or not.
        loss = scalar_loss(method.training_loss(step), trial.method) * batch.weight
        optimizer.zero_grad()
        loss.backward()  # accelerate's own divides it by what a variable of the environment says
        norms.add_(get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))
        optimizer.step()
        total.add_(loss.detach() * batch.global_size)

    count = 0
    take = steps.of_epoch(one)
    for batch in batches(trial, epoch, len(data.images), tuple(data.images.shape[1:]), accelerator, data.memory):
        take(batch)
        advance.steps += 1
        count += 1
    # loss · global_size summed over ranks and divided by their number is the sum over images
    mean: Tensor = accelerator.reduce(total, "mean") / len(data.images)
    return EpochResult(float(mean), float(norms) / count)


@torch.no_grad()
def noisy_accuracy(
    trial: Trial, epoch: int, model: nn.Module, data: tuple[Tensor, Tensor], accelerator: Accelerator
) -> float:
    """Share of the data, images (count, channel, height, width), uint8, and labels (count,), that the base classifier
    itself gets right on one noise sample each."""
    images, labels = data
    model.eval()
    stream = NormalStream(trial.seed, Role.TEST_NOISE, epoch)
    correct = torch.zeros((), device=accelerator.device)
    for number, indices in enumerate(torch.arange(len(images)).split(EVALUATION_BATCH[accelerator.device.type])):
        if number % accelerator.num_processes == accelerator.process_index:
            x = images[indices].float() / 255
            noisy = x + trial.sigma * stream.draw(int(indices[0]), x.shape, x.device)
            with accelerator.autocast():
                predicted = model(noisy.contiguous(memory_format=torch.channels_last)).argmax(dim=1)
            advance.steps += 1
            correct += (predicted == labels[indices]).sum()
    total: Tensor = accelerator.reduce(correct, "sum")
    return float(total) / len(images)


def _start_or_continue(
    trial: Trial, folder: TrialFolder, train_set: ImageSet, accelerator: Accelerator, teach: Teach | None
) -> State:
    """A new model, or what the last checkpoint has; the first rank decides."""
    state = None
    if accelerator.is_main_process:
        with advance.without_steps("loading"):
            state = last_state(trial, folder, train_set.num_classes)
    finished = agreed(lambda: None if state is None else len(state.progress.epochs))
    if finished is None:
        return _start(trial, train_set, accelerator, teach)
    deadline = time.monotonic() + SHARED_FOLDER_SECONDS
    while state is None and time.monotonic() < deadline:
        state = state_after(trial, folder, train_set.num_classes, finished)
        if state is None:
            refresh(folder)
            time.sleep(1)
    found = accelerator.gather(torch.tensor([int(state is not None)], device=accelerator.device))
    if state is None or not found.all():
        raise TrainingError(
            f"{folder.checkpoint}: not every worker finds the checkpoint after {finished} epochs; run the same command "
            "again"
        )
    return state


def _start(trial: Trial, train_set: ImageSet, accelerator: Accelerator, teach: Teach | None) -> State:
    decomposition, variances = None, None
    progress, memory = Progress(), {}
    if teach is not None:
        asked = time.perf_counter()
        lesson = teach(train_set, accelerator)
        memory["votes"] = lesson.votes
        # Whoever trained the teacher, each trial that needs it is charged with it; the clock runs already.
        progress.teacher_seconds = lesson.seconds
        progress.seconds = lesson.seconds - (time.perf_counter() - asked)
        progress.joules = lesson.joules
    if trial.decomposition_ratio is not None:
        ratio = trial.decomposition_ratio
        decomposition, variances, uncounted = agreed(lambda: _fitted(trial, ratio, train_set))
        progress.seconds += uncounted
    with seeded(accelerator.device, trial.seed, Role.INITIALISE):
        model = build_model(
            trial.model,
            num_classes=train_set.num_classes,
            width=trial.width,
            normalisation=train_set.normalisation or usual(train_set.channels),
            decomposition=decomposition,
        )
    return State(model, {}, variances, progress, memory)


def _fitted(trial: Trial, ratio: float, train_set: ImageSet) -> tuple[LinearDecomposition, Tensor, float]:
    """The decomposition, the variances of its spectrum, and seconds that are not on this process's clock: a trial that
    finds the spectrum of an earlier one is charged with it all the same."""
    started = time.perf_counter()
    with advance.without_steps("decomposing"):
        spectrum, seconds = _spectra(train_set)
    uncounted = max(0.0, seconds - (time.perf_counter() - started))
    return spectrum.decomposition(trial.sigma, ratio), spectrum.variances, uncounted


class _Spectra:
    """The spectrum of the images last asked for, which trials of one process in turn have in common."""

    def __init__(self) -> None:
        self._digest = b""
        self._found: tuple[Spectrum, float] | None = None

    def __call__(self, images: ImageSet) -> tuple[Spectrum, float]:
        """The spectrum, and the seconds that it took to compute."""
        pixels = images.pixels
        digest = hashlib.sha256(pixels.data).digest()
        if self._found is None or self._digest != digest:
            started = time.perf_counter()
            spectrum = spectrum_of(torch.from_numpy(pixels))
            self._digest, self._found = digest, (spectrum, time.perf_counter() - started)
        return self._found


_spectra = _Spectra()


def _make_optimizer(trial: Trial, model: nn.Module, momentum: dict[str, Tensor]) -> torch.optim.SGD:
    settings = trial.train
    optimizer = torch.optim.SGD(
        model.parameters(), lr=settings.learning_rate, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    for name, parameter in model.named_parameters():
        if name in momentum:
            # in the layout of the parameter: in another, every later step would take a slow way
            optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum[name])
    return optimizer


def _share_statistics(model: nn.Module, accelerator: Accelerator) -> None:
    """Average batch norm's running statistics over the ranks: every rank goes on with, and stores, the same model."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for statistic in (module.running_mean, module.running_var):
                if statistic is not None:
                    statistic.copy_(accelerator.reduce(statistic.clone(), "mean"))


def _memory_of_all(accelerator: Accelerator) -> int:
    peak = torch.tensor(float(peak_memory_bytes(accelerator.device)), device=accelerator.device, dtype=torch.float64)
    return int(accelerator.reduce(peak, "sum"))


def _joules_of_all(meter: EnergyMeter) -> float | None:
    """Summed over the accelerators of the group, each once."""
    found = dict(gather_object([(meter.identity, meter.joules())]))
    return None if None in found.values() else sum(found.values())


def _trained_on(accelerator: Accelerator, before: TrainedOn | None) -> TrainedOn:
    return TrainedOn(
        memory_kind=memory_kind(accelerator.device),
        workers=accelerator.num_processes,
        device=device_name(accelerator.device),
        train_precision="bf16" if accelerator.mixed_precision == "bf16" else "fp32",
        auto_precision=before.auto_precision if before else resolve_precision("auto", accelerator.device),
        torch_version=str(torch.__version__),
        reserved_bytes=_sum_of_all(reserved_bytes(accelerator.device)),
        driver_bytes=_sum_of_all(driver_bytes(accelerator.device)),
    )


def _sum_of_all(value: int | None) -> int | None:
    """Over the ranks; None where one does not know."""
    found = gather_object([value])
    return None if None in found else sum(found)


def _finish(
    trial: Trial, folder: TrialFolder, model: nn.Module, state: State, train_set: ImageSet, test_set: ImageSet
) -> None:
    """Write the files of a finished training, all of which follow from its last checkpoint; training.json, whose
    existence says that the training is done, comes last."""
    progress, objective = state.progress, trial.objective
    assert progress.trained_on is not None  # the last epoch's
    write_epochs(folder, progress)
    if state.variances is not None:
        write_spectrum(trial, folder, state.variances, len(train_set))
    save_tensors(folder.model, model.state_dict(), {"training_id": trial.training_id})
    weights = folder.model.read_bytes()
    decomposition = getattr(model, "decomposition", None)
    record = TrainingRecord(
        training_id=trial.training_id,
        title=objective.title,
        variant_of=objective.variant_of,
        colour_group=objective.colour_group,
        checkpoint_sha256=hashlib.sha256(weights).hexdigest(),
        num_classes=train_set.num_classes,
        classes=None if train_set.classes is None else list(train_set.classes),
        train_images=len(train_set),
        test_images=len(test_set),
        copies=objective.copies,
        teacher=trial.teacher.trial_id if trial.teacher else None,
        teacher_seconds=progress.teacher_seconds if trial.teacher else None,
        decomposition_kept=None if decomposition is None else decomposition.basis.shape[1],
        parameters=count_parameters(model),
        model_bytes=len(weights),
        train_seconds=progress.seconds,
        train_samples_per_second=trial.train.epochs
        * len(train_set)
        * objective.copies
        / (progress.seconds - progress.teacher_seconds),
        train_joules=progress.joules,
        memory_bytes=progress.memory_bytes,
        member_memory_bytes=progress.memory_bytes,
        **dict(progress.trained_on),
    )
    record.write(folder.training)
