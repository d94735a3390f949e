"""Models off the shelf, by a name that says which package has them; nothing here imports torch or such a package.

timm:vit_base_patch16_224        torchvision:resnet50@weights=IMAGENET1K_V1
hf:google/vit-base-patch16-224   onnx:file.onnx@normalise=imagenet
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bench.settings.normalisation import CIFAR10, Normalisation
from results.errors import BenchError

IMAGENET = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
NORMALISATIONS: dict[str, Normalisation | None] = {
    "imagenet": IMAGENET,
    "cifar10": CIFAR10,
    "half": Normalisation(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    "none": None,
}
"""What `normalise` may be called; or MEANS:STDS, with a slash between channels."""


@dataclass(frozen=True)
class Shelf:
    """Where models of one kind are had."""

    package: str
    """That Python imports."""
    distribution: str
    """That pip installs."""
    options: tuple[str, ...]
    """Keys that may follow the name."""
    is_file: bool = False
    """Whether the name is that of a file."""


SHELVES = {
    "timm": Shelf("timm", "timm", ("weights", "classes", "normalise")),
    "torchvision": Shelf("torchvision", "torchvision", ("weights", "classes", "normalise")),
    "hf": Shelf("transformers", "transformers", ("revision", "normalise")),
    "onnx": Shelf("onnx", "onnx", ("engine", "normalise"), is_file=True),
}

DENOISERS = {"ddpm": Shelf("diffusers", "diffusers", ("revision",))}
"""Where denoisers are had that stand before a classifier."""
PREDICTS = {"noise": "epsilon", "image": "sample", "velocity": "v_prediction"}
"""What a denoiser may predict, and diffusers' word for it."""
FACTORY_OPTIONS = {"schedule": ("linear", "cosine"), "predicts": tuple(PREDICTS)}
"""Of a denoiser that is MODULE:FACTORY."""


ALL = SHELVES | DENOISERS


class SourceError(BenchError):
    """A model that cannot be had; the message is one sentence for the user."""


@dataclass(frozen=True)
class ShelfName:
    """SCHEME:NAME, or SCHEME:NAME@key=value,key=value."""

    scheme: str
    name: str
    """Of a file or a folder: its absolute path, if it is there."""
    options: Mapping[str, str]

    def __str__(self) -> str:
        """What finds the model again from any folder."""
        options = ",".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.scheme}:{self.name}" + (f"@{options}" if options else "")

    @property
    def title(self) -> str:
        """A row's name: of letters, digits, - and _."""
        last = Path(self.name).stem if ALL[self.scheme].is_file else self.name.rstrip("/").rsplit("/", 1)[-1]
        return re.sub(r"[^A-Za-z0-9_]+", "-", last).strip("-_")[:64] or self.scheme

    @property
    def normalisation(self) -> Normalisation | None:
        """That `normalise` asks for."""
        text = self.options["normalise"]
        return NORMALISATIONS[text] if text in NORMALISATIONS else _normalisation(text)


def is_on_shelf(text: str) -> bool:
    """Whether a text names a model of a package: a module of one of these names would have to be called otherwise."""
    return text.partition(":")[0] in SHELVES and ":" in text


def is_denoiser_on_shelf(text: str) -> bool:
    """Whether a text names a denoiser of a package."""
    return text.partition(":")[0] in DENOISERS and ":" in text


def factory_name(text: str) -> tuple[str, dict[str, str]]:
    """MODULE:FACTORY and the options of a denoiser: `schedule`, with which it is a diffusion model, and `predicts`.

    Raises:
        SourceError: it is no such name.
    """
    name, options = split_options(text)
    if ":" not in name or "/" in name:
        raise SourceError(
            f"{text}: a denoiser must be MODULE:FACTORY or one of {', '.join(f'{s}:NAME' for s in DENOISERS)}"
        )
    for key, value in options.items():
        allowed = FACTORY_OPTIONS.get(key)
        if allowed is None:
            raise SourceError(f"{text}: {key} is no option of a denoiser: allowed are {', '.join(FACTORY_OPTIONS)}")
        if value not in allowed:
            raise SourceError(f"{text}: {key} = {value}: must be {', '.join(allowed)}")
    if "schedule" not in options and options.get("predicts") == "velocity":
        raise SourceError(f"{text}: predicts = velocity: needs a schedule, {' or '.join(FACTORY_OPTIONS['schedule'])}")
    return name, options


def shelf_name(text: str) -> ShelfName:
    """
    Raises:
        SourceError: it is no such name; the package is not installed; or there is no such file.
    """
    scheme, _, rest = text.partition(":")
    shelf = ALL[scheme]
    name, options = split_options(rest)
    if not name:
        raise SourceError(f"{text}: must be {scheme}:NAME")
    for key in options:
        if key not in shelf.options:
            raise SourceError(f"{text}: {key} is no option of {scheme}: allowed are {', '.join(shelf.options)}")
    if find_spec(shelf.package) is None:
        raise SourceError(f"{text}: needs the package {shelf.distribution}: pip install {shelf.distribution}")
    _check_options(text, options)
    path = Path(name).expanduser()
    if shelf.is_file and not path.is_file():
        raise SourceError(f"{text}: there is no file {name}")
    if shelf.is_file or (scheme in ("hf", "ddpm") and path.is_dir()):
        name = str(path.absolute())
    if is_file_of_weights(weights := options.get("weights", "")):
        options["weights"] = str(Path(weights).expanduser().absolute())
    return ShelfName(scheme, name, options)


def is_file_of_weights(weights: str) -> bool:
    """Whether what `weights` is set to is a file."""
    return weights.endswith(".safetensors")


def _check_options(text: str, options: Mapping[str, str]) -> None:
    if "normalise" in options and options["normalise"] not in NORMALISATIONS:
        _normalisation(options["normalise"])
    if "classes" in options and not re.fullmatch(r"[1-9]\d{0,4}", options["classes"]):
        raise SourceError(f"{text}: classes = {options['classes']}: must be a number of classes")
    weights = options.get("weights", "")
    if is_file_of_weights(weights) and not Path(weights).expanduser().is_file():
        raise SourceError(f"{text}: there is no file {weights}")


def split_options(text: str) -> tuple[str, dict[str, str]]:
    """A name, and what follows its last @ if that has the form of options."""
    name, at, tail = text.rpartition("@")
    if not at or not re.match(r"\w+=", tail):
        return text, {}
    return name, dict(part.partition("=")[::2] for part in tail.split(","))


def _normalisation(text: str) -> Normalisation:
    try:
        mean, std = (tuple(map(float, part.split("/"))) for part in text.split(":"))
    except ValueError:
        raise SourceError(
            f"normalise = {text}: must be {', '.join(NORMALISATIONS)}, or MEANS:STDS with a slash between channels, "
            "such as 0.5/0.5/0.5:0.5/0.5/0.5"
        ) from None
    return Normalisation(mean, std)
