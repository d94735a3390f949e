"""The settings of one trial. They decide its identity: a changed setting is a new trial.

Resources (workers, GPUs, shard size) are no settings.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from bench.settings.registries import are_known, check_network, code_of
from methods import METHODS, Method, get_method
from results.printable import shortened

PositiveInt = Annotated[int, Field(ge=1, lt=2**32)]
Probability = Annotated[float, Field(gt=0, lt=1)]
Sigma = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
Precision = Literal["auto", "fp32", "bf16"]
Estimator = Literal["fixed", "two-stage"]
Option = bool | int | float | str


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


class TrainSettings(Settings):
    """How every model of a grid is trained: SGD with momentum, step decay, random crop and flip."""

    epochs: PositiveInt = 90
    decay_epochs: list[PositiveInt] = [30, 60]
    """Epochs at whose start the learning rate is multiplied by `decay_factor`."""
    decay_factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-4
    batch: PositiveInt = 256
    """Global batch, over all workers."""
    augment: bool = True
    """Random crop with padding 4 and horizontal flip."""
    precision: Precision = "auto"
    """auto: bf16 autocast where the hardware computes in it, otherwise fp32. The row says which it was."""
    images: PositiveInt | None = None
    """Train on this many images, evenly spaced; all where not given."""


class CertifySettings(Settings):
    """CERTIFY of Cohen, Rosenfeld & Kolter 2019."""

    n0: PositiveInt = 100
    """Noisy copies that select the class."""
    n: PositiveInt = 100_000
    """Noisy copies that estimate its probability."""
    alpha: Probability = 0.001
    """Probability that a certificate is wrong."""
    images: PositiveInt | None = None
    """Certify this many test images, evenly spaced; all where not given."""
    precision: Precision = "auto"
    estimator: Estimator = "fixed"
    """fixed: n copies of every image; two-stage: as many as an image needs, at most n."""
    skip_misclassified: bool = True
    """Estimate nothing where the selected class is not the label: such an image counts nowhere."""

    @model_validator(mode="after")
    def _something_can_be_certified(self) -> Self:
        if self.alpha ** (1 / self.n) < 0.5:  # the bound on the probability of a class that all n copies give
            raise ValueError(
                f"n = {self.n} with alpha = {self.alpha:g}: certifies no image, even one on which all copies agree; "
                f"n must be at least {math.ceil(-math.log2(self.alpha))}"
            )
        return self


class Certified(Settings):
    """A model and how it is certified; what a row of the tables stands for."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
    """Row of the tables: a method, or a variant of one that the grid names."""
    sigma: Sigma
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    data: str = "synthetic"
    """synthetic, cifar10, or a folder."""
    dataset: str = ""
    """Name of the data in tables; a folder's also carries a fingerprint of its files, so that it may move."""
    certify: CertifySettings = CertifySettings()

    @property
    def trial_id(self) -> str:
        """Readable prefix and hash of all settings."""
        return f"{self.name}-sigma{self.sigma:g}-seed{self.seed}-{_digest(self._identity(without=set()))}"

    @property
    def members(self) -> Sequence[Trial]:
        """The trials whose models form this one, if it is an ensemble."""
        return []

    @property
    def noise_seed(self) -> int:
        """Seed of the certification noise. No two trials share a random stream, unless they differ only in what they
        leave out: their certificates are then the same."""
        certify = self.certify.model_dump(exclude={"skip_misclassified"})
        return int(_digest(self._identity(without={"certify"}) | {"certify": certify}), 16)

    def _identity(self, without: set[str]) -> dict[str, object]:
        return self.model_dump(exclude={*without, "data"})


class ForeignModel(Certified):
    """A model that this program did not train for the run."""

    model: str
    """MODULE:FACTORY, or the architecture of a model that this program trained."""
    weights: str
    """SHA-256 of its parameters and buffers."""


class Trial(Certified):
    """One method at one σ with one seed, trained and certified."""

    method: str
    options: dict[str, Option] = {}
    model: str = "resnet110"
    width: PositiveInt = 16
    decomposition_ratio: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Keep the directions whose variance exceeds ratio · σ²; no decomposition where not given."""
    train: TrainSettings = TrainSettings()
    code: str = ""
    """Digest of the source files of a method and a network that are not of this program; what they are now where not
    given."""

    @field_validator("options")
    @classmethod
    def _numbers_are_finite(cls, options: dict[str, Option]) -> dict[str, Option]:
        for name, value in options.items():
            if isinstance(value, int | float) and not abs(value) < 2**32:  # nor NaN; JSON has no infinity
                raise ValueError(f"{name} = {shortened(value)}: must be a number below {2**32}")
        return options

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        if self.code and not are_known(self.method, self.model):
            raise ValueError(
                f"the method {self.method!r} or the network {self.model!r} is not of this program: give --plugin with "
                "the file or module that defines it"
            )
        check_network(self.model, self.width)
        objective = self.objective
        if objective.minibatches and self.train.batch < objective.copies:
            raise ValueError(f"train.batch = {self.train.batch}: must be at least copies = {objective.copies}")
        code = code_of(self.method, self.model)
        if self.code not in ("", code):
            raise ValueError(
                f"code = {self.code}: the method {self.method!r} or the network {self.model!r} has changed since, to "
                f"{code or 'one of this program'}: give --plugin with the file as it was, or run the trial anew"
            )
        object.__setattr__(self, "code", code)  # nobody has seen it yet
        return self

    @property
    def objective(self) -> Method:
        return get_method(self.method, **self.options)

    @property
    def images_per_step(self) -> int:
        """Images of one optimizer step, over all workers; each is seen in `copies` noisy copies."""
        objective = self.objective
        return self.train.batch // objective.copies if objective.minibatches else self.train.batch

    @property
    def members(self) -> list[Trial]:
        """The trials whose models form this ensemble, in order; empty for a single model.

        Seeds are taken in blocks, so the first member of ensemble 0 is the ordinary trial with seed 0, and
        ensembles with different seeds share no member.
        """
        objective = self.objective
        method = objective.member_method
        if method is None:
            return []
        known = {field.name for field in fields(METHODS.find(method))}
        options = {key: value for key, value in self.options.items() if key in known}
        shared = {"name": method, "method": method, "options": options, "code": code_of(method, self.model)}
        return [
            self.model_copy(update={**shared, "seed": self.seed * objective.members + member})
            for member in range(objective.members)
        ]

    @property
    def training_id(self) -> str:
        """Hash of all that the weights depend on."""
        return _digest(self._identity(without={"name", "certify"}))

    def _identity(self, without: set[str]) -> dict[str, object]:
        settings = super()._identity(without={*without, "options", *([] if self.code else ["code"])})
        objective = self.objective  # with its defaults, so that spelling one out changes nothing
        return settings | {"options": {key: _number(value) for key, value in vars(objective).items()}}


def _number(value: object) -> object:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _digest(settings: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
