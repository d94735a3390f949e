from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn

from bench.audit.attack import Attack
from bench.certify.lattice import LatticeSamples
from bench.certify.noise import NoiseSamples
from bench.certify.smoothing import Smoothed
from bench.machine.randomness import Role
from bench.models.classifier import build_model
from bench.models.decomposition import LinearDecomposition
from bench.models.external import ModelError
from results.bounds.radius import largest_radius
from results.store.settings import Arithmetic, CertifySettings

IMAGES = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class HalfSpace(nn.Module):
    """Class 1 where the mean pixel exceeds a threshold: its smoothed probabilities are known exactly."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, images: Tensor) -> Tensor:
        distance = images.mean(dim=(1, 2, 3)) - self.threshold
        return torch.stack([-distance, distance], dim=1)


def half_space(threshold: float = 0.45, sigma: float = 0.5) -> Smoothed:
    return Smoothed(HalfSpace(threshold), sigma, 2, precision="fp32", device="cpu")


def test_half_space_radii_are_sound_and_close() -> None:
    smoothed = half_space()
    for image, certificate in zip(IMAGES, smoothed.certify(IMAGES, CertifySettings(n=9000)), strict=True):
        # the boundary is a plane: the true radius is the distance to it, √d · |mean − threshold|
        distance = math.sqrt(image.numel()) * (float(image.mean()) - 0.45)
        true_radius = min(abs(distance), float(largest_radius(9000, 0.001, 0.5)))
        assert certificate.predicted == int(distance > 0)
        assert certificate.radius <= abs(distance)
        assert certificate.radius == pytest.approx(true_radius, rel=0.1)
        assert certificate.p_lower <= norm.cdf(abs(distance) / 0.5)


def test_certificate_invariants() -> None:
    smoothed = Smoothed(build_model("tiny", num_classes=10), 0.25, 10, device="cpu")
    for certificate in smoothed.certify(torch.rand(3, 3, 32, 32), CertifySettings(n0=20, n=300, alpha=0.01)):
        assert sum(certificate.counts) == certificate.n <= 300
        assert certificate.n == 300 or certificate.predicted == -1
        assert certificate.count_top == certificate.counts[certificate.selected]
        assert (certificate.predicted == -1) == (certificate.p_lower < 0.5) == (certificate.radius == 0)
        assert certificate.radius <= largest_radius(300, 0.01, 0.25)


def test_counts_of_an_image_depend_on_its_index_alone() -> None:
    smoothed = half_space()
    together = smoothed.certify(IMAGES, CertifySettings(n=700), seed=3)
    backwards = smoothed.certify(IMAGES.flip(0), CertifySettings(n=700), seed=3, indices=[4, 3, 2, 1, 0])[::-1]
    alone = [smoothed.certify(IMAGES[i : i + 1], CertifySettings(n=700), seed=3, indices=[i])[0] for i in range(5)]
    counts = [[certificate.counts for certificate in found] for found in (together, backwards, alone)]
    assert counts[0] == counts[1] == counts[2]


def test_streams_differ_between_seeds_images_stages_and_blocks() -> None:
    drawn: list[bytes] = []

    class Recorder(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            drawn.append(images[0].numpy().tobytes())
            return torch.zeros(len(images), 2)

    smoothed = Smoothed(Recorder(), 0.5, 2, precision="fp32", device="cpu")
    image = torch.full((3, 4, 4), 0.5)
    smoothed.engine.classifier(image.shape, 1)  # which tries the model
    drawn.clear()
    for seed in (0, 1):
        for role in (Role.SELECT, Role.ESTIMATE):
            for index in (0, 1):
                smoothed.class_counts(image, 3 * 64, seed, role, index)
    assert len(drawn) == 2 * 2 * 2 * 3
    assert len(set(drawn)) == len(drawn)


def test_more_copies_extend_the_same_stream() -> None:
    smoothed = half_space(float(IMAGES[0].mean()))  # either class in half of the samples
    for index in range(10):
        first, more = (smoothed.class_counts(IMAGES[0], n, 0, Role.ESTIMATE, index) for n in (64, 65))
        assert sorted((more - first).tolist()) == [0, 1]


@pytest.mark.parametrize("decomposed", [False, True])
def test_a_sample_is_the_same_in_batches_of_any_length(decomposed: bool) -> None:
    basis = torch.linalg.qr(torch.randn(192, 20, generator=torch.Generator().manual_seed(0))).Q
    layer = LinearDecomposition(torch.full((192,), 0.5), basis) if decomposed else None
    samples = NoiseSamples(0.5, torch.device("cpu"), layer)

    def first(count: int, batch: int, index: int) -> Tensor:
        batches = samples.batches(IMAGES[0], batch, 7, Role.ESTIMATE, index)
        return torch.cat([next(batches) for _ in range(-(-count // batch))])[:count]

    whole = first(300, 300, 3)
    assert not torch.equal(first(300, 300, 4), whole)
    for batch in (1, 7, 64, 256, 1000):
        if decomposed:  # the product is rounded otherwise in a batch of another length
            assert torch.allclose(first(300, batch, 3), whole, rtol=0, atol=1e-5)
        else:
            assert torch.equal(first(300, batch, 3), whole)


def test_noise_is_gaussian_with_sigma_and_not_clipped() -> None:
    seen: list[Tensor] = []

    class Recorder(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images.clone())
            return torch.zeros(len(images), 2)

    smoothed = Smoothed(Recorder(), 0.5, 2, precision="fp32", device="cpu")
    smoothed.engine.classifier(IMAGES.shape[1:], 1)  # which tries the model
    seen.clear()
    smoothed.class_counts(IMAGES[0], 512, 0, Role.ESTIMATE, 0)
    noise = (torch.cat(seen) - IMAGES[0]) / 0.5
    values = np.sort(noise.flatten().numpy())
    assert values.mean() == pytest.approx(0, abs=0.02)
    assert values.std() == pytest.approx(1, abs=0.02)
    assert float(torch.cat(seen).min()) < -0.5
    empirical = np.searchsorted(values, [-2, -1, 0, 1, 2]) / len(values)
    assert empirical == pytest.approx(norm.cdf([-2, -1, 0, 1, 2]), abs=0.01)


def test_noise_in_the_kept_subspace_has_the_distribution_of_projected_noise() -> None:
    """Both ways give the first logit its exact probability; they draw different numbers, so equality is statistical."""
    basis = torch.linalg.qr(torch.randn(3072, 50, generator=torch.Generator().manual_seed(0))).Q
    layer = LinearDecomposition(torch.full((3072,), 0.5), basis)
    torch.manual_seed(0)
    model = build_model("tiny", num_classes=10, decomposition=layer).eval()
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():  # an untrained model has one favourite class: level them
        head = next(module for module in model.modules() if isinstance(module, nn.Linear))
        head.bias.sub_(model(image + 0.5 * torch.randn(500, 3, 32, 32)).mean(dim=0))

    class Opaque(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = model(images)
            return logits

    n = 9000
    shares = [
        Smoothed(each, 0.5, 10, precision="fp32", device="cpu").class_counts(image, n, 0, Role.ESTIMATE, 0) / n
        for each in (model, Opaque())
    ]
    assert shares[0].max() < 0.9  # otherwise the comparison would say nothing
    assert torch.allclose(shares[0], shares[1], atol=5 * math.sqrt(0.25 / n) * math.sqrt(2))


def test_outcomes_that_are_fixed_beforehand_are_refused() -> None:
    image = torch.full((1, 3, 8, 8), 0.5)
    for n, alpha in ((9, 0.001), (1, 0.4), (16, 1e-5)):
        with pytest.raises(ValueError, match="certifies no image"):
            CertifySettings(n=n, alpha=alpha)
    with pytest.raises(ValueError, match="n must be at least 11"):
        CertifySettings(n=10, alpha=0.001, estimator="anytime")
    CertifySettings(n=11, alpha=0.001, estimator="anytime")
    with pytest.raises(ValueError, match="9e-101: must be at least 1e-100"):
        CertifySettings(alpha=9e-101)
    assert half_space(0.0).certify(image, CertifySettings(n=10, alpha=0.001))[0].status == "certified"
    for n, alpha in ((10, 0.001), (1, 0.999)):
        with pytest.raises(ValueError, match="abstains on every image"):
            half_space(0.2).predict(image, n=n, alpha=alpha)
    assert half_space(0.0).predict(image, n=11, alpha=0.001) == [1]
    with pytest.raises(ValueError, match="abstains on every image"):
        Attack(n=5)


def test_predict_answers_where_the_classes_are_far_apart_and_abstains_on_the_boundary() -> None:
    image = torch.full((1, 3, 8, 8), 0.5)
    assert half_space(0.2).predict(image, n=200) == [1]
    assert half_space(0.8).predict(image, n=200) == [0]
    assert half_space(0.5).predict(image, n=200, alpha=1e-6) == [-1]


@pytest.mark.parametrize("wrong", [{"n": 0}, {"n0": 0}, {"alpha": 0.0}, {"alpha": 1.0}, {"estimator": "best"}])
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        CertifySettings.model_validate(wrong)


def test_wrong_inputs_and_models_are_refused() -> None:
    with pytest.raises(ValueError, match="must lie in"):
        half_space().certify(IMAGES * 255)
    with pytest.raises(ValueError, match="must lie in"):
        half_space().certify(torch.full((1, 3, 8, 8), float("nan")))
    with pytest.raises(ValueError, match="sigma = 0"):
        half_space(sigma=0)
    with pytest.raises(ValueError, match="expected"):
        Smoothed(HalfSpace(0.5), 0.5, 10, device="cpu").certify(IMAGES)
    with pytest.raises(ValueError, match="NaN"):
        half_space(float("nan")).certify(IMAGES, CertifySettings(n=10))


def test_base_answers_are_those_of_the_model_to_the_image_and_to_one_sample_of_a_stream_of_their_own() -> None:
    smoothed = half_space(sigma=2.0)
    clean, noisy = smoothed.base_answers(IMAGES, 100, seed=3, indices=[4, 70, 134, 6, 198])  # 6 = 70 = 134 modulo 64
    model = HalfSpace(0.45)
    assert clean == model(IMAGES).argmax(dim=1).tolist()
    drawn = []
    for image, index in zip(IMAGES, [4, 70, 134, 6, 198], strict=True):
        sample = next(NoiseSamples(2.0, torch.device("cpu")).batches(image, 7, 3, Role.BASE, index))[:1]
        drawn.append(int(model(sample).argmax()))
    assert noisy == drawn
    assert noisy != clean


class OfPlace(nn.Module):
    """Class 1 for what stands second in a forward pass; asked about noise alone, as when it is tried, class 0."""

    def forward(self, images: Tensor) -> Tensor:
        second = (torch.arange(len(images)) == 1) & (images.flatten(1).amin(1) > 0.4)
        return torch.stack([~second, second], 1).float()


def test_the_place_in_a_forward_pass_is_that_of_the_index() -> None:
    """So that what is certified again, among other images, has the very same roundings."""
    smoothed = Smoothed(OfPlace(), 1e-6, 2, precision="fp32", device="cpu")
    images = torch.full((4, 3, 8, 8), 0.5)
    assert smoothed.base_answers(images, 100, indices=[1, 65, 2, 64])[0] == [1, 1, 0, 0]
    assert smoothed.base_answers(images[:1], 100, indices=[65])[0] == [1]


class Standardises(nn.Module):
    """NaN for an image of one colour."""

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        return ((flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True))[:, :2]


def test_what_fills_a_forward_pass_is_an_image() -> None:
    smoothed = Smoothed(Standardises(), 0.25, 2, precision="fp32", device="cpu")
    clean, _ = smoothed.base_answers(IMAGES, 100)
    assert clean == IMAGES.flatten(1)[:, :2].argmax(dim=1).tolist()
    with pytest.raises(ModelError, match="the model gave NaN"):
        smoothed.base_answers(torch.full((1, 3, 8, 8), 0.5), 100)


@pytest.mark.parametrize("arithmetic", ["float", "sound"])
def test_the_image_itself_is_the_mean_of_its_samples(arithmetic: Arithmetic) -> None:
    basis = torch.linalg.qr(torch.randn(192, 5, generator=torch.Generator().manual_seed(1)))[0]
    layer = LinearDecomposition(torch.full((192,), 0.5), basis)
    samples: NoiseSamples | LatticeSamples = NoiseSamples(0.25, torch.device("cpu"), layer)
    if arithmetic == "sound":
        samples = LatticeSamples(0.25, torch.device("cpu"))
    mean = next(samples.batches(IMAGES[0], 4000, 0, Role.BASE, 0)).mean(dim=0)
    assert samples.itself(IMAGES[0]).shape == IMAGES[0].shape
    assert float((samples.itself(IMAGES[0]) - mean).abs().max()) < 0.25 * 5 / math.sqrt(4000)
    if arithmetic == "float":  # what is projected
        assert torch.allclose(layer(IMAGES[:1])[0], samples.itself(IMAGES[0]), atol=1e-6)
