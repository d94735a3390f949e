"""Networks of timm, torchvision and transformers, with what their publishers say of their input.

Weights are safetensors where the package has them so (transformers: nothing else is taken). What timm and torchvision
keep as torch's own files is opened with `weights_only=True`, which runs no code of the file's. Code that a
model of the hub brings along is not run.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.models.preprocessing import Expected
from bench.models.shelf import ShelfName, SourceError, is_file_of_weights
from bench.settings.normalisation import Normalisation
from bench.settings.registries import CHANNELS

RANDOM = "random"
"""Weights that are drawn, by seed 0: the same every time, and of no use but to measure and to try."""

INCEPTIONS = ("googlenet", "inception_v3")
"""Networks that torchvision builds otherwise where it is given their weights."""

logger = logging.getLogger("bench")


IN_BGR = ("MobileViT", "PPLCNet")
"""Beginnings of the names of processors that exchange channels, whether or not their files say so."""


@dataclass(frozen=True)
class Published:
    """A network, and what its publisher says of it."""

    network: nn.Module
    expected: Expected
    class_names: Sequence[str] = ()
    num_classes: int | None = None


def from_timm(name: ShelfName) -> Published:
    """`timm.create_model`; input size, mean, std and interpolation as its `pretrained_cfg` has them.

    Raises:
        SourceError: a file of weights that are not those of the network; anything else as timm raises it.
    """
    import timm
    import timm.data

    wanted = name.options.get("weights", RANDOM)
    if wanted != RANDOM and not is_file_of_weights(wanted):
        raise SourceError(
            f"{name}: weights = {wanted}: must be {RANDOM} or a file .safetensors; the published ones need no word"
        )

    def build(*, pretrained: bool, classes: int | None) -> nn.Module:
        more = {} if classes is None else {"num_classes": classes}
        model: nn.Module = timm.create_model(name.name, pretrained=pretrained, **more)
        return model

    network: Any = _with_weights(name, build)
    if not network.num_classes:
        raise SourceError(f"{name}: gives features, not logits: with classes=… and weights of your own it has classes")
    config = timm.data.resolve_model_data_config(network)
    expected = Expected(
        Normalisation(config["mean"], config["std"]), tuple(config["input_size"][1:]), _mode(config["interpolation"])
    )
    return Published(network, expected, num_classes=int(network.num_classes))


def from_torchvision(name: ShelfName) -> Published:
    """`torchvision.models.get_model`; crop size, mean, std and interpolation as the transforms of its weights have
    them.

    Raises:
        SourceError: no classifier of that name, or no weights; a file of weights that are not those of the network.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if name.name not in known:
        raise SourceError(f"{name}: is no classifier of torchvision: it has {', '.join(known)}")
    kinds = models.get_model_weights(name.name)
    wanted = name.options.get("weights", "DEFAULT")
    drawn = wanted == RANDOM or is_file_of_weights(wanted)
    if not drawn and wanted not in kinds.__members__:
        raise SourceError(
            f"{name}: weights = {wanted}: must be {', '.join(kinds.__members__)}, {RANDOM}, or a file .safetensors"
        )
    weights: Any = kinds["DEFAULT" if drawn else wanted]
    names = weights.meta["categories"]
    if names is None:
        raise SourceError(f"{name}: weights = {wanted}: are of features alone, not of a classifier")
    transforms = weights.transforms()
    size = transforms.crop_size[0]

    def build(*, pretrained: bool, classes: int | None) -> nn.Module:
        more: dict[str, Any] = {} if classes is None else {"num_classes": classes}
        if name.name in INCEPTIONS:
            more |= {"transform_input": True, "aux_logits": True, "init_weights": False}
        if name.name.startswith("vit_"):  # they have a position for each patch
            more["image_size"] = size
        model: nn.Module = models.get_model(name.name, weights=None, **more)
        if pretrained:  # given the weights, torchvision would unpickle them
            model.load_state_dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
        return model

    network = _with_weights(name, build)
    expected = Expected(
        Normalisation(tuple(transforms.mean), tuple(transforms.std)),
        (size, size),
        _mode(transforms.interpolation.value),
    )
    head = _head(network)
    classes = head[1] if head else len(names)
    return Published(network, expected, names if len(names) == classes else (), classes)


def from_transformers(name: ShelfName) -> Published:
    """`AutoModelForImageClassification`; size, mean, std and resampling as the processor's file has them, or, where
    there is none, as those of the model's kind usually are.

    Raises:
        SourceError: it has no processor; anything else as transformers raises it.
    """
    from transformers import AutoModelForImageClassification
    from transformers import logging as talk

    talk.disable_progress_bar()
    revision = name.options.get("revision", "main")
    # transformers asks its user to review code of the hub's and to allow it; nothing here does.
    model, loaded = AutoModelForImageClassification.from_pretrained(
        name.name, revision=revision, use_safetensors=True, trust_remote_code=False, output_loading_info=True
    )
    if missing := sorted(loaded["missing_keys"]):  # it would have drawn them, others each time
        raise SourceError(f"{name}: its weights lack {missing[0]} ({len(missing)} in all)")
    model.float()  # those in half precision would be computed in it
    settings = _processor(name, revision, model.config)
    expected = _as_processed(name, settings, getattr(model.config, "num_channels", CHANNELS))
    labels = [model.config.id2label[number] for number in range(model.config.num_labels)]
    told = any(label != f"LABEL_{number}" for number, label in enumerate(labels))
    return Published(model, expected, labels if told else (), len(labels))


def _processor(name: ShelfName, revision: str, config: Any) -> dict[str, Any]:
    """The settings of a model's image processor."""
    from transformers import AutoImageProcessor
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

    file = Path(name.name) / "preprocessor_config.json"
    if file.is_file():
        settings = json.loads(file.read_text(encoding="utf-8"))
        assert isinstance(settings, dict)
        return settings
    try:
        found: dict[str, Any] = AutoImageProcessor.from_pretrained(
            name.name, revision=revision, trust_remote_code=False
        ).to_dict()
        return found
    except (OSError, ValueError) as error:  # it says nothing of images
        try:
            kinds = IMAGE_PROCESSOR_MAPPING[type(config)]
        except KeyError:
            raise SourceError(f"{name}: has no image processor: {str(error).splitlines()[0]}") from error
    kind = next(iter(kinds.values())) if isinstance(kinds, dict) else next(filter(None, kinds))
    usual: dict[str, Any] = kind().to_dict()
    if isinstance(getattr(config, "image_size", None), int):
        usual["size"] = {"height": config.image_size, "width": config.image_size}
        usual.pop("crop_size", None)
    logger.warning("%s: has no preprocessor_config.json: resized and normalised as %s does it", name, kind.__name__)
    return usual


def _as_processed(name: ShelfName, settings: dict[str, Any], channels: int) -> Expected:
    """What a processor does to pixels in [0, 255], of pixels in [0, 1]."""
    kind = str(settings.get("image_processor_type") or settings.get("feature_extractor_type"))
    if settings.get("do_flip_channel_order") or kind.startswith(IN_BGR):
        raise SourceError(f"{name}: its processor makes BGR of RGB, which is not done here: a factory of yours may")
    scale = 255 * float(settings.get("rescale_factor", 1 / 255)) if settings.get("do_rescale", True) else 255.0
    shift = -1.0 if settings.get("rescale_offset") else 0.0
    means, stds = (0.0,) * channels, (1.0,) * channels
    if settings.get("do_normalize", True):
        means, stds = settings["image_mean"], settings["image_std"]
    if settings.get("include_top", kind.startswith("EfficientNet")):  # it divides by them twice
        stds = tuple(std * std for std in stds)
    # (scale · x + shift − mean) / std
    normalisation = Normalisation(tuple((mean - shift) / scale for mean in means), tuple(std / scale for std in stds))
    size = settings.get("crop_size") if settings.get("do_center_crop") else settings.get("size")
    pair: tuple[int, int] | None = None
    if isinstance(size, int):
        pair = (size, size)
    elif isinstance(size, dict) and {"height", "width"} <= size.keys():
        pair = (int(size["height"]), int(size["width"]))
    elif isinstance(size, dict) and "shortest_edge" in size:
        pair = (int(size["shortest_edge"]), int(size["shortest_edge"]))
    elif settings.get("do_resize", True):
        raise SourceError(f"{name}: its processor gives no size: {size}")
    return Expected(normalisation, pair, "bicubic" if settings.get("resample", 2) in (1, 3) else "bilinear")


def _mode(interpolation: str) -> str:
    """bilinear, or bicubic for whatever is finer."""
    return "bilinear" if interpolation in ("bilinear", "nearest") else "bicubic"


def _with_weights(name: ShelfName, build: Callable[..., nn.Module]) -> nn.Module:
    """The network with the publisher's weights, with those of a file, or with drawn ones."""
    wanted = name.options.get("weights", "")
    classes = int(name.options["classes"]) if "classes" in name.options else None
    if wanted != RANDOM and not is_file_of_weights(wanted):
        if classes is not None:
            raise SourceError(f"{name}: the published weights have their classes: leave out classes = {classes}")
        return build(pretrained=True, classes=None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build(pretrained=False, classes=classes)
    if wanted == RANDOM:
        return network
    tensors = _tensors(name, wanted)
    head = _head(network)
    if classes is None and head and (found := tensors.get(f"{head[0]}.weight")) is not None and len(found) != head[1]:
        network = build(pretrained=False, classes=len(found))
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()
        raise SourceError(f"{wanted}: not the weights of a {name.name}: {detail}") from None
    return network


def _tensors(name: ShelfName, file: str) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(file)
    except (SafetensorError, OSError) as error:
        raise SourceError(f"{name}: {file}: not readable as safetensors: {error}") from None
    return tensors


def _head(network: nn.Module) -> tuple[str, int] | None:
    """The name of the last linear layer, or of the last convolution where there is none, and its number of outputs."""
    modules = list(network.named_modules())
    linear = [(key, module.out_features) for key, module in modules if isinstance(module, nn.Linear)]
    convolutions = [(key, module.out_channels) for key, module in modules if isinstance(module, nn.Conv2d)]
    found = linear or convolutions
    return found[-1] if found else None
