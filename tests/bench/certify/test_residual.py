"""Our ResNets by kernels in Triton: run by its interpreter, and lowered for GPUs that need not be there."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from bench.certify.residual import UnknownNetworkError, in_kernels
from bench.models.classifier import MeanLogits, build_model
from bench.models.decomposition import LinearDecomposition

triton = pytest.importorskip("triton")

INTERPRETED = """
import torch
from bench.certify import residual_kernels
from bench.certify.residual import in_kernels
from bench.models.classifier import Classifier, build_model
from bench.models.decomposition import LinearDecomposition

residual_kernels.PIXELS.update({16: 32, 32: 16, 64: 8})  # of small images, several products and several images
residual_kernels.STEM_PIXELS = 64
torch.manual_seed(0)
shape = torch.Size((3, 8, 8))

def trained(name):
    model = build_model(name, num_classes=10).train()
    for _ in range(3):
        model(torch.rand(64, *shape) + torch.randn(64, 1, 1, 1))
    return model.eval()

with torch.no_grad():
    plain = trained("resnet14")
    basis, other = torch.linalg.qr(torch.randn(192, 40)).Q, trained("resnet8")
    behind = Classifier(other.network, LinearDecomposition(torch.rand(192), basis), plain.mean, plain.std)
    images = torch.rand(3, *shape)  # of which the last stage takes two at a time
    last = images.contiguous(memory_format=torch.channels_last)
    for model, passes in ((plain, (images, last)), (behind, (last,))):
        fast, expected = in_kernels(model, shape, torch.float32), model(images)
        for given in passes:  # what one pass leaves behind must not matter to the next
            assert torch.allclose(fast(given), expected, atol=1e-5 * float(expected.abs().max())), type(model)
print("the same")
"""


def test_the_kernels_compute_what_the_network_does() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    result = subprocess.run([sys.executable, "-c", INTERPRETED], env=environment, capture_output=True, text=True)
    assert result.stdout == "the same\n", result.stderr


MOST_SHARED = 100_000
"""Bytes of a multiprocessor's shared memory that every such GPU gives to one program."""


def lowered(kernel: Any, types: dict[str, str], constants: dict[str, int], capability: int, **options: int) -> Any:
    """The kernel for a GPU that need not be there."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from bench.certify.residual_kernels import OPTIONS, WARPS

    pointers = [place for place, kind in enumerate(types.values()) if kind.startswith("*")]
    source = ASTSource(
        kernel,
        types | dict.fromkeys(constants, "constexpr"),
        constexprs=constants,
        attrs={(place,): [["tt.divisibility", 16]] for place in pointers},  # as torch aligns them
    )
    options = {"num_warps": WARPS, **OPTIONS, **options}
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


@pytest.mark.parametrize(
    ("capability", "product", "has_before", "side", "width"),
    [
        (80, "mma.sync", 1, 16, 32),
        (90, "wgmma.mma_async", 1, 16, 32),
        (90, "wgmma.mma_async", 0, 32, 16),
        (90, "wgmma.mma_async", 1, 8, 64),
    ],
)
def test_lowered_for_a_gpu_the_taps_are_pipelined_into_matrix_units(
    capability: int, product: str, has_before: int, side: int, width: int
) -> None:
    from bench.certify import residual_kernels as kernels

    tensors = ("before", "features", "inside", "first", "weight", "bias")
    types = dict.fromkeys(tensors, "*bf16") | {"bias": "*fp32", "tiles": "i32", "convolutions": "i32"}
    images, block = kernels.images_of_a_program(width, side), kernels.PIXELS[width]
    constants = {"has_before": has_before, "side": side, "width": width, "images": images, "block": block}
    constants["pipelined"] = kernels.PIPELINED
    found = lowered(kernels._stage_kernel, types, constants, capability, num_stages=kernels.PIPELINED)
    assert product in found.asm["ptx"]
    assert "cp.async" in found.asm["ptx"]
    assert found.metadata.shared < MOST_SHARED


@pytest.mark.parametrize("width", [16, 32])
def test_lowered_for_a_gpu_the_stem_is_one_product(width: int) -> None:
    from bench.certify import residual_kernels as kernels

    tensors = ("images", "mean", "std", "weight", "bias", "features")
    types = dict.fromkeys(tensors, "*fp32") | {"weight": "*bf16", "features": "*bf16", "pixels": "i32"}
    types |= {f"stride_{axis}": "i32" for axis in ("image", "channel", "row", "column")}
    constants = {"side": 32, "channels": 3, "width": width, "rows": 32, "block": kernels.STEM_PIXELS}
    found = lowered(kernels._stem_kernel, types, constants, 90)
    assert any(product in found.asm["ptx"] for product in ("wgmma.mma_async", "mma.sync"))
    assert found.metadata.shared < MOST_SHARED


def test_a_pass_is_four_launches_however_deep_the_network_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the head: one for the stem, and one for each stage."""
    from bench.certify import residual_kernels as kernels

    launched: list[str] = []
    for name in ("stem", "stage"):
        monkeypatch.setattr(kernels, name, lambda *_, name=name: launched.append(name))
    shape = torch.Size((3, 32, 32))
    fast = in_kernels(build_model("resnet20", num_classes=10).eval(), shape, torch.float32)
    with torch.inference_mode():
        fast(torch.rand(2, *shape))
    assert launched == ["stem", "stage", "stage", "stage"]


def test_networks_that_the_kernels_do_not_take() -> None:
    shape = torch.Size((3, 32, 32))
    resnet = build_model("resnet8", num_classes=10).eval()
    assert len(in_kernels(MeanLogits([resnet, resnet]), shape).members) == 2  # type: ignore[arg-type]
    resnet.decomposition = LinearDecomposition(torch.rand(3072), torch.eye(3072)[:, :4])
    in_kernels(resnet, shape)
    odd: list[tuple[nn.Module, tuple[int, ...]]] = [
        (nn.Conv2d(3, 4, 3), (3, 32, 32)),
        (build_model("tiny", num_classes=10), (3, 32, 32)),
        (MeanLogits([resnet, nn.Identity()]), (3, 32, 32)),
        (build_model("resnet8", num_classes=10, width=12), (3, 32, 32)),
        (build_model("resnet8", num_classes=10), (3, 28, 28)),
        (build_model("resnet8", num_classes=10), (3, 32, 64)),
    ]
    for model, other in odd:
        with pytest.raises(UnknownNetworkError):
            in_kernels(model.eval(), torch.Size(other))
