"""Models as they are out there: what they do must be certified rightly, or refused in a sentence."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any
from weakref import WeakSet

import pytest
import torch
from torch import Tensor, nn

from bench.audit.attack import smoothed_pgd
from bench.certify.engine import COMPILE_FROM, Engine
from bench.certify.examine import answers_of, difference
from bench.certify.smoothing import Smoothed
from bench.data import load_images
from bench.models.external import ModelError, alike
from results.store.settings import CertifySettings

CPU = torch.device("cpu")
SHAPE = torch.Size((3, 8, 8))


class Plain(nn.Module):
    """With a view that takes no channels-last images, as in much published code."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4 * 8 * 8, 10)

    def forward(self, images: Tensor) -> Any:
        features = self.convolution(images).relu()
        return self.head(features.view(features.shape[0], -1))


class Locked(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def forward(self, images: Tensor) -> Any:
        with self.lock:
            return super().forward(images)


class Remembers(Plain):
    def forward(self, images: Tensor) -> Any:
        self.last = super().forward(images)
        return self.last


class Gives(Plain):
    def __init__(self, wrapped: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.wrapped = wrapped

    def forward(self, images: Tensor) -> Any:
        return self.wrapped(super().forward(images))


class AtMost(Plain):
    """Fails on more images at once."""

    def __init__(self, most: int, failure: Exception) -> None:
        super().__init__()
        self.most, self.failure = most, failure

    def forward(self, images: Tensor) -> Any:
        if len(images) > self.most:
            raise self.failure
        return super().forward(images)


class Exactly(Plain):
    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch

    def forward(self, images: Tensor) -> Any:
        if len(images) != self.batch:
            raise AssertionError(f"Guard failed: x.size()[0] == {self.batch}")
        return super().forward(images)


def called(model: nn.Module) -> nn.Module:
    """After a forward pass with gradients, as at the end of a training."""
    model(torch.rand(2, *SHAPE))
    return model


def old_norm(norm: Callable[..., nn.Module]) -> nn.Module:
    model = Plain()
    norm(model.convolution)
    return called(model)


def exported(batch: int) -> nn.Module:
    module: nn.Module = torch.export.export(Plain().eval(), (torch.rand(batch, *SHAPE),)).module()
    return module


def traced() -> nn.Module:
    module: nn.Module = torch.jit.trace(Plain().eval(), torch.rand(2, *SHAPE))
    return module


MODELS: dict[str, Callable[[], nn.Module]] = {
    "plain": Plain,
    "weight_norm": lambda: old_norm(nn.utils.weight_norm),
    "spectral_norm": lambda: old_norm(nn.utils.spectral_norm),
    "scripted": lambda: torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 10)).eval()),
    "frozen": lambda: torch.jit.freeze(traced()),
    "traced": traced,
    "exported for 8 images": lambda: exported(8),
    "locked": Locked,
    "remembers": lambda: called(Remembers()),
    "tuple": lambda: Gives(lambda logits: (logits, logits.new_zeros(3), None)),
    "dictionary": lambda: Gives(lambda logits: {"logits": logits, "features": logits}),
    "object": lambda: Gives(lambda logits: SimpleNamespace(logits=logits, loss=None)),
    "one by one": lambda: AtMost(1, RuntimeError("The size of tensor a must match the size of tensor b")),
    "out of memory": lambda: AtMost(16, torch.OutOfMemoryError("CUDA out of memory.")),
    "no memory": lambda: AtMost(16, RuntimeError("DefaultCPUAllocator: can't allocate memory")),
}
PASSES = {"exported for 8 images": 8, "one by one": 1, "out of memory": 16, "no memory": 16}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", MODELS)
def test_models_of_all_kinds_are_certified_by_their_own_logits(name: str) -> None:
    torch.manual_seed(0)
    model = MODELS[name]()
    engine = Engine(model, CPU, "fp32")
    classify, _ = engine.classifier(SHAPE, 1)
    assert engine.passes(SHAPE) == PASSES.get(name, engine.batch(SHAPE))
    images = torch.rand(24, *SHAPE)
    with torch.inference_mode():
        found = classify(images)
        if name not in ("exported for 8 images", "spectral_norm"):
            model.eval()
        expected = torch.cat([unwrapped(model(part)) for part in images.split(min(8, engine.passes(SHAPE)))])
    assert torch.allclose(found, expected, atol=1e-5)
    [certificate] = Smoothed(model, 0.25, 10, precision="fp32", device="cpu").certify(
        torch.rand(1, *SHAPE), CertifySettings(n=100)
    )
    assert certificate.batch == engine.passes(SHAPE)
    assert sum(certificate.counts) == certificate.n


def unwrapped(answers: Any) -> Tensor:
    if isinstance(answers, dict | tuple):
        answers = answers["logits"] if isinstance(answers, dict) else answers[0]
    logits: Tensor = getattr(answers, "logits", answers)
    return logits


@pytest.mark.parametrize("name", ["locked", "dictionary", "one by one", "exported for 8 images"])
def test_models_of_all_kinds_can_be_attacked(name: str) -> None:
    torch.manual_seed(0)
    model = Engine(MODELS[name](), CPU, "fp32").differentiable(SHAPE)
    image, draw = torch.rand(SHAPE), torch.Generator().manual_seed(0)
    label = int(model(image[None]).argmax())
    noise = partial(torch.normal, 0.0, 0.1, (3, *SHAPE), generator=draw)
    moved = smoothed_pgd(model, image, label, radius=2.0, steps=4, noise=noise)
    assert float((moved - image).norm()) == pytest.approx(2.0, rel=1e-3)
    assert model(moved[None]).softmax(dim=1)[0, label] < model(image[None]).softmax(dim=1)[0, label]


class Filling(Plain):
    """On a device that has memory for what it computes of 40 images."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: WeakSet[Tensor] = WeakSet()

    def forward(self, images: Tensor) -> Any:
        held = images.clone()
        self.alive.add(held)
        if sum(len(each) for each in self.alive) > 40:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().forward(held)


def test_a_pass_that_did_not_fit_takes_no_room_from_the_next() -> None:
    assert Engine(Filling(), CPU, "fp32").passes(SHAPE) == 32


def test_a_given_batch_lets_a_model_of_that_batch_be_certified() -> None:
    engine = Engine(Exactly(10), CPU, "fp32")
    with pytest.raises(ModelError, match=r"not even one by one: AssertionError: Guard failed.*give --batch"):
        engine.classifier(SHAPE, 1)
    engine.limit(10)
    classify, _ = engine.classifier(SHAPE, 1)
    with torch.inference_mode():
        assert classify(torch.rand(64, *SHAPE)).shape == (64, 10)  # 10 does not divide 64


def test_a_model_of_one_batch_size_gets_it_where_its_images_would_come_in_smaller_passes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    shape = torch.Size((3, 224, 224))
    for batch in (8, 32, 64):
        model = nn.Sequential(nn.AdaptiveAvgPool2d(8), Exactly(batch))
        assert Engine(model, CPU, "fp32").passes(shape) == batch
    assert caplog.messages == [
        f"certifying in passes of {batch}: the model fails on fewer images at once" for batch in (32, 64)
    ]
    full = nn.Sequential(nn.AdaptiveAvgPool2d(8), AtMost(0, torch.OutOfMemoryError("CUDA out of memory.")))
    asked: list[int] = []
    full.register_forward_pre_hook(lambda _, given: asked.append(len(given[0])))
    with pytest.raises(ModelError, match="not even one by one"):
        Engine(full, CPU, "fp32").passes(shape)
    assert max(asked) == 8


@pytest.mark.slow
def test_small_passes_are_compiled_too() -> None:
    torch.manual_seed(0)
    engine = Engine(AtMost(16, MemoryError()), CPU, "fp32")
    images = torch.rand(64, *SHAPE)
    answers = []
    for samples, expected in ((1, "eager"), (COMPILE_FROM, "inductor")):
        classify, name = engine.classifier(SHAPE, samples)
        assert name == expected
        with torch.inference_mode():
            answers.append(classify(images))
    assert torch.allclose(answers[0], answers[1], atol=1e-5)


class OwnBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten())
        self.head = nn.Linear(144, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layers(images))
        return logits


class Drops(Plain):
    def forward(self, images: Tensor) -> Any:
        return nn.functional.dropout(super().forward(images), 0.01, training=True)


class Alternates(Plain):
    calls = 0

    def forward(self, images: Tensor) -> Any:
        self.calls += 1
        return super().forward(images) * (-1) ** self.calls


class Fails(Plain):
    def forward(self, images: Tensor) -> Any:  # noqa: ARG002
        raise KeyError("pixel_values")


class Late(Plain):
    """Fails on what noise at the edge of [0, 1] does not show."""

    def forward(self, images: Tensor) -> Any:
        if images.min() < -1:
            raise RuntimeError("out of range")
        return super().forward(images)


class Masked(nn.Module):
    """With one more class, which is never the answer."""

    def __init__(self, model: nn.Module, mask: float) -> None:
        super().__init__()
        self.model, self.mask = model, mask

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return nn.functional.pad(logits, (0, 1), value=self.mask)


class OfTheBatch(nn.Module):
    """The sign of a pixel's mean over the batch: of every image either answer has probability 1/2."""

    def forward(self, images: Tensor) -> Tensor:
        mean = (images[:, 0, 0, 0] - 0.5).mean().expand(len(images))
        return torch.stack([mean, -mean], dim=1)


@pytest.mark.parametrize("mask", [0.0, -1e3, -1e9, torch.finfo(torch.float32).min, -math.inf])
def test_a_class_that_is_masked_hides_nothing(mask: float) -> None:
    for model in (OwnBatch(), Drops(), OfTheBatch()):
        smoothed = Smoothed(Masked(model, mask), 1.0, 11, precision="fp32", device="cpu")
        with pytest.raises(ModelError, match=r"depends on the other images|differently each time"):
            smoothed.certify(torch.rand(1, *SHAPE), CertifySettings(n=1000))
    plain = Smoothed(Masked(Plain(), mask), 1.0, 11, precision="fp32", device="cpu")
    assert plain.certify(torch.rand(1, *SHAPE), CertifySettings(n0=10, n=10))[0].selected in range(10)


@pytest.mark.parametrize("mask", [-1e9, torch.finfo(torch.float32).min, -math.inf])
def test_a_class_that_is_masked_hides_no_other_model(mask: float) -> None:
    data = load_images("synthetic", "test").evenly(8)
    data = replace(data, images=data.pixels[:, :, :8, :8])

    def answers(seed: int) -> list[list[float]]:
        torch.manual_seed(seed)
        return answers_of(Engine(Masked(Plain(), mask), CPU, "fp32"), data)[1]

    assert difference(answers(0), answers(0)) == 0
    assert difference(answers(0), answers(1)) > 0


def test_logits_are_alike_up_to_roundings_of_what_matters() -> None:
    inf, nan = math.inf, math.nan
    expected = torch.tensor([[4.0, -20, -1e9, -inf, 0.01]])
    for row, same in (
        ([4.01, -20.01, -1.0005e9, -inf, 0.02], True),
        ([4.03, -20, -1e9, -inf, 0.01], False),
        ([4, -20, -1e9, -inf, 0.04], False),
        ([4, -20, -1.1e9, -inf, 0.01], False),
        ([4, -20, -1e9, -1e9, 0.01], False),
        ([4, -20, -inf, -inf, 0.01], False),
        ([4, -20, nan, -inf, 0.01], False),
    ):
        assert alike(torch.tensor([row]), expected, 1e-3).tolist() == [same]
    nothing, far = torch.tensor([[nan, 1.0]]), torch.tensor([[3e6, -3e6, 2.0]])
    assert alike(nothing, nothing, 1e-3)
    assert alike(far + 2e3, far, 1e-3)
    assert not alike(far + 5e3, far, 1e-3)
    # a row of small logits has the roundings of a network that gives larger ones to others
    batch = torch.tensor([[9.0, -9.0], [7.0, -8.0], [0.001, 0.0]])
    assert alike(batch + 0.007, batch, 1e-3).all()
    assert alike(batch + torch.tensor([[0.0], [0.0], [0.02]]), batch, 1e-3).tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (OwnBatch(), "depends on the other images of the batch"),
        (Drops(), "answers the same images differently each time"),
        (Alternates(), "answers the same images differently each time"),
        (Fails(), r"cannot take images \(3, 8, 8\), not even one by one: KeyError: 'pixel_values'"),
        (Late(), "the model failed: RuntimeError: out of range"),
        (Gives(lambda logits: (logits, logits)), "gave a tuple with 2 tensors"),
        (Gives(lambda _: "cat"), "gave a str with no tensors"),
        (Gives(lambda logits: logits[0]), r"gave \(10,\) for"),
    ],
)
def test_what_is_no_classifier_of_single_images_is_refused(model: nn.Module, message: str) -> None:
    smoothed = Smoothed(model, 1.0, 10, precision="fp32", device="cpu")
    with pytest.raises(ModelError, match=message):
        smoothed.certify(torch.rand(1, *SHAPE), CertifySettings(n=1000))
