"""Denoisers before classifiers: the scale and the time step that σ asks for, and a pipeline through every command."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench import CertifySettings, Smoothed, load_model
from bench.models.classifier import kind_of
from bench.models.denoisers import Denoised, OneShot, Plain, schedule
from bench.models.shelf import SourceError
from bench.models.sources import open_model
from results import read_run
from tests.command import bench

SHAPE = (8, 3, 32, 32)


class Knows(nn.Module):
    """A diffusion model that knows the image, and keeps what it was asked."""

    def __init__(self, clean: Tensor, alphas: Tensor, predicts: str) -> None:
        super().__init__()
        self.clean, self.alphas, self.predicts = 2 * clean - 1, alphas, predicts
        self.asked: list[tuple[Tensor, Tensor]] = []

    def forward(self, noisy: Tensor, steps: Tensor) -> Tensor:
        self.asked.append((noisy, steps))
        alpha = self.alphas[steps].float().view(-1, 1, 1, 1)
        noise = (noisy - alpha.sqrt() * self.clean) / (1 - alpha).sqrt()
        velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * self.clean
        answer = {"noise": noise, "image": self.clean.expand_as(noisy), "velocity": velocity}[self.predicts]
        return torch.cat([answer, torch.full_like(answer, 9.0)], dim=1)  # with a variance, as some have it


@pytest.mark.parametrize("predicts", ["noise", "image", "velocity"])
@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("sigma", [0.05, 0.25, 0.5, 1.0])
def test_a_model_that_knows_the_noise_gives_back_the_image(predicts: str, name: str, sigma: float) -> None:
    alphas = schedule(name)
    clean = torch.rand(1, 3, 32, 32)
    knows = Knows(clean, alphas, predicts)
    noisy = clean + sigma * torch.randn(SHAPE)
    found = OneShot(knows, alphas, sigma, predicts)(noisy)
    assert torch.allclose(found, clean.expand(SHAPE), atol=2e-3)
    [(given, steps)] = knows.asked
    assert len(set(steps.tolist())) == 1
    # What the model is asked has, around √ᾱ (2x₀ − 1), the noise √(1 − ᾱ) that it was trained with at this step.
    alpha = float(alphas[steps[0]])
    spread = float((given - math.sqrt(alpha) * knows.clean).std())
    assert spread == pytest.approx(math.sqrt(1 - alpha), rel=0.03)
    others = ((1 - alphas) / alphas).sqrt() / 2
    assert abs(float(others[steps[0]]) - sigma) == pytest.approx(float((others - sigma).abs().min()), abs=0.002)


def test_what_a_diffusion_model_gives_is_clipped_and_what_is_beyond_its_schedule_refused() -> None:
    alphas = schedule("linear")

    class Large(nn.Module):
        def forward(self, noisy: Tensor, steps: Tensor) -> Tensor:  # noqa: ARG002
            return -50 * torch.ones_like(noisy)

    found = OneShot(Large(), alphas, 0.5, "noise")(torch.rand(SHAPE))
    assert (found == 1).all()
    for sigma in (0.001, 200):
        with pytest.raises(SourceError, match=r"the denoiser's schedule has noise from 0\.005 to \d+"):
            OneShot(Large(), alphas, sigma, "noise")


def test_the_schedules_are_those_of_the_papers() -> None:
    linear, cosine = schedule("linear"), schedule("cosine")
    assert float(linear[0]) == pytest.approx(1 - 1e-4)
    assert float(linear[-1]) == pytest.approx(4.04e-5, rel=0.01)  # as Ho et al. have it, nearly no signal
    for t in (0, 100, 500, 900):  # of equation 17, before β is cut off at the end
        exact = (math.cos(((t + 1) / 1000 + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)) ** 2
        assert float(cosine[t]) == pytest.approx(exact, rel=1e-6)


def test_a_residual_denoiser_is_subtracted() -> None:
    images = torch.rand(SHAPE)
    noise = nn.Conv2d(3, 3, 1)
    assert torch.allclose(Plain(noise, "noise")(images), images - noise(images))
    assert torch.allclose(Plain(noise, "image")(images), noise(images))


FACTORIES = """
import torch
from torch import nn


def smooths():
    layer = nn.Conv2d(3, 3, 5, padding=2, groups=3, bias=False)
    layer.weight.data.fill_(1 / 25)
    return layer


class Eps(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Conv2d(3, 6, 3, padding=1)

    def forward(self, noisy, steps):
        return self.layer(noisy) * (1 + steps.view(-1, 1, 1, 1) / 1000)


def classifies():
    torch.manual_seed(0)
    return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 10))
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "denoising.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("factories", "_no_figures")
def test_a_pipeline_is_certified_verified_attacked_and_predicted(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--model", "denoising:classifies", "--denoiser", "denoising:Eps@schedule=cosine", "--data", "synthetic"]
    options = [*given, "--n", "60", "--alpha", ".01", "--images", "5", "--full"]
    for sigma in (".25", ".5"):
        assert bench("certify", *options, "--sigma", sigma, "--out", "runs/both") == 0
    run = read_run("runs/both")
    assert set(run.certificates["classifier"]) == {"denoised network"}
    assert set(run.trials["model"]) == {"denoising:Eps@schedule=cosine > denoising:classifies"}
    assert bench("verify", "runs/both") == 2  # a file must not say which code is run
    assert bench("verify", "runs/both", "--model", "denoising:classifies") == 2
    assert "names code, denoising:Eps@schedule=cosine: give --model" in capsys.readouterr().err
    named = ["--model", "denoising:classifies", "--model", "denoising:Eps"]
    assert bench("verify", "runs/both", *named) == 0
    assert "10 identical" in capsys.readouterr().out
    attack = ["--images", "5", "--steps", "1", "--samples", "2", "--n", "60"]
    status = bench("attack", "runs/both", *attack, *named)
    fell = re.search(r"(\d+) of [1-9]\d* certified images fell", capsys.readouterr().out)
    assert fell
    assert status == (fell[1] != "0")
    assert bench("predict", *given, "--sigma", ".25", "--n", "40", "--images", "3") == 0
    assert bench("predict", *given, "--n", "40") == 2
    assert "--sigma: must be given with --denoiser" in capsys.readouterr().err


@pytest.mark.usefixtures("factories")
def test_the_weights_of_both_and_the_step_of_sigma_make_a_pipeline() -> None:
    def opened(denoiser: str, sigma: float) -> Any:
        return open_model("denoising:classifies", denoiser, sigma)

    quarter, half = (opened("denoising:Eps@schedule=linear", sigma) for sigma in (0.25, 0.5))
    assert quarter.weights == half.weights
    assert quarter.model.denoiser.step < half.model.denoiser.step
    other = opened("denoising:smooths", 0.25)
    assert other.weights != quarter.weights
    images = torch.rand(4, 3, 32, 32)
    alone = open_model("denoising:classifies").model
    smooths = open_model("denoising:smooths").model
    with torch.inference_mode():
        assert torch.allclose(other.model(images), alone(smooths(images)))
        assert not torch.allclose(quarter.model(images), half.model(images))
    assert quarter.where == "denoising:Eps@schedule=linear > denoising:classifies"


@pytest.mark.usefixtures("factories")
def test_a_unet_of_diffusers_stands_before_a_published_network(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    shape: dict[str, Any] = {
        "sample_size": 32, "in_channels": 3, "out_channels": 3, "layers_per_block": 1, "block_out_channels": (8, 16),
        "norm_num_groups": 4, "down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2,
    }  # fmt: skip
    unet = diffusers.UNet2DModel(**shape)
    scheduler = diffusers.DDPMScheduler(beta_schedule="linear", prediction_type="v_prediction")
    unet.save_pretrained(tmp_path / "flat")
    scheduler.save_pretrained(tmp_path / "flat")
    unet.save_pretrained(tmp_path / "parts" / "unet")
    scheduler.save_pretrained(tmp_path / "parts" / "scheduler")
    model = load_model("denoising:classifies", 0.25, denoiser="ddpm:flat")
    assert isinstance(model, Denoised)
    assert isinstance(model.denoiser, OneShot)
    assert kind_of(model) == "denoised network"
    # x₀ as the scheduler itself has it, of one step without noise
    noisy = torch.rand(2, 3, 32, 32) + 0.25 * torch.randn(2, 3, 32, 32)
    shot = model.denoiser
    scaled = shot.signal * (2 * noisy - 1)
    with torch.inference_mode():
        answer = unet(scaled, torch.tensor([shot.step] * 2)).sample
        step: Any = scheduler.step(answer[:1], shot.step, scaled[:1])
        assert torch.allclose(shot(noisy)[:1], (step.pred_original_sample + 1) / 2, atol=1e-4)
        again = load_model("denoising:classifies", 0.25, denoiser=f"ddpm:{tmp_path / 'parts'}")
        assert torch.allclose(model(noisy), again(noisy))
    assert float(((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).sqrt()[shot.step]) == pytest.approx(
        0.5, rel=0.01
    )
    certificate = Smoothed(model, num_classes=10, precision="fp32").certify(
        torch.rand(1, 3, 32, 32), CertifySettings(n=30)
    )
    assert sum(certificate[0].counts) == certificate[0].n
    diffusers.ScoreSdeVeScheduler().save_pretrained(tmp_path / "parts" / "scheduler")
    with pytest.raises(SourceError, match="parts: its scheduler says no betas: must be one like DDPMScheduler"):
        load_model("denoising:classifies", 0.25, denoiser="ddpm:parts")
    diffusers.UNet2DModel(**shape, time_embedding_type="fourier").save_pretrained(tmp_path / "parts" / "unet")
    with pytest.raises(SourceError, match="is asked with a level of noise, and not with a step"):
        load_model("denoising:classifies", 0.25, denoiser="ddpm:parts")
    scheduler.register_to_config(prediction_type="flow")
    scheduler.save_pretrained(tmp_path / "flat")
    with pytest.raises(SourceError, match="flow"):
        load_model("denoising:classifies", 0.25, denoiser="ddpm:flat")


@pytest.mark.usefixtures("factories")
@pytest.mark.parametrize(
    ("denoiser", "message"),
    [
        ("denoising:Eps@schedule=square", "schedule = square: must be linear, cosine"),
        ("denoising:Eps@steps=5", "steps is no option of a denoiser: allowed are schedule, predicts"),
        ("denoising:Eps@predicts=velocity", "predicts = velocity: needs a schedule"),
        ("somewhere", "a denoiser must be MODULE:FACTORY or one of ddpm:NAME"),
        ("denoising:none", "has no attribute 'none'"),
    ],
)
def test_a_wrong_denoiser_gets_one_sentence(denoiser: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        load_model("denoising:classifies", 0.25, denoiser=denoiser)


def test_a_denoiser_alone_is_no_model() -> None:
    with pytest.raises(SourceError, match="is a denoiser, which stands before a model: give it as --denoiser"):
        load_model("ddpm:google/ddpm-cifar10-32", 0.25)
    with pytest.raises(SourceError, match="needs to be told sigma"):
        load_model("a:b", denoiser="a:c")
