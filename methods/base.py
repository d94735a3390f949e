"""The contract between the training loop and a training objective."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar

from .registry import Registry

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Method:
    """A training objective on noisy logits. Fields of a subclass are its options; they come from the grid by name.

    A new method is a frozen dataclass like this one in a file of its own, under `register_method`. It imports torch
    where it computes, not at the top: its options are also read by commands that compute nothing, and torch takes
    seconds to import.
    """

    title: ClassVar[str]
    """Name in tables and figures."""
    source: ClassVar[str]
    """Paper and equation that the objective implements."""
    decomposition: ClassVar[bool] = False
    """Whether the classifier sits behind the linear decomposition (thesis section 4.2), if the grid does not say."""
    members: ClassVar[int] = 1
    """Models whose mean logits are the classifier; above 1, each is trained alone as `member_method`."""
    member_method: ClassVar[str | None] = None
    variant_of: ClassVar[str | None] = None
    """The method beside which figures show this one, where it differs in one part alone."""
    colour_group: ClassVar[str | None] = None
    """In figures, methods of one group have one colour and other dashes and markers, that of the method called so where
    it is there; a colour of its own where not given."""

    copies: int = 1
    """Noise samples of each image in a training step (m)."""
    minibatches: ClassVar[bool] = True
    """Whether a batch is cut into m mini-batches of batch/m images, one optimizer step each, so that the forward
    batch stays the same whatever m is. Where false, one step sees m × batch noise samples."""

    def __post_init__(self) -> None:
        require(self, "copies", self.copies >= 1, "at least 1")

    @property
    def members_asked_first(self) -> int:
        """How the members become a classifier. K: where the first K agree on a class, theirs are the logits, else the
        mean of all; 0: always the mean of all."""
        return 0

    def loss(self, logits: Tensor, labels: Tensor, *, sigma: float, epoch: int) -> Tensor:
        """Mean training loss over the images of a batch.

        Args:
            logits: (m, batch, num_classes), the model's outputs on m noise samples of each image.
            labels: (batch,), int64 class indices.
            sigma: standard deviation of the noise, in [0, 1] pixel units.
            epoch: index of the current epoch, from 0.

        Returns:
            A scalar; its gradient is what the optimizer follows.
        """
        raise NotImplementedError

    def perturb(self, noisy: Tensor, labels: Tensor, model: object, *, sigma: float) -> Tensor:  # noqa: ARG002
        """Hook for methods that also change their inputs, such as SmoothAdv. Default: the noisy images as they are.

        Args:
            noisy: (m, batch, channel, height, width), images in [0, 1] plus Gaussian noise.
            labels: (batch,), int64 class indices.
            model: callable from (batch, channel, height, width) to logits (batch, num_classes).
            sigma: standard deviation of the noise, in [0, 1] pixel units.

        Returns:
            What the model is trained on, of the shape of `noisy`.
        """
        return noisy


def require(method: Method, option: str, holds: bool, allowed: str) -> None:
    """Raise ValueError naming the option, its value and what is allowed, unless `holds`."""
    if not holds:
        raise ValueError(f"{option} = {getattr(method, option)!r}: must be {allowed}")


def _fault(thing: object) -> str:
    """What keeps a thing from being a method, as "must be …"."""
    if not (isinstance(thing, type) and issubclass(thing, Method)):
        return "must be a subclass of methods.Method"
    if "__dataclass_fields__" not in vars(thing):
        return "must be a dataclass: @register_method above @dataclass(frozen=True, kw_only=True)"
    missing = [name for name in ("title", "source") if not isinstance(getattr(thing, name, None), str)]
    if missing:
        return f"must have a {' and a '.join(missing)}, as text"
    if (thing.members > 1) is (thing.member_method is None):
        return "must have both members above 1 and a member_method, or neither"
    odd = [field.name for field in fields(thing) if not isinstance(field.default, bool | int | float | str)]
    return f"must have a default for {odd[0]}, true or false, a number or a text" if odd else ""


METHODS: Registry[type[Method]] = Registry("method", "bench.methods", fault=_fault)
register_method = METHODS.register
"""As `@register_method("mine")` above the class."""
