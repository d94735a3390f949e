"""The two ways in which a method asks the model of a training step: to learn from the answers, and to attack it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from bench.machine.advance import advance
from results.errors import BenchError


class Passes:
    """Forward passes (k, batch, channel, height, width) -> logits (k, batch, num_classes), float32."""

    def __init__(self, model: nn.Module, accelerator: Accelerator, num_classes: int) -> None:
        """
        Args:
            model: as accelerate has prepared it, in training mode.
        """
        self._model = model
        self._num_classes = num_classes
        self._bare: nn.Module = accelerator.unwrap_model(model)
        self._accelerator = accelerator

    def train(self, copies: Tensor) -> Tensor:
        """In training mode, through DDP and autocast."""
        return self._answers(self._model, copies)

    def attack(self, copies: Tensor) -> Tensor:
        """In evaluation mode, without DDP, under autocast. The parameters are constants: what is differentiated leaves
        their gradients, the running statistics and DDP's hooks alone."""
        with as_a_constant(self._bare), self._accelerator.autocast():
            return self._answers(self._bare, copies)

    def _answers(self, model: nn.Module, copies: Tensor) -> Tensor:
        advance.steps += 1
        flat = copies.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        logits = expected_logits(model(flat), len(flat), self._num_classes)
        return logits.view(*copies.shape[:2], -1)


@contextmanager
def as_a_constant(model: nn.Module) -> Iterator[None]:
    """A block in which the model is in evaluation mode, and the passes that begin in it reach no parameter."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
        model.train()


def expected_logits(answers: Any, images: int, num_classes: int) -> Tensor:
    """What a network gave for so many images, float32.

    Raises:
        BenchError: it is not of the shape (images, num_classes).
    """
    if not isinstance(answers, Tensor) or answers.shape != (images, num_classes):
        found = _told(answers)
        raise BenchError(f"the network gave {found} for {images} images, expected ({images}, {num_classes})")
    return answers.float()


def scalar_loss(loss: Any, method: str) -> Tensor:
    """The loss of a step, as a method gave it.

    Raises:
        BenchError: it is not a scalar.
    """
    if not isinstance(loss, Tensor) or loss.ndim:
        raise BenchError(
            f"method {method!r}: its loss must be a scalar tensor, gave {_told(loss)}: is a return or a mean missing?"
        )
    return loss


def _told(value: Any) -> str:
    if isinstance(value, Tensor):
        return str(tuple(value.shape))
    return "None" if value is None else f"a {type(value).__name__}"
