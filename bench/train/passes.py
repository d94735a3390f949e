"""The two ways in which a method asks the model of a training step: to learn from the answers, and to attack it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from bench.machine.advance import advance


class Passes:
    """Forward passes (k, batch, channel, height, width) -> logits (k, batch, num_classes), float32."""

    def __init__(self, model: nn.Module, accelerator: Accelerator) -> None:
        """
        Args:
            model: as accelerate has prepared it, in training mode.
        """
        self._model = model
        self._bare: nn.Module = accelerator.unwrap_model(model)
        self._accelerator = accelerator

    def train(self, copies: Tensor) -> Tensor:
        """In training mode, through DDP and autocast."""
        return _answers(self._model, copies)

    def attack(self, copies: Tensor) -> Tensor:
        """In evaluation mode, without DDP, under autocast. The parameters are constants: what is differentiated leaves
        their gradients, the running statistics and DDP's hooks alone."""
        with as_a_constant(self._bare), self._accelerator.autocast():
            return _answers(self._bare, copies)


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


def _answers(model: nn.Module, copies: Tensor) -> Tensor:
    advance.steps += 1
    flat = copies.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    logits: Tensor = model(flat).float()
    return logits.view(*copies.shape[:2], -1)
