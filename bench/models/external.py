"""Models that this program did not build: whatever they do, it becomes one sentence for the user."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from bench.machine.reasons import reason_of
from results.errors import BenchError
from results.store.settings import Precision

logger = logging.getLogger("bench")


class ModelError(BenchError):
    """A model that cannot be certified; the message is one sentence for the user, its cause the model's own error."""


def logits_of(answers: Any) -> Tensor:
    """The logits (batch, classes) in what a model gave: a tensor, or the only one of that kind in a tuple, a dictionary
    or an object; what is called logits goes before the rest.

    Raises:
        ModelError: there is none, or there are several.
    """
    if isinstance(answers, Tensor):
        return answers
    named = answers.get("logits") if isinstance(answers, Mapping) else getattr(answers, "logits", None)
    if isinstance(named, Tensor):
        return named
    parts = list(answers.values() if isinstance(answers, Mapping) else answers if isinstance(answers, Sequence) else ())
    found = [part for part in parts if isinstance(part, Tensor) and part.ndim == 2 and part.is_floating_point()]
    if len(found) != 1:
        raise ModelError(
            f"the model gave a {type(answers).__name__} with {len(found) or 'no'} tensors (batch, classes), expected "
            "logits: wrap it so that it returns them alone"
        )
    return found[0]


MATTERS = 50.0
"""What is further below an image's largest logit has no part in its answer (e⁻⁵⁰): such as a class that is masked."""


def alike(found: Tensor, expected: Tensor, share: float) -> Tensor:
    """Of which images the logits are the same up to rounding.

    A logit may differ by a share of the largest that matters to its image, or to most; one that does not matter, and is
    larger still, by that share of itself. Were all measured by the largest of all, a class that is masked by −10⁹ would
    make anything the same. What is not finite must be equal.

    Args:
        found, expected: (batch, classes).
        share: of a logit's size, that roundings may add up to.

    Returns:
        (batch,), bool.
    """
    finite = expected.isfinite()
    known = expected.double().masked_fill(~finite, -torch.inf)
    first = known.topk(min(2, known.shape[1]), dim=1).values
    near = (known >= first[:, :1] - MATTERS) | (known >= first[:, -1:])  # the second, however far, decides with it
    sizes = known.abs().masked_fill(~(near & finite), 0).amax(dim=1)
    limit = share * torch.maximum(torch.maximum(sizes, sizes.median())[:, None], known.abs())
    same = finite & ((found.double() - known).abs() <= limit)
    return (same | (found == expected) | (found.isnan() & expected.isnan())).all(dim=1)


def allowed_precision(model: nn.Module, precision: Precision) -> Precision:
    """fp32 for "auto" where a part of the model computes in nothing else.

    Raises:
        ModelError: bf16 is asked of such a model.
    """
    if not any(getattr(module, "only_fp32", False) for module in model.modules()):
        return precision
    if precision == "bf16":
        raise ModelError("the model computes in fp32 alone: onnxruntime runs it")
    return "fp32"


def frozen(model: nn.Module) -> nn.Module:
    """The model itself, in evaluation mode and without gradients for its weights, as far as it lets that be done."""
    with suppress(NotImplementedError):  # an exported program keeps the mode it was exported in
        model.eval()
    for parameter in model.parameters():
        if parameter.is_leaf:
            parameter.requires_grad_(False)
    return model


def copied(model: nn.Module) -> nn.Module:
    """A copy of the model, or the model itself where it cannot be copied, as a log line then says."""
    try:
        return copy.deepcopy(model)
    except Exception as error:  # it holds a lock, its last output, a weight computed from others, …
        logger.info("the model itself is put into evaluation mode, since it cannot be copied: %s", reason_of(error))
        return model


def moved(model: nn.Module, **where: Any) -> nn.Module:
    """The model on another device, or in another memory format."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TorchScript, whose weights need not be leaves
        return model.to(**where)


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """Anything that a model does may raise anything; here it becomes one sentence, "the model failed: …".

    Raises:
        ModelError: with the model's own error as its cause.
    """
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"the model {what}: {reason_of(error)}") from error
