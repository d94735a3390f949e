"""The settings of a trial, as trial.json keeps them. They decide its identity: a changed setting is a new trial.

A trial is native (trained and certified here), external (somebody else's model, certified here), composed (of several
models, certified here), or imported (another program's certification log). Resources (workers, GPUs, shard size) are no
settings.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from results.bounds import ALPHA, LOOKING, N0, N, shares
from results.errors import StoreError
from results.printable import PER_INPUT, shortened
from results.store.folder import AnyPath, read_json
from results.store.record import FileRecord, Record, digest_of, validated

PositiveInt = Annotated[int, Field(ge=1, lt=2**32)]
Probability = Annotated[float, Field(gt=0, lt=1)]
Sigma = Annotated[float, Field(gt=0, le=100)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Precision = Literal["auto", "fp32", "bf16"]
Estimator = Literal["fixed", "two-stage", "anytime"]
Arithmetic = Literal["float", "sound"]
Composition = Literal["dual", "multi-scale"]
Option = bool | int | float | str
DEFAULT_WIDTH = 16
"""Channels of a CIFAR ResNet's first layer as published, which goes without saying."""
LEAST_ALPHA = 1e-100
"""SciPy's quantiles of beta distributions are not to be trusted much below: of some counts they are NaN."""


class TrainSettings(Record):
    """How every model of a grid is trained: SGD with momentum, step decay, random crop and flip."""

    epochs: PositiveInt = 90
    decay_epochs: list[PositiveInt] = [30, 60]
    """Epochs at whose start the learning rate is multiplied by `decay_factor`."""
    decay_factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    batch: PositiveInt = 256
    """Global batch, over all workers."""
    augment: bool = True
    """Random crop with padding 4, and horizontal flip unless the data are digits or say that they must not be."""
    precision: Precision = "auto"
    """auto: bf16 autocast where the hardware computes in it, otherwise fp32. The row says which it was."""
    images: PositiveInt | None = None
    """Train on this many images, evenly spaced; all where not given."""


class CertifySettings(Record):
    """CERTIFY of Cohen, Rosenfeld & Kolter 2019 (their section 3.2)."""

    n0: PositiveInt = N0
    """Noise samples that select the class."""
    n: PositiveInt = N
    """Noise samples that estimate its probability."""
    alpha: Probability = ALPHA
    """Probability that a certificate is wrong."""
    images: PositiveInt | None = None
    """Certify this many test images, evenly spaced; all where not given."""
    precision: Precision = "auto"
    estimator: Estimator = "fixed"
    """fixed: n samples of every image; two-stage: as many as an image needs, at most n, decided before they are drawn
    (`results.bounds.two_stage`); anytime: an image is looked at as it goes on, and its bound holds whenever it is
    stopped (`results.bounds.anytime`)."""
    arithmetic: Arithmetic = "float"
    """float: x + ε in float32, as everybody does it; sound: certificates hold in floating point, whatever the
    classifier makes of the last bits of its input (`results.bounds.lattice`)."""
    soft: bool = False
    """Bound the expected softmax as well: a certificate of another classifier (`results.bounds.soft`)."""
    skip_misclassified: bool = True
    """Estimate nothing where the selected class is not the label: such an image counts nowhere."""
    beacon: str | None = None
    """A value published after the weights were: the noise is seeded by it and by them (`beacon_seed`). Where not given,
    by the settings."""

    @field_validator("beacon")
    @classmethod
    def _one_spelling(cls, beacon: str | None) -> str | None:
        if beacon is not None and not re.fullmatch(r"[!-~]{1,256}", beacon):
            raise ValueError(f"{shortened(beacon)}: must be 1 to 256 printable characters of ASCII without blanks")
        return beacon

    @field_validator("alpha")
    @classmethod
    def _not_too_small(cls, alpha: float) -> float:
        if alpha < LEAST_ALPHA:
            raise ValueError(f"{alpha:g}: must be at least {LEAST_ALPHA:g}, below which bounds are inexact")
        return alpha

    @model_validator(mode="after")
    def _something_can_be_certified(self) -> Self:
        at_the_end = self.alpha * (1 - LOOKING if self.estimator == "anytime" else 1)
        if at_the_end ** (1 / self.n) < 0.5:  # the bound on the probability of a class that all n samples give
            raise ValueError(
                f"n = {self.n} with alpha = {self.alpha:g}: certifies no image, even one on which all samples agree; "
                f"n must be at least {math.ceil(-math.log2(at_the_end))}"
            )
        return self

    def samples_to_draw(self, count: int) -> int:
        """The samples that an estimation asks for, whatever they answer; at most, where it is stopped by that.

        Args:
            count: samples of the selection that gave the selected class.
        """
        if self.estimator != "two-stage":
            return self.n
        from results.bounds.two_stage import sufficient_samples  # with SciPy

        return sufficient_samples(count, self.n0, self.n, self.alpha)


class ImportedCertification(Record):
    """What is stated of a log's certification; the log does not say."""

    n0: PositiveInt = N0
    n: PositiveInt = N
    alpha: Probability = ALPHA
    images: None = None
    """All images that the log has."""
    estimator: Literal["imported"] = "imported"


class TrialSettings(FileRecord):
    """What every trial has, whatever its kind."""

    name: Name
    """Row of the tables: a method, or a variant of one that the grid names."""
    sigma: Sigma
    """Standard deviation of the noise, in [0, 1] pixel units."""
    seed: Seed = 0
    dataset: str = ""
    """Name of the data in tables; a folder's also carries a fingerprint of its images, so that it may move."""
    model: str
    """Of the network, in tables."""

    @cached_property
    def members(self) -> Sequence[NativeTrial]:
        """The trials whose models form this one, if it is an ensemble."""
        return ()

    @cached_property
    def teacher(self) -> NativeTrial | None:
        """The trial whose votes this one learns from."""
        return None

    @cached_property
    def needed(self) -> Sequence[NativeTrial]:
        """The trials that must be trained before this one can be."""
        return ()

    @cached_property
    def trial_id(self) -> str:
        """Readable prefix and hash of all settings."""
        noise = f"sigma{self.sigma:g}" if self.sigma else "per-input"
        return f"{self.name}-{noise}-seed{self.seed}-{short_digest(self._identity(without=set()))}"

    def _identity(self, without: set[str]) -> dict[str, object]:
        """The settings that make a trial what it is, without those named."""
        return self.model_dump(exclude={*without, "kind", "data"})

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """The same settings but for these, which are taken as they are."""
        copied = super().model_copy(update=update, deep=deep)
        for kept in vars(copied).keys() - type(self).model_fields.keys():  # of an identity that may be another now
            del vars(copied)[kept]
        return copied


class CertifiedTrial(TrialSettings):
    """A trial whose model is certified here."""

    data: str = "synthetic"
    """The name of a data set, or a folder; not part of the identity, for it may move."""
    certify: CertifySettings = CertifySettings()

    @property
    def bound(self) -> CertifySettings:
        """`certify`, with the alpha of one bound where several share it."""
        return self.certify

    def noise_seed(self, weights: str) -> int:
        """Seed of the certification noise, from 0 to 2⁴⁸ − 1.

        Without a beacon it follows from the settings: no two trials share a random stream, unless they differ only in
        what they leave out, or also bound; their certificates are then the same. With one it is `beacon_seed`.

        Args:
            weights: SHA-256, as the rows have it.
        """
        if self.certify.beacon is not None:
            return beacon_seed(weights, self.certify.beacon)
        certify = self.certify.model_dump(exclude={"skip_misclassified", "soft", "beacon"})
        return int(short_digest(self._identity(without={"certify"}) | {"certify": certify}), 16)

    def _identity(self, without: set[str]) -> dict[str, object]:
        identity = super()._identity(without)
        if "certify" in identity:  # a trial without these is the one that it was before there were any
            absent = {name for name in ("soft", "beacon") if not getattr(self.certify, name)}
            identity["certify"] = self.certify.model_dump(exclude=absent)
        return identity


class NativeTrial(CertifiedTrial):
    """One method at one σ with one seed, trained and certified here."""

    kind: Literal["native"] = "native"
    method: str
    options: dict[str, Option] = {}
    model: str = "resnet110"
    width: PositiveInt = DEFAULT_WIDTH
    decomposition_ratio: Annotated[float, Field(gt=0)] | None = None
    """Keep the directions whose variance exceeds ratio · σ²; no decomposition where not given."""
    train: TrainSettings = TrainSettings()
    code: str = ""
    """Digest of the source files of a method and a network that are not of this program."""

    @field_validator("options")
    @classmethod
    def _numbers_are_finite(cls, options: dict[str, Option]) -> dict[str, Option]:
        for name, value in options.items():
            if isinstance(value, int | float) and not abs(value) < 2**32:  # nor NaN; JSON has no infinity
                raise ValueError(f"{name} = {shortened(value)}: must be a number below {2**32}")
        return options


class ExternalTrial(CertifiedTrial):
    """A model that this program did not train for the run."""

    kind: Literal["external"] = "external"
    model: str
    """MODULE:FACTORY, or the network of a model that this program trained."""
    weights: str
    """SHA-256 of its parameters and buffers."""


class PartSettings(Record):
    """A smoothed classifier that others are composed of."""

    model: str
    """As `ExternalTrial` has it."""
    sigma: Sigma
    weights: str


class ComposedTrial(CertifiedTrial):
    """A classifier composed of smoothed ones (`results.bounds.composition`), so that every image has its own σ."""

    kind: Literal["composed"] = "composed"
    sigma: Annotated[float, Field(ge=PER_INPUT, le=PER_INPUT)] = PER_INPUT
    composition: Composition
    parts: Annotated[list[PartSettings], Field(min_length=2, max_length=8)]
    """dual: the selector, then the classifiers in the order of its logits; multi-scale: the scales, in the order in
    which they are asked."""

    @model_validator(mode="after")
    def _something_can_be_composed(self) -> Self:
        if self.composition == "dual" and len(self.parts) < 3:
            raise ValueError("a selector selects among at least two classifiers")
        if (message := not_composed(self.certify)) is not None:
            raise ValueError(message)
        try:
            CertifySettings.model_validate(self.bound.model_dump())
        except ValidationError as error:
            message = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise ValueError(f"alpha is shared by {self.alpha_shares} bounds: {message}") from None
        return self

    @property
    def alpha_shares(self) -> int:
        """Bounds that share alpha."""
        return shares(self.composition, len(self.parts))

    @property
    def bound(self) -> CertifySettings:
        """`certify`, with the alpha of one bound."""
        return self.certify.model_copy(update={"alpha": self.certify.alpha / self.alpha_shares})

    @property
    def weights(self) -> str:
        """SHA-256 of those of the parts."""
        return hashlib.sha256("\n".join(part.weights for part in self.parts).encode()).hexdigest()


class ImportedTrial(TrialSettings):
    """Another program's certification log, with what is stated of it."""

    kind: Literal["imported"] = "imported"
    dataset: str = "cifar10"
    model: str = "resnet110"
    sha256: str = ""
    """Of the log."""
    stride: PositiveInt = 1
    """Only images whose index is a multiple of it."""
    certify: ImportedCertification = ImportedCertification()

    def _identity(self, without: set[str]) -> dict[str, object]:
        return super()._identity({*without, "certify"}) | self.certify.model_dump(include={"n", "n0", "alpha"})


AnyTrial = NativeTrial | ExternalTrial | ComposedTrial | ImportedTrial
KINDS: dict[object, type[AnyTrial]] = {
    "native": NativeTrial,
    "external": ExternalTrial,
    "composed": ComposedTrial,
    "imported": ImportedTrial,
}


def read_trial_settings(path: AnyPath) -> AnyTrial:
    """trial.json, of any kind.

    Raises:
        FileNotFoundError: there is none.
        StoreError: it is not one; names the file, the key, the value and what is allowed.
    """
    return trial_settings(read_json(path), path)


def trial_settings(values: dict[str, Any], path: AnyPath) -> AnyTrial:
    """As `read_trial_settings`, of what the file holds."""
    kind = values.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise StoreError(f"{path}: kind = {shortened(kind)}: must be {', '.join(map(str, KINDS))}")
    return validated(KINDS[kind], values, path)


def not_composed(certify: CertifySettings) -> str | None:
    """Why composed classifiers are not certified so; None: they are."""
    if certify.estimator == "anytime":
        return "estimator = anytime: must be fixed or two-stage for a composed classifier"
    if certify.soft:
        return "soft = true: a composed classifier has no expected softmax"
    return None


def beacon_seed(weights: str, beacon: str) -> int:
    """The seed of the certification noise where there is a beacon, from 0 to 2⁴⁸ − 1: the first 12 digits of a SHA-256.

    It follows from the weights and the beacon alone. Were n, a name or another setting part of it, whoever has seen the
    beacon could turn that until the noise suits; so certifications of the same weights share their noise.

    Args:
        weights: SHA-256 of the weights, as training.json has it, in hexadecimal.
        beacon: as `CertifySettings.beacon`.
    """
    return int(hashlib.sha256(f"{weights}\n{beacon}".encode()).hexdigest()[:12], 16)


def short_digest(settings: dict[str, object]) -> str:
    """The first 12 digits of a SHA-256."""
    return digest_of(settings)[:12]
