"""A denoiser before a classifier: both together are the base classifier that is certified.

Denoised smoothing (Salman, Sun, Yang, Kapoor & Kolter 2020) takes any network from noisy images to clean ones; its
successor a diffusion model, asked once at the time step whose noise is that of σ (Carlini, Tramèr, Dvijotham, Rice, Sun
& Kolter 2023, their section 3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.models.shelf import PREDICTS, ShelfName, SourceError

STEPS = 1000
"""Of the schedules that are known by name."""


class Denoised(nn.Module):
    """Denoiser, then classifier: noisy images (batch, channel, height, width) in [0, 1] with noise -> logits."""

    def __init__(self, denoiser: nn.Module, classifier: nn.Module, class_names: Sequence[str] = ()) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.classifier = classifier
        self.class_names = list(class_names)

    def forward(self, images: Tensor) -> Any:
        """What the classifier gives."""
        return self.classifier(self.denoiser(images))


class Plain(nn.Module):
    """A network from noisy images to clean ones; or to the noise in them, which is then subtracted, as in a residual
    denoiser (Zhang, Zuo, Chen, Meng & Zhang 2017)."""

    def __init__(self, network: nn.Module, predicts: str) -> None:
        """predicts: image or noise."""
        super().__init__()
        self.network = network
        self.residual = predicts == "noise"

    def forward(self, images: Tensor) -> Tensor:
        """Images of the same shape; not clipped."""
        answer = tensor_of(self.network(images)).float()
        return images - answer if self.residual else answer


class OneShot(nn.Module):
    """A diffusion model asked once: at the step t whose noise is that of the images, for all of x₀.

    A noisy image x = x₀ + σ ε is on the model's scale 2x − 1 = (2x₀ − 1) + 2σ ε, and the model knows
    x_t = √ᾱ_t (2x₀ − 1) + √(1 − ᾱ_t) ε. So t is the step with √((1 − ᾱ_t) / ᾱ_t) nearest to 2σ, x_t = √ᾱ_t (2x − 1),
    and x₀ follows from what the model predicts, clipped to its scale.
    """

    def __init__(self, network: nn.Module, alphas: Tensor, sigma: float, predicts: str) -> None:
        """
        Args:
            network: called with (x_t, t), t int64 (batch,); of twice as many channels as the image the first half is
                taken, for some models give a variance too.
            alphas: ᾱ_t, falling, (steps,).
            sigma: of the noise, in [0, 1] pixel units.
            predicts: noise (ε), image (x₀) or velocity (√ᾱ ε − √(1 − ᾱ) x₀).

        Raises:
            SourceError: the schedule has no such noise.
        """
        super().__init__()
        ratios = ((1 - alphas.double()) / alphas.double()).sqrt()
        if not float(ratios[0]) <= 2 * sigma <= float(ratios[-1]):
            raise SourceError(
                f"sigma = {sigma:g}: the denoiser's schedule has noise from {float(ratios[0]) / 2:.3g} to "
                f"{float(ratios[-1]) / 2:.3g} only"
            )
        self.network = network
        self.predicts = predicts
        self.step = int((ratios.log() - math.log(2 * sigma)).abs().argmin())
        alpha = float(alphas[self.step])
        self.signal, self.noise = math.sqrt(alpha), math.sqrt(1 - alpha)

    def forward(self, images: Tensor) -> Tensor:
        """Images in [0, 1], of the same shape."""
        noisy = self.signal * (2 * images - 1)
        steps = torch.full((len(images),), self.step, dtype=torch.int64, device=images.device)
        answer = tensor_of(self.network(noisy, steps)).float()[:, : images.shape[1]]
        if self.predicts == "noise":
            answer = (noisy - self.noise * answer) / self.signal
        elif self.predicts == "velocity":
            answer = self.signal * noisy - self.noise * answer
        return (answer.clamp(-1, 1) + 1) / 2


def tensor_of(answer: Any) -> Tensor:
    """The image in what a network gave: a tensor, `.sample`, or the first of several.

    Raises:
        TypeError: there is none.
    """
    found = answer if isinstance(answer, Tensor) else getattr(answer, "sample", None)
    if found is None and isinstance(answer, Sequence) and answer:
        found = answer[0]
    if not isinstance(found, Tensor):
        raise TypeError(f"the denoiser gave a {type(answer).__name__}, expected images")
    return found


def schedule(name: str) -> Tensor:
    """ᾱ_t of 1000 steps, (1000,), double: linear (Ho, Jain & Abbeel 2020) or cosine (Nichol & Dhariwal 2021, their
    equation 17, with β at most .999)."""
    if name == "linear":
        betas = torch.linspace(1e-4, 0.02, STEPS, dtype=torch.float64)
    else:
        times = torch.arange(STEPS + 1, dtype=torch.float64) / STEPS
        alphas = torch.cos((times + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = (1 - alphas[1:] / alphas[:-1]).clamp(max=0.999)
    return torch.cumprod(1 - betas, dim=0)


@dataclass(frozen=True)
class Diffusion:
    """A diffusion model, and the schedule that it was trained with."""

    network: nn.Module
    alphas: Tensor
    predicts: str


def from_diffusers(name: ShelfName) -> Diffusion:
    """`UNet2DModel` with the schedule of its `DDPMScheduler`: a folder or a name of the hub with both, or with unet/
    and scheduler/.

    Raises:
        SourceError: it needs classes, has no such schedule, or predicts something else; anything else as diffusers
            raises it.
    """
    from diffusers import DDPMScheduler, UNet2DModel
    from diffusers.utils import logging as talk

    talk.disable_progress_bar()
    revision = name.options.get("revision")
    parts = _is_pipeline(name.name, revision)
    unet: Any = UNet2DModel.from_pretrained(
        name.name, revision=revision, use_safetensors=True, subfolder="unet" if parts else None
    )
    if unet.config.class_embed_type is not None or unet.config.num_class_embeds is not None:
        raise SourceError(f"{name}: needs the class of an image, which nobody knows before it is classified")
    if unet.config.time_embedding_type == "fourier":
        raise SourceError(f"{name}: is asked with a level of noise, and not with a step of a schedule")
    subfolder = "scheduler" if parts else None
    stated: Any = DDPMScheduler.load_config(name.name, revision=revision, subfolder=subfolder)
    if "beta_start" not in stated and not stated.get("trained_betas"):
        raise SourceError(f"{name}: its scheduler says no betas: must be one like DDPMScheduler")
    found: Any = DDPMScheduler.from_pretrained(name.name, revision=revision, subfolder=subfolder)
    kind = found.config.prediction_type
    if kind not in PREDICTS.values():
        raise SourceError(f"{name}: prediction_type = {kind}: must be {', '.join(PREDICTS.values())}")
    predicts = next(ours for ours, theirs in PREDICTS.items() if theirs == kind)
    return Diffusion(unet, found.alphas_cumprod.double(), predicts)


def _is_pipeline(name: str, revision: str | None) -> bool:
    """Whether network and schedule are in folders of their own."""
    if Path(name).is_dir():
        return (Path(name) / "unet").is_dir()
    from diffusers import DDPMScheduler

    try:
        DDPMScheduler.load_config(name, revision=revision)
    except OSError:
        return True
    return False
