"""The contract between the training loop and a training objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, ClassVar

from .registry import Registry
from .search import Among, Between

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True)
class TrainingStep:
    """What a method is given to compute the loss of one optimizer step, of the images that this process has of it.

    What differs from step to step must come from here, random numbers too (`uniforms`): on a GPU the operations of one
    step are replayed for others, and Python code of a step may run a few times in an epoch.
    """

    images: Tensor
    """(batch, channel, height, width), cropped and flipped, in [0, 1]."""
    labels: Tensor
    """(batch,), int64 class indices."""
    noise: Tensor
    """(m, batch, channel, height, width), Gaussian of standard deviation σ."""
    sigma: float
    """In [0, 1] pixel units."""
    epoch: int
    """From 0."""
    train: Callable[[Tensor], Tensor]
    """(k, batch, channel, height, width) -> logits (k, batch, num_classes), float32: one forward pass in training mode,
    with one set of batch statistics over all that it is given, through DDP and autocast."""
    attack: Callable[[Tensor], Tensor]
    """The same shapes, in evaluation mode: a function of each image alone, whose gradient reaches no parameter. For
    what is searched for, such as an attack; differentiate with `torch.autograd.grad`."""
    uniforms: Tensor
    """(k, batch), uniform on [0, 1), where the method has `uniforms` = k."""
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    """Of what the method remembers of every training image, the rows of these, (batch, …)."""


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

    teacher_method: ClassVar[str | None] = None
    """A method of which a model is trained first, with the settings of the trial but at `teacher_sigma` and without
    decomposition. Its votes among `teacher_copies` noise samples of each training image are remembered as `votes`,
    (images, num_classes), int64."""
    teacher_sigma: ClassVar[float] = 0.25
    search: ClassVar[Mapping[str, Between | Among]] = {}
    """The options that `bench tune` searches, and over which values; the others stay as the grid has them: what another
    method is made of (`accuracy_item`), and what costs more the more there is of it (`copies`)."""
    copies: int = 1
    """Noise samples of each image in a training step (m)."""
    minibatches: ClassVar[bool] = True
    """Whether a batch is cut into m mini-batches of batch/m images, one optimizer step each, so that the forward
    batch stays the same whatever m is. Where false, one step sees m × batch noise samples."""

    def __post_init__(self) -> None:
        require(self, "copies", self.copies >= 1, "at least 1")

    @property
    def teacher_copies(self) -> int:
        """Noise samples of each training image on which the teacher votes, where there is one."""
        return 0

    @property
    def uniforms(self) -> int:
        """Uniform random numbers that a step needs of each image."""
        return 0

    @property
    def begins(self) -> int:
        """The epoch, from 0, from which on it is more than another objective: a training of no more is refused."""
        return 0

    @property
    def members_asked_first(self) -> int:
        """How the members become a classifier. K: where the first K agree on a class, theirs are the logits, else the
        mean of all; 0: always the mean of all."""
        return 0

    def loss(self, logits: Tensor, labels: Tensor, *, sigma: float, epoch: int) -> Tensor:
        """Mean training loss over the images of a batch: all that most methods define.

        Args:
            logits: (m, batch, num_classes), the model's outputs on m noise samples of each image.
            labels: (batch,), int64 class indices.
            sigma: standard deviation of the noise, in [0, 1] pixel units.
            epoch: index of the current epoch, from 0.

        Returns:
            A scalar; its gradient is what the optimizer follows.
        """
        raise NotImplementedError

    def training_loss(self, step: TrainingStep) -> Tensor:
        """Mean training loss over the images of a step, for methods that also change their inputs or take more than
        one forward pass. Default: `loss` of one pass over the noise samples.

        Returns:
            A scalar. It must be a mean over images, so that the parts of several workers make up the whole batch.
        """
        logits = step.train(step.images + step.noise)
        return self.loss(logits, step.labels, sigma=step.sigma, epoch=step.epoch)

    def before_epoch(
        self,
        epoch: int,  # noqa: ARG002
        memory: dict[str, Tensor],
        labels: Tensor,  # noqa: ARG002
        votes: Callable[[int], Tensor],  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """What is remembered of every training image during an epoch. Default: what was remembered before.

        Args:
            epoch: that is about to begin, from 0.
            memory: by name, (images, …) each; empty before the first epoch, but for `votes` of a teacher. It is kept
                with the checkpoint, and must be computed alike on every worker.
            labels: (images,), int64.
            votes: how often each class is the answer of the model, as it is now and in evaluation mode, among so many
                noise samples of each training image: (images, num_classes), int64. Costs a forward pass each.

        Raises:
            ValueError: the training cannot go on; the message is one sentence for the user.
        """
        return memory

    def order(self, count: int, memory: Mapping[str, Tensor], generator: Generator) -> Tensor:  # noqa: ARG002
        """The training images of an epoch in turn: (count,), int64 indices below `count`. Default: a permutation.

        Args:
            count: number of training images; so many are seen in an epoch.
            memory: as `before_epoch` left it.
            generator: of this epoch, the same on every worker.
        """
        import torch

        return torch.randperm(count, generator=generator, device=generator.device)


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
    if odd:
        return f"must have a default for {odd[0]}, true or false, a number or a text"
    if thing.members == 1 and (thing.loss, thing.training_loss) == (Method.loss, Method.training_loss):
        return "must define loss(logits, labels, *, sigma, epoch) or training_loss(step)"
    return _fault_of_search(thing)


def _fault_of_search(method: type[Method]) -> str:
    defaults = {field.name: field.default for field in fields(method)}
    for name, values in method.search.items():
        if name not in defaults or not isinstance(values, Between | Among):
            return f"must search options of its own, each Between or Among values: {name!r} is none"
        if type(values.at(0.0)) is not type(defaults[name]):
            return f"must search {name} among values of the type of its default, {defaults[name]!r}"
    return ""


METHODS: Registry[type[Method]] = Registry("method", "bench.methods", fault=_fault)
register_method = METHODS.register
"""As `@register_method("mine")` above the class."""
