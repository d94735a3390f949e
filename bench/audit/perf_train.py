"""How fast training is, beside a plain loop as it is published: same model, same machine, one run, medians."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from bench.audit.contest import DTYPES, Timed, conditions, forward_flops, layers_of, matrix_products, medians
from bench.data import ImageSet, load_images
from bench.machine.devices import own_device
from bench.machine.hardware import compute_reproducibly, has_fast_bf16
from bench.machine.resources import usable_cores
from bench.models.classifier import build_model
from bench.settings.trial import Trial
from bench.train.loop import TrainData, train_epoch
from bench.train.replay import Steps
from results.store.settings import TrainSettings

BATCH = 256
BATCHES = {"cpu": 3, "cuda": 195}
"""Of a round. On a GPU a whole epoch of 50 000 images, for in the third of its steps a graph is made of them."""
SIGMA = 0.25
LOADERS = min(4, usable_cores())
"""Processes that load data: four in the published programs, and no more than there are cores."""


def measure_training(model: str, *, rounds: int) -> dict[str, Any]:
    """`bench perf train`: Gaussian training with batch 256, as Cohen et al. published it and as it is here.

    In every round each contestant runs once, in the same order; a rate is the median over the rounds.

    Raises:
        BenchError: an unknown network.
    """
    compute_reproducibly()
    device = own_device()
    images = images_of_a_round(device)
    torch.manual_seed(0)
    plain = build_model(model, num_classes=10).to(device)
    precisions = ["fp32", "bf16"] if has_fast_bf16(device) else ["fp32"]
    step = _plain_step(copy.deepcopy(plain))
    fast = _plain_step(copy.deepcopy(plain), torch.channels_last)
    loader = DataLoader(
        _AsPublished(images), batch_size=BATCH, shuffle=True, num_workers=LOADERS, persistent_workers=True
    )
    contestants: dict[str, Timed] = {
        "published": (partial(_published, step, loader, device), len(images)),
        "published_data_at_hand": (partial(_at_hand, step, images, device), len(images)),
        "published_channels_last": (partial(_at_hand, fast, images, device), len(images)),
    }
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no")
    flops = 3 * forward_flops(plain.eval(), torch.rand(3, 32, 32, device=device))
    for precision in precisions:
        low = precision == "bf16"
        contestants[f"train_{precision}"] = _ours(copy.deepcopy(plain), model, images, accelerator, low=low)
        contestants[f"convolutions_{precision}"] = _convolutions(plain, DTYPES[precision], device)
        contestants[f"matrix_products_{precision}"] = matrix_products(flops, DTYPES[precision], device)
    rates = medians(contestants, rounds, device)
    return {
        "model": f"{model}, batch {BATCH}",
        "published": f"fp32, NCHW, eager; torchvision's crop and flip in {LOADERS} processes",
        **conditions(device, rounds),
        "gigaflop_per_image": flops / 1e9,
        "images_per_second": rates,
        "ratios": {
            name: value
            for precision in precisions
            for name, value in {
                f"train_{precision} / published": rates[f"train_{precision}"] / rates["published"],
                f"train_{precision} / published, its data at hand": rates[f"train_{precision}"]
                / rates["published_data_at_hand"],
                f"train_{precision} / the same, channels-last": rates[f"train_{precision}"]
                / rates["published_channels_last"],
                f"train_{precision} / its convolutions alone": rates[f"train_{precision}"]
                / rates[f"convolutions_{precision}"],
                f"convolutions_{precision} / matrix products of as many operations": rates[f"convolutions_{precision}"]
                / rates[f"matrix_products_{precision}"],
            }.items()
        },
    }


def images_of_a_round(device: torch.device) -> ImageSet:
    """Whole batches, in which images come again where there are too few."""
    images = load_images("synthetic", "train")
    return images.at([place % len(images) for place in range(BATCH * BATCHES[device.type])])


class _AsPublished(Dataset[tuple[Tensor, int]]):
    """Images through torchvision's transforms, one by one."""

    def __init__(self, images: ImageSet) -> None:
        from torchvision import transforms

        self._images = images
        self._transform = transforms.Compose(
            [
                transforms.ToPILImage(),
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image: Tensor = self._transform(torch.from_numpy(self._images.images[index]))
        return image, int(self._images.labels[index])


Step = Callable[[Tensor, Tensor], float]


def _plain_step(model: nn.Module, layout: torch.memory_format = torch.contiguous_format) -> Step:
    """A step as published: noise, loss, accuracy, backward, and both are read after every batch; with torch's own
    defaults, which allow convolutions in TF32 and any algorithm of cuDNN."""
    model = model.to(memory_format=layout).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)

    @torch.backends.cudnn.flags(enabled=True, deterministic=False, allow_tf32=True)
    def step(images: Tensor, labels: Tensor) -> float:
        noisy = (images + torch.randn_like(images) * SIGMA).contiguous(memory_format=layout)
        logits = model(noisy)
        loss = F.cross_entropy(logits, labels)
        correct = (logits.argmax(dim=1) == labels).float().mean()
        seen: float = loss.item() + correct.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return seen

    return step


def _published(step: Step, loader: DataLoader[tuple[Tensor, int]], device: torch.device) -> None:
    for images, labels in loader:
        step(images.to(device), labels.to(device))


def _at_hand(step: Step, images: ImageSet, device: torch.device) -> None:
    pixels, labels = torch.from_numpy(images.pixels).float() / 255, torch.from_numpy(images.labels)
    for part, answers in zip(pixels.split(BATCH), labels.split(BATCH), strict=True):
        step(part.to(device), answers.to(device))


class _Autocast(nn.Module):
    """The model as accelerate prepares it for a precision, of which a process has one."""

    def __init__(self, model: nn.Module, device: str, *, low: bool) -> None:
        super().__init__()
        self.model, self.device, self.low = model, device, low

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(self.device, torch.bfloat16, enabled=self.low):
            logits: Tensor = self.model(images)
        return logits.float()


def _ours(model: nn.Module, name: str, images: ImageSet, accelerator: Accelerator, *, low: bool) -> Timed:
    """An epoch of this program, whole: order, crop and flip, noise, step."""
    settings = TrainSettings(epochs=1, decay_epochs=[], batch=BATCH)
    trial = Trial(name="gaussian", method="gaussian", sigma=SIGMA, model=name, train=settings)
    device = accelerator.device
    model = model.to(memory_format=torch.channels_last)
    ready = _Autocast(model, device.type, low=low)
    optimizer = torch.optim.SGD(ready.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    pixels, labels = (torch.from_numpy(values).to(device) for values in (images.pixels, images.labels))
    data = TrainData(pixels, labels, images.num_classes)
    return partial(train_epoch, trial, 0, ready, optimizer, data, Steps(accelerator)), len(images)


def _convolutions(model: nn.Module, kind: torch.dtype, device: torch.device) -> Timed:
    """Every convolution once forward and once backward, channels-last: what is left when all else is free."""
    calls = []
    for number, (layer, shape) in enumerate(layers_of(model, torch.rand(3, 32, 32))):
        weight = layer.weight.detach().to(kind).contiguous(memory_format=torch.channels_last).requires_grad_()
        given = torch.rand((BATCH, *shape), device=device).to(kind).contiguous(memory_format=torch.channels_last)
        given.requires_grad_(number > 0)  # the images need no gradient
        calls.append((layer.stride, layer.padding, weight, given))

    def work() -> None:
        for stride, padding, weight, given in calls:
            out = F.conv2d(given, weight, stride=stride, padding=padding)
            wanted = [weight, given] if given.requires_grad else [weight]
            torch.autograd.grad(out, wanted, torch.ones_like(out))

    return work, BATCH
