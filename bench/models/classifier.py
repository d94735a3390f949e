"""Base classifiers f: images in [0, 1] -> logits. Normalisation is inside, so noise is added in pixel space.

from bench.models.classifier import build_model
model = build_model("resnet110", num_classes=10)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from bench.models.decomposition import LinearDecomposition
from bench.models.denoisers import Denoised
from bench.models.networks import build_network
from bench.models.preprocessing import Preprocessed
from bench.settings.normalisation import CIFAR10, Normalisation
from results.store.settings import DEFAULT_WIDTH


def build_model(
    name: str,
    *,
    num_classes: int,
    width: int = DEFAULT_WIDTH,
    normalisation: Normalisation = CIFAR10,
    decomposition: LinearDecomposition | None = None,
) -> Classifier:
    """A classifier whose weights are drawn from torch's global random state.

    Args:
        name: "resnet110" or any resnet{6n+2} (He et al. 2016, section 4.2), "patches" and "tiny", which cost less, or
            a network that is registered (`bench.register_network`).
        num_classes: number of logits.
        width: channels of the first stage; the second and third have two and four times as many.
        normalisation: of the pixels; the network takes images of as many channels as it is for.
        decomposition: fixed projection of the noisy images in front of everything else (thesis section 4.2).

    Raises:
        ValueError: as `bench.models.networks.build_network`, or width or num_classes below 1 or 2.
    """
    if width < 1:
        raise ValueError(f"width = {width}: must be at least 1")
    if num_classes < 2:
        raise ValueError(f"num_classes = {num_classes}: must be at least 2")
    network = build_network(name, num_classes, width, normalisation.channels)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (normalisation.mean, normalisation.std))
    return Classifier(network, decomposition, mean, std)


class Classifier(nn.Module):
    """Linear decomposition (if any), normalisation, network: (batch, channel, height, width) in [0, 1] -> logits."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, decomposition: LinearDecomposition | None, mean: Tensor, std: Tensor
    ) -> None:
        """mean, std: of pixels, (1, channel, 1, 1). Both are kept as buffers and so travel with the weights."""
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.decomposition = decomposition
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Images (batch, channel, height, width) in [0, 1] -> logits (batch, num_classes)."""
        if self.decomposition is not None:
            images = self.decomposition(images)
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits

    def without_decomposition(self) -> Classifier:
        """The same network, for images that are projected already."""
        return Classifier(self.network, None, self.mean, self.std)


FEWEST_TOGETHER = 16
"""Images of which the last members of a consensus are asked at once, where there are as many."""


class MeanLogits(nn.Module):
    """An ensemble: the mean of its members' logits (Horváth et al. 2022)."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        """Images (batch, channel, height, width) in [0, 1] -> logits (batch, num_classes)."""
        return torch.stack([member(images).float() for member in self.members]).mean(dim=0)


class Consensus(MeanLogits):
    """K-consensus aggregation (Horváth et al. 2022): the first K members alone where they agree on a class, otherwise
    the mean logits of all."""

    def __init__(self, members: Sequence[nn.Module], consensus: int) -> None:
        """consensus: K, at least 2 and below the number of members."""
        super().__init__(members)
        self.consensus = consensus
        # The number of samples differs from batch to batch. Not as a decorator, which would import the compiler, for
        # seconds, wherever this module is imported.
        self._ask = torch.compiler.disable(_ask_others)

    def forward(self, images: Tensor) -> Tensor:
        """Images (batch, channel, height, width) in [0, 1] -> logits (batch, num_classes)."""
        first = torch.stack([member(images).float() for member in self.members[: self.consensus]])
        answers = first.argmax(dim=2)
        # where all of them have the same largest logit, so has their mean
        split = (answers != answers[0]).any(dim=0)
        logits: Tensor = self._ask(self.members[self.consensus :], images, first, split)
        return logits


def _ask_others(others: Iterable[nn.Module], images: Tensor, first: Tensor, split: Tensor) -> Tensor:
    """The mean of the first members' logits (members, batch, classes); where these are split, of all members' logits.

    Such images are filled up, with the first of them, to a power of two or to the batch: an accelerator plans anew for
    every number of images that it has not seen."""
    places = split.nonzero().squeeze(1)
    count = len(places)
    logits = first.mean(dim=0)
    if count:
        size = min(len(images), max(FEWEST_TOGETHER, 1 << (count - 1).bit_length()))
        filled = images[torch.cat([places, places[:1].expand(size - count)])]
        more = torch.stack([member(filled).float() for member in others])[:, :count]
        logits[places] = torch.cat([first[:, places], more]).mean(dim=0)
    return logits


def channels_of(model: nn.Module) -> int | None:
    """Of the images that a classifier was trained on; None where it does not say."""
    if isinstance(model, Denoised):
        return channels_of(model.classifier)
    first = model.members[0] if isinstance(model, MeanLogits) else model
    if isinstance(first, Preprocessed):
        return first.channels
    return first.mean.shape[1] if isinstance(first, Classifier) else None


def count_parameters(model: nn.Module) -> int:
    """The numbers that training changes; those that several layers share count once, buffers do not."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_bytes(model: nn.Module) -> int:
    """What parameters and buffers take in memory."""
    return sum(tensor.nbytes for tensor in model.state_dict().values() if isinstance(tensor, Tensor))


def kind_of(model: nn.Module) -> str:
    """How the classifier is made of networks, for the rows of its certificates."""
    if isinstance(model, Denoised):
        return f"denoised {kind_of(model.classifier)}"
    if isinstance(model, Consensus):
        return f"{model.consensus}-consensus of {len(model.members)}"
    if isinstance(model, MeanLogits):
        return f"mean of {len(model.members)} logits"
    only_fp32 = any(getattr(module, "only_fp32", False) for module in model.modules())
    return "network in onnxruntime" if only_fp32 else "network"
