"""How fast certification is, beside a plain PyTorch loop: same model, same machine, one run, medians."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.audit.contest import DTYPES, Timed, conditions, forward_flops, layers_of, matrix_products, medians
from bench.certify.engine import BATCH, COMPILE_FROM, compile_frozen
from bench.certify.shard import OpenedModel, certified_rows
from bench.certify.smoothing import Smoothed
from bench.data import load_images
from bench.machine.devices import own_device
from bench.machine.hardware import compute_reproducibly, has_fast_bf16, release_memory
from bench.machine.randomness import Role
from bench.machine.reasons import is_out_of_memory
from bench.models.classifier import Classifier, build_model, channels_of
from bench.models.decomposition import LinearDecomposition
from bench.models.external import allowed_precision
from bench.models.shelf import is_on_shelf
from bench.models.sources import Source, SourceError, open_model
from results.store.settings import Precision
from results.store.shards import evenly_spaced

PLAIN_BATCHES = (1000, 512, 256, 128, 64, 32)
"""1000 is the default of the code published with Cohen et al. 2019."""
LARGE_PLAIN_BATCHES = (64, 32, 16, 8)
"""Of large images on a CPU."""
PLAIN = "torch's defaults (TF32 in convolutions, if there is such), eager, counted on the CPU every batch"
"""What the plain loop is, in what is printed."""
COPIES_OF_A_ROUND = 512
KEPT = 447
"""Directions of a linear decomposition as the thesis keeps them at σ = .25."""


def plain_counts(model: nn.Module, image: Tensor, n: int, *, sigma: float, num_classes: int, batch: int) -> Tensor:
    """The counts of CERTIFY as its publication states them: eager, a batch at a time, counted on the CPU; with torch's
    own defaults, which allow convolutions in TF32 and any algorithm of cuDNN."""
    counts = torch.zeros(num_classes, dtype=torch.int64)
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, deterministic=False, allow_tf32=True):
        for first in range(0, n, batch):
            samples = image.repeat((min(batch, n - first), 1, 1, 1))
            noise = torch.randn_like(samples) * sigma
            counts += torch.bincount(model(samples + noise).argmax(1), minlength=num_classes).cpu()
    return counts


def measure(model: str, *, sigma: float | None, rounds: int, images: int) -> dict[str, Any]:
    """`bench perf certify`: speed; for a trained model (RUN/TRIAL), where the device is fast in bf16, also what bf16
    does to its ACR; for one off the shelf at the size that it expects.

    Raises:
        ValueError: an unknown model; SourceError, CheckpointError, DataError: as `bench.models.sources.open_model`.
    """
    device = own_device()
    if is_on_shelf(model):
        return measure_published(
            open_model(model), sigma=0.25 if sigma is None else sigma, rounds=rounds, device=device
        )
    if "/" not in model:
        torch.manual_seed(0)
        network = build_model(model, num_classes=10)
        noise = 0.25 if sigma is None else sigma
        speed = measure_certify(network, 10, (3, 32, 32), sigma=noise, rounds=rounds, device=device)
        return {"model": f"{model}, untrained"} | speed
    source = open_model(model)
    if source.trial is None or not isinstance(source.model, Classifier):
        raise SourceError(f"{model}: must be a single network that this program trained")
    classes = _classes(source)
    noise = source.trial.sigma if sigma is None else sigma
    precisions = compare_precisions(source, noise, images) if has_fast_bf16(device) else {}
    shape = load_images(source.trial.data, "test", source.trial.dataset).images.shape[1:]
    speed = measure_certify(source.model, classes, shape, sigma=noise, rounds=rounds, device=device)
    return {"model": source.name} | precisions | speed


def measure_published(source: Source, *, sigma: float, rounds: int, device: torch.device) -> dict[str, Any]:
    """Samples per second of a model off the shelf, at the size that it expects: of the plain loop at several batch
    sizes, of certification in either precision, and of its network alone; and their ratios."""
    compute_reproducibly()
    size, channels = getattr(source.model, "size", None) or (224, 224), channels_of(source.model) or 3
    image = torch.rand(channels, *size, generator=torch.Generator().manual_seed(0))
    model = source.model.to(device)
    with torch.inference_mode():
        num_classes = model(image[None].to(device)).shape[1]
    batches, samples = (PLAIN_BATCHES, 2048) if device.type == "cuda" else (LARGE_PLAIN_BATCHES, 64)
    image = image.to(device)
    contestants: dict[str, Timed] = {}
    for batch in batches:
        work = partial(
            plain_counts, model, image, max(batch, samples), sigma=sigma, num_classes=num_classes, batch=batch
        )
        if device.type == "cpu" or _runs(work):
            contestants[f"plain_{batch}"] = work, max(batch, samples)
    low = has_fast_bf16(device) and allowed_precision(model, "auto") == "auto"
    precisions: list[Precision] = ["fp32", "bf16"] if low else ["fp32"]
    passes, compile_seconds = {}, {}
    for precision in precisions:
        smoothed = Smoothed(model, sigma, num_classes, precision=precision, device=device)
        drawn = -(-samples // smoothed.engine.batch(image.shape)) * smoothed.engine.batch(image.shape)
        started = time.perf_counter()
        _, engine = smoothed.engine.classifier(image.shape, COMPILE_FROM)
        compile_seconds[precision], passes[precision] = (
            time.perf_counter() - started,
            smoothed.engine.passes(image.shape),
        )
        for name, compiled_for in (("certify", COMPILE_FROM), ("certify_eager", 1)):
            count = partial(smoothed.class_counts, image, drawn, 0, Role.ESTIMATE, 0, compiled_for=compiled_for)
            contestants[f"{name}_{precision}"] = count, drawn
    flops = forward_flops(model, image)  # none of what onnxruntime computes
    for precision in precisions if flops else []:
        contestants[f"matrix_products_{precision}"] = matrix_products(flops, DTYPES[precision], device)
    rates = medians(contestants, rounds, device)
    best = max((batch for batch in batches if f"plain_{batch}" in rates), key=lambda batch: rates[f"plain_{batch}"])
    ratios = {}
    for precision in precisions:
        ours = rates[f"certify_{precision}"]
        ratios[f"certify_{precision} / plain_{best}, its best"] = ours / rates[f"plain_{best}"]
        ratios[f"compiled / eager, {precision}"] = ours / rates[f"certify_eager_{precision}"]
        if flops:
            roof = f"certify_{precision} / matrix products of as many operations"
            ratios[roof] = ours / rates[f"matrix_products_{precision}"]
    return {
        "model": source.where,
        "plain": PLAIN,
        "image": f"{channels} x {size[0]} x {size[1]}",
        **conditions(device, rounds),
        "engine": engine,
        "compile_seconds": compile_seconds,
        "passes": passes,
        **({"gigaflop_per_copy": flops / 1e9} if flops else {}),
        "plain_best_batch": best,
        "samples_per_second": rates,
        "ratios": ratios,
    }


def _runs(work: Callable[[], object]) -> bool:
    """Whether an accelerator's memory suffices for it."""
    try:
        work()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        release_memory()
        return False
    return True


def compare_precisions(source: Source, sigma: float, images: int, n: int = COMPILE_FROM) -> dict[str, Any]:
    """ACR of a trained model in fp32 and in bf16, with the same noise, on evenly spaced test images."""
    assert source.trial is not None
    trial = source.trial
    certify = trial.certify.model_copy(update={"n": n, "estimator": "fixed"})
    settings = trial.model_copy(update={"certify": certify})
    indices = evenly_spaced(len(load_images(trial.data, "test", trial.dataset)), images)
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    radii = {}
    for precision in precisions:
        smoothed = Smoothed(source.model, sigma, _classes(source), precision=precision)
        rows = certified_rows(OpenedModel(smoothed, "network", source.weights), settings, indices)
        radii[precision] = sum(row.radius * row.correct for row in rows) / len(rows)
    return {
        "precision_images": images,
        "precision_n": n,
        "acr_fp32": radii["fp32"],
        "acr_bf16": radii["bf16"],
        "acr_difference": radii["bf16"] - radii["fp32"],
    }


def _classes(source: Source) -> int:
    assert source.training is not None
    assert source.training.num_classes is not None
    return source.training.num_classes


def measure_certify(
    model: Classifier,
    num_classes: int,
    shape: tuple[int, ...],
    *,
    sigma: float,
    rounds: int,
    device: torch.device,
) -> dict[str, Any]:
    """Samples per second of the plain loop at several batch sizes, of certification and of its parts, and their ratios.

    In every round each contestant runs once, in the same order; a rate is the median over the rounds.

    Args:
        model: its own linear decomposition, if any, is left out; the cost of one is measured with a random basis.
        shape: of an image, (channel, height, width).
    """
    compute_reproducibly()
    image = torch.rand(*shape, generator=torch.Generator().manual_seed(0)).to(device)
    model = model.without_decomposition().to(device).eval()
    contestants = plain_loops(model, image, sigma, num_classes, bf16=has_fast_bf16(device))
    basis = torch.linalg.qr(torch.randn(image.numel(), KEPT, generator=torch.Generator().manual_seed(0))).Q
    random_basis = LinearDecomposition(torch.full((image.numel(),), 0.5), basis)
    decomposed = Classifier(model.network, random_basis, model.mean, model.std)
    compile_seconds = {}
    # Without matrix units for it, bf16 is emulated, a hundred times slower: nobody would certify so.
    precisions: list[Precision] = ["fp32", "bf16"] if has_fast_bf16(device) else ["fp32"]
    own = precisions[-1]
    kinds: list[tuple[str, Classifier, Precision]] = [(precision, model, precision) for precision in precisions]
    kinds.append((f"{own}_decomposed", decomposed, own))
    for name, classifier, precision in kinds:
        smoothed = Smoothed(classifier, sigma, num_classes, precision=precision, device=device)
        started = time.perf_counter()
        fast, engine = smoothed.engine.classifier(image.shape, COMPILE_FROM)
        compile_seconds[name] = time.perf_counter() - started
        certify = partial(smoothed.class_counts, image, COMPILE_FROM, 0, Role.ESTIMATE, 0)
        contestants[f"certify_{name}"] = certify, COMPILE_FROM
        if classifier is model:
            eager, _ = smoothed.engine.classifier(image.shape, 1)
            contestants[f"network_{name}"] = _repeated(fast, image, smoothed.engine.batch(image.shape), device)
            contestants[f"network_eager_{name}"] = _repeated(eager, image, smoothed.engine.batch(image.shape), device)
    contestants[f"convolutions_{own}"] = _convolutions(model, image, BATCH[device.type, own], own)
    flops = forward_flops(model, image.to(device))
    for precision in precisions:
        contestants[f"matrix_products_{precision}"] = matrix_products(flops, DTYPES[precision], device)
    with torch._dynamo.config.patch(recompile_limit=1000):  # more kinds of convolution than it keeps by default
        rates = medians(contestants, rounds, device)
    best = max(PLAIN_BATCHES, key=lambda batch: rates[f"plain_{batch}"])
    ours = rates[f"certify_{own}"]
    beside = {}
    if own == "bf16":
        best_bf16 = max(PLAIN_BATCHES, key=lambda batch: rates[f"plain_bf16_{batch}"])
        beside[f"certify_bf16 / plain_bf16_{best_bf16}, its best"] = ours / rates[f"plain_bf16_{best_bf16}"]
    return {
        "plain": PLAIN,
        **({"plain_bf16": "the same with a model in bf16, channels-last"} if beside else {}),
        **conditions(device, rounds),
        "engine": engine,
        "compile_seconds": compile_seconds,
        "gigaflop_per_copy": flops / 1e9,
        "plain_best_batch": best,
        "samples_per_second": rates,
        "ratios": {
            f"certify_{own} / plain_1000": ours / rates["plain_1000"],
            f"certify_{own} / plain_{best}, its best": ours / rates[f"plain_{best}"],
            f"certify_fp32 / plain_{best}, its best": rates["certify_fp32"] / rates[f"plain_{best}"],
            **beside,
            f"certify_{own} / its convolutions alone": ours / rates[f"convolutions_{own}"],
            f"certify_{own} / its network alone": ours / rates[f"network_{own}"],
            f"certify_{own} / matrix products of as many operations": ours / rates[f"matrix_products_{own}"],
            "certify_fp32 / matrix products of as many operations": rates["certify_fp32"]
            / rates["matrix_products_fp32"],
            f"compiled / eager, {own}": rates[f"network_{own}"] / rates[f"network_eager_{own}"],
            "with decomposition / without": rates[f"certify_{own}_decomposed"] / ours,
        },
    }


def plain_loops(model: nn.Module, image: Tensor, sigma: float, num_classes: int, *, bf16: bool) -> dict[str, Timed]:
    """The plain loop at several batch sizes; and, where it is asked for, with the model in bf16 and channels-last and
    no other change, as whoever has a device for it would write it."""
    networks = {"plain": model}
    if bf16:
        networks["plain_bf16"] = _InBF16(model)
    loops: dict[str, Timed] = {}
    for name, network in networks.items():
        for batch in PLAIN_BATCHES:
            n = batch * max(1, COPIES_OF_A_ROUND // batch)
            count = partial(plain_counts, network, image, n, sigma=sigma, num_classes=num_classes, batch=batch)
            loops[f"{name}_{batch}"] = count, n
    return loops


class _InBF16(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).to(torch.bfloat16).to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images.to(torch.bfloat16, memory_format=torch.channels_last))
        return logits


def _repeated(classify: Callable[[Tensor], Tensor], image: Tensor, batch: int, device: torch.device) -> Timed:
    noisy = torch.rand((batch, *image.shape), generator=torch.Generator().manual_seed(0)).to(device)
    noisy = noisy.contiguous(memory_format=torch.channels_last)
    repeats = max(1, COPIES_OF_A_ROUND // batch)

    @torch.inference_mode()
    def work() -> None:
        for _ in range(repeats):
            classify(noisy)

    return work, repeats * batch


def _convolutions(model: nn.Module, image: Tensor, batch: int, precision: str) -> Timed:
    """Every convolution of the model once, one after another, channels-last; on CPUs compiled and frozen like the
    engine. Layers of the same shape share one compilation; each runs as often as the model has it."""
    device = next(model.parameters()).device
    kinds: dict[object, tuple[Callable[[Tensor], Tensor], Tensor, int]] = {}
    for layer, shape in layers_of(model, image):
        key = (shape, layer.weight.shape, layer.stride)
        if key not in kinds:
            kind = DTYPES[precision]
            alone = copy.deepcopy(layer).to(kind).requires_grad_(False).to(memory_format=torch.channels_last)
            example = torch.rand((batch, *shape), device=device).to(kind).contiguous(memory_format=torch.channels_last)
            fast = alone if device.type == "cuda" else compile_frozen(alone, example, precision)
            kinds[key] = (alone if fast is None else fast, example, 0)
        fast, example, times = kinds[key]
        kinds[key] = (fast, example, times + 1)

    @torch.inference_mode()
    def work() -> None:
        for fast, example, times in kinds.values():
            for _ in range(times):
                fast(example)

    return work, batch
