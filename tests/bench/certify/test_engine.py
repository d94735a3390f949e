from __future__ import annotations

import logging
import math
import warnings
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.certify import engine
from bench.certify.engine import COMPILE_FROM, ROUNDINGS, Engine, _refuse_difference, fold_batch_norm
from bench.certify.noise import NoiseSamples
from bench.certify.smoothing import Smoothed
from bench.machine.randomness import Role
from bench.models.classifier import Classifier, Consensus, MeanLogits, build_model, kind_of
from bench.models.decomposition import LinearDecomposition
from bench.models.external import ModelError
from results.store.settings import CertifySettings

CPU = torch.device("cpu")
SHAPE = torch.Size((3, 32, 32))


def trained(name: str = "resnet8", seed: int = 0) -> Classifier:
    """A network whose batch norms hold statistics, and whose classes are level on noise."""
    torch.manual_seed(seed)
    model = build_model(name, num_classes=10, width=8)
    for _ in range(20):
        model(torch.rand(32, *SHAPE))
    model.eval()
    with torch.no_grad():
        head = next(module for module in model.modules() if isinstance(module, nn.Linear))
        head.bias.sub_(model(torch.rand(64, *SHAPE) * 0.5 + 0.25).mean(dim=0))
    return model


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@torch.no_grad()
def test_batch_norm_is_folded_and_the_outputs_stay() -> None:
    images = torch.rand(16, *SHAPE)
    members = [trained(seed=seed) for seed in range(3)]
    for model in (*members, MeanLogits(members).eval(), Consensus(members, 2).eval()):
        assert norms(model) > 0
        folded = fold_batch_norm(model, images)
        assert norms(folded) == 0
        assert torch.allclose(folded(images), model(images), atol=1e-4)


@torch.no_grad()
def test_a_model_that_tracing_would_change_is_left_as_it_is() -> None:
    class Fickle(nn.Module):
        """Its own noise would become a constant."""

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 30 * 30, 2))

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.layers(images + torch.randn(3, 32, 32))
            return logits

    model = Fickle().eval()
    assert fold_batch_norm(model, torch.rand(2, *SHAPE)) is model


class Normalised(nn.Module):
    """Without batch norm to fold: the engine takes the model itself."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5))
        self.network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images * self.mean)
        return logits


def test_gradients_for_the_image_go_through_whatever_could_not_be_folded() -> None:
    plain = trained("tiny")
    basis = torch.linalg.qr(torch.randn(3072, 7)).Q
    decomposed = Classifier(plain.network, LinearDecomposition(torch.rand(3072), basis), plain.mean, plain.std)
    for model in (plain, decomposed, Normalised()):
        images = torch.rand(2, *SHAPE, requires_grad=True)
        logits = Engine(model, CPU, "fp32").differentiable(SHAPE)(images)
        [gradient] = torch.autograd.grad(logits.square().sum(), images)
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("tiny", "fp32"),
        *(pytest.param("resnet8", precision, marks=pytest.mark.slow) for precision in ("fp32", "bf16")),
    ],
)
def test_compiled_classifiers_answer_like_eager_ones(name: str, precision: str) -> None:
    """Two networks of one architecture, compiled one after the other: what is kept on disk must not mix them up."""
    from torch._dynamo.utils import counters  # takes a second to import

    images = torch.rand(2, *SHAPE)
    for seed in (0, 1):
        engine = Engine(trained(name, seed), CPU, precision)
        eager, how = engine.classifier(SHAPE, 1)
        assert how == "eager"
        counters.clear()
        fast, how = engine.classifier(SHAPE, COMPILE_FROM)
        assert how == "inductor"
        assert counters["stats"]["unique_graphs"] == 1  # the example was of the kind that batches are of
        # Compiled for AVX-512 and found by a process without, its logits were off by 1e20.
        assert torch.backends.cpu.get_cpu_capability() in torch.compiler.config.cache_key_tag
        batch = images[:1] + 0.5 * torch.randn(
            (engine.batch(SHAPE), *SHAPE), generator=torch.Generator().manual_seed(seed)
        )
        batch = batch.contiguous(memory_format=torch.channels_last)
        draw = NoiseSamples(0.5, CPU).batches(images[0], engine.batch(SHAPE), 0, Role.ESTIMATE, 0)
        with torch.inference_mode():
            expected, found = eager(batch), fast(batch)
            with torch.compiler.set_stance("fail_on_recompile"):  # batches as certifications have them
                fast(next(draw))
        assert found.dtype == torch.float32
        tolerance = {"fp32": 1e-4, "bf16": 5e-2}[precision] * float(expected.abs().max())
        assert torch.allclose(found, expected, atol=tolerance)
        assert len(expected.argmax(dim=1).unique()) > 1  # otherwise the next line would say nothing
        assert (found.argmax(dim=1) == expected.argmax(dim=1)).float().mean() > 0.9


@pytest.mark.parametrize("shared", [False, True])
def test_compiled_networks_of_the_same_layers_are_asked_by_turns(shared: bool) -> None:
    """Each answers with its own weights, whether or not the second had the compiler forget the first."""
    engines = [Engine(trained("tiny", seed), CPU, "fp32") for seed in (0, 1)]
    if shared:
        engines[1].share_compiler()
    batch = torch.rand(engines[0].batch(SHAPE), *SHAPE).contiguous(memory_format=torch.channels_last)
    pairs = [(engine.classifier(SHAPE, 1)[0], engine.classifier(SHAPE, COMPILE_FROM)[0]) for engine in engines]
    with torch.inference_mode():
        for eager, fast in [*pairs, *pairs]:
            expected = eager(batch)
            assert torch.allclose(fast(batch), expected, atol=1e-4 * float(expected.abs().max()))


def test_what_gives_other_logits_each_time_is_not_used() -> None:
    calls = iter(range(100))
    engine._refuse_chance(lambda images: 2 * images, torch.ones(2, 3))
    with pytest.raises(ValueError, match="other logits each time"):
        engine._refuse_chance(lambda images: images + 1e-6 * next(calls), torch.zeros(2, 3))


def test_an_accelerator_that_is_lost_decides_nothing_for_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says is told, and the classifier is not taken for one that cannot be made fast."""

    def lost(_: torch.device) -> None:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    def fails(*_: object) -> Any:
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: fails)
    monkeypatch.setattr(torch.cuda, "synchronize", lost)
    monkeypatch.setattr(torch.cuda, "device_of", lambda _: nullcontext())
    assert engine.compile_frozen(torch.nn.Identity(), torch.rand(1, 1), "fp32") is None  # a CPU is not asked
    elsewhere: Any = SimpleNamespace(device=torch.device("cuda"), clone=lambda: torch.rand(1, 1))
    with pytest.raises(torch.AcceleratorError):
        engine.compile_frozen(torch.nn.Identity(), elsewhere, "fp32")
    opened = Engine(trained("tiny"), CPU, "fp32")
    with pytest.raises(torch.AcceleratorError):
        opened._captured("kernels", fails, torch.nn.Identity(), elsewhere)


@pytest.mark.filterwarnings("ignore:dynamo_pgo force disabled")
def test_without_a_compiler_it_says_so_once_and_runs_eagerly(caplog: pytest.LogCaptureFixture) -> None:
    from torch._inductor import config as inductor  # takes a second to import, also where files are only collected

    model = trained("tiny")
    image = torch.rand(*SHAPE)
    no_compiler = {"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}
    with inductor.patch(no_compiler), caplog.at_level(logging.INFO, "bench"):
        smoothed = Smoothed(model, 0.5, 10, precision="fp32", device="cpu")
        counts = [smoothed.class_counts(image, COMPILE_FROM, 0, Role.ESTIMATE, index) for index in (0, 0, 1)]
    [line] = [line for line in caplog.messages if "without compilation, which failed" in line]
    assert line.endswith(
        "InvalidCxxCompiler: No working C++ compiler found in torch._inductor.config.cpp.cxx: ('no-such-compiler',)"
    )
    assert smoothed.engine.classifier(SHAPE, COMPILE_FROM)[1] == "eager"
    assert counts[0].tolist() == counts[1].tolist() != counts[2].tolist()


@pytest.mark.parametrize("failing", [1, 2, 3])
@pytest.mark.parametrize("differs", [False, True])
def test_a_compiled_classifier_that_fails_or_differs_in_any_of_its_first_calls_is_not_used(
    failing: int, differs: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A CUDA graph is recorded in the second call and replayed in the third."""
    calls = 0

    def compiled(classify: Any, **_: Any) -> Any:
        def fast(images: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            if calls == failing and not differs:
                raise RuntimeError("no kernel image is available")
            logits: Tensor = classify(images)
            return logits * 1.01 if calls == failing else logits

        return fast

    monkeypatch.setattr(torch, "compile", compiled)
    engine = Engine(trained("tiny"), CPU, "fp32")
    assert engine.classifier(SHAPE, COMPILE_FROM)[1] == "eager"
    assert calls == failing
    assert ("differ from" if differs else "no kernel image") in caplog.messages[-1]


def test_a_classifier_that_answers_otherwise_after_a_while_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a graph computes with memory that others have got."""
    moved = 0.0
    monkeypatch.setattr(torch, "compile", lambda classify, **_: lambda images: classify(images) + moved)
    smoothed = Smoothed(trained("tiny"), 0.5, 10, precision="fp32", device="cpu")
    assert smoothed.engine.classifier(SHAPE, COMPILE_FROM)[1] == "inductor"
    smoothed.engine.check(SHAPE)
    moved = 1.0
    with pytest.raises(ModelError, match=r"run by inductor no longer answers as it did: logits of \d+ of"):
        smoothed.engine.check(SHAPE)


class Brightness(nn.Module):
    """Class 1 for bright images; noise is nearly as bright as not."""

    def __init__(self, at: float, logit: float = 0.0) -> None:
        super().__init__()
        self.at, self.logit = at, logit

    def forward(self, images: Tensor) -> Tensor:
        bright = images.mean(dim=(1, 2, 3)) - self.at
        return torch.stack([torch.zeros_like(bright), bright + self.logit], dim=1)


@pytest.mark.parametrize(("rounding", "engine"), [(1e-3, "inductor"), (4e-3, "eager")])
def test_roundings_may_decide_whether_a_consensus_asks_its_other_members(
    rounding: float, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a few images of every batch, whose logits are then others. Most are bright enough for one member."""
    fast: list[Any] = []

    def compiled(classify: Any, **_: Any) -> Any:
        fast.append(lambda images: classify(images + rounding))
        return fast[0]

    monkeypatch.setattr(torch, "compile", compiled)
    found = Engine(Consensus([Brightness(0.495), Brightness(0.7), Brightness(0.0, 50.0)], 2), CPU, "fp32")
    assert found.classifier(SHAPE, COMPILE_FROM)[1] == engine
    slow, _ = found.classifier(SHAPE, 1)
    images = torch.rand(found.passes(SHAPE), *SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        apart = (fast[0](images) - slow(images)).abs().amax(dim=1)
    assert (apart > 1).sum() > 0
    assert apart[apart < 1].max() < ROUNDINGS["fp32"] * 50


def test_what_a_compiler_advises_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU inductor warns that matrix products in fp32 are not in TF32."""

    def compiled(classify: Any, **_: Any) -> Any:
        def fast(images: Tensor) -> Tensor:
            warnings.warn("TensorFloat32 tensor cores available but not enabled", stacklevel=1)
            logits: Tensor = classify(images)
            return logits

        return fast

    monkeypatch.setattr(torch, "compile", compiled)
    assert Engine(trained("tiny"), CPU, "fp32").classifier(SHAPE, COMPILE_FROM)[1] == "inductor"


def test_few_copies_are_not_compiled_for_which_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    smoothed = Smoothed(trained("tiny"), 0.5, 10, device="cpu")
    with caplog.at_level(logging.INFO, "bench"):
        certificates = smoothed.certify(torch.rand(2, *SHAPE), CertifySettings(n=100))
    assert [certificate.engine for certificate in certificates] == ["eager", "eager"]
    assert caplog.messages == ["certifying without compilation: n = 100 is below 10000"]


@torch.no_grad()
def test_k_consensus_answers_as_the_first_members_do_where_they_agree() -> None:
    members = [trained("tiny", seed=seed) for seed in range(3)]
    images = torch.rand(64, *SHAPE)
    logits = torch.stack([member(images) for member in members])
    answers = logits.argmax(dim=2)
    agree = answers[0] == answers[1]
    assert 0 < int(agree.sum()) < 64
    asked: list[int] = []
    members[2].register_forward_hook(lambda _module, inputs, _outputs: asked.append(len(inputs[0])))
    model = Consensus(members, 2)
    found = model(images).argmax(dim=1)
    assert torch.equal(found[agree], answers[0][agree])
    assert torch.equal(found[~agree], logits.mean(dim=0).argmax(dim=1)[~agree])
    assert int((~agree).sum()) <= asked[0] <= 64  # and only there, filled up
    assert kind_of(model) == "2-consensus of 3"
    assert kind_of(MeanLogits(members)) == "mean of 3 logits"
    assert kind_of(members[0]) == "network"


@torch.no_grad()
def test_the_last_members_of_a_consensus_are_asked_in_a_few_sizes() -> None:
    members = [trained("tiny", seed=seed) for seed in range(3)]
    asked: list[int] = []
    members[2].register_forward_hook(lambda _module, inputs, _outputs: asked.append(len(inputs[0])))
    model = Consensus(members, 2)
    for count in (1, 3, 20, 47, 64, 100, 130, 130, 130):
        images = torch.rand(count, *SHAPE)
        logits = torch.stack([member(images) for member in members])
        split = logits[0].argmax(dim=1) != logits[1].argmax(dim=1)
        expected = logits.mean(dim=0).where(split[:, None], logits[:2].mean(dim=0))
        asked.clear()
        assert torch.allclose(model(images), expected, atol=1e-5)
        assert all(size in (16, 32, 64, 128, count) for size in asked)
        assert bool(asked) == bool(split.any())


@torch.no_grad()
def test_a_consensus_of_equal_members_is_the_member() -> None:
    """Also its softmax, which `soft` certifies, is neither sharper nor flatter."""
    member, images = trained("tiny"), torch.rand(8, *SHAPE)
    assert torch.allclose(Consensus([member] * 3, 2)(images), member(images), atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("mask", [0.0, -1e9, -math.inf])
def test_a_class_that_is_masked_hides_no_wrong_network(mask: float, monkeypatch: pytest.MonkeyPatch) -> None:
    def masked(network: nn.Module) -> nn.Module:
        return nn.Sequential(network, nn.ConstantPad1d((0, 1), mask))

    monkeypatch.setattr("bench.certify.engine._fold", lambda _: masked(trained("tiny", seed=1)))
    model, images = masked(trained("tiny")), torch.rand(4, *SHAPE)
    assert fold_batch_norm(model, images) is model
    with pytest.raises(ValueError, match="of 4 images differ from eager ones"):
        _refuse_difference(masked(trained("tiny", seed=1)), model, images, "fp32")
    _refuse_difference(model, model, images, "fp32")


@pytest.mark.slow
def test_ensembles_certify_compiled() -> None:
    members = [trained("tiny", seed=seed) for seed in range(3)]
    image = torch.rand(1, *SHAPE)
    for model in (MeanLogits(members), Consensus(members, 2)):
        smoothed = Smoothed(model, 0.5, 10, precision="fp32", device="cpu")
        [fast] = smoothed.certify(image, CertifySettings(n0=10, n=COMPILE_FROM))
        [slow] = smoothed.certify(image, CertifySettings(n0=10, n=COMPILE_FROM - 1))
        assert (fast.engine, slow.engine) == ("inductor", "eager")
        assert fast.selected == slow.selected
        if fast.n == COMPILE_FROM and slow.n == COMPILE_FROM - 1:
            assert abs(fast.count_top - slow.count_top) <= 5  # the same noise but for the last copy
