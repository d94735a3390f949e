"""Counts must be the same, to the last one, whoever draws them, in which company and order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import permutations

import pytest
import torch

from bench.decomposition import LinearDecomposition
from bench.engine import COMPILE_FROM
from bench.models import build_model
from bench.randomness import Role, derived_seed
from bench.smoothing import Smoothed

SCRIPT = """
import json, sys
from tests.bench.test_exactness import certified
print(json.dumps(certified({n}, {indices}, {precision!r}, {decomposed})))
"""


def certified(n: int, indices: list[int], precision: str, decomposed: bool) -> list[list[int]]:
    """Counts of some of eight images, by a residual network with or without a decomposition."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the same weights for all: sums over a batch depend on the threads
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(3072, 40)).Q
    layer = LinearDecomposition(torch.full((3072,), 0.5), basis) if decomposed else None
    model = build_model("resnet8", num_classes=10, width=8, decomposition=layer)
    images = torch.rand(8, 3, 32, 32)
    for _ in range(10):
        model(images + 0.5 * torch.randn(images.shape))
    model.eval()
    with torch.no_grad():  # level the classes
        head = next(module for module in model.modules() if isinstance(module, torch.nn.Linear))
        head.bias.sub_(model(images.repeat(8, 1, 1, 1) + 0.5 * torch.randn(64, 3, 32, 32)).mean(dim=0))
    torch.set_num_threads(threads)
    smoothed = Smoothed(model, 0.5, 10, precision=precision, device="cpu")  # type: ignore[arg-type]
    found = smoothed.certify(images[indices], n0=50, n=n, alpha=0.001, seed=7, indices=indices)
    return [[certificate.selected, certificate.n, *certificate.counts] for certificate in found]


def by_another_process(n: int, indices: list[int], precision: str, decomposed: bool, threads: int) -> list[list[int]]:
    script = SCRIPT.format(n=n, indices=indices, precision=precision, decomposed=decomposed, threads=threads)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    counts: list[list[int]] = json.loads(result.stdout)
    return counts


@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("n", [700, COMPILE_FROM])
def test_counts_do_not_depend_on_workers_shards_order_or_restarts(n: int, precision: str, decomposed: bool) -> None:
    indices = [0, 3, 6]
    together = certified(n, indices, precision, decomposed)
    assert len({tuple(counts) for counts in together}) == 3
    assert all(sorted(counts[2:])[-2] > 0 for counts in together)  # several classes: rounding would show
    assert certified(n, indices[::-1], precision, decomposed)[::-1] == together
    assert [certified(n, [index], precision, decomposed)[0] for index in indices[:1]] == together[:1]
    assert by_another_process(n, indices, precision, decomposed, threads=1) == together
    assert by_another_process(n, indices[2:], precision, decomposed, threads=2) == together[2:]


def streams() -> Iterator[tuple[int, ...]]:
    """(seed, role, indices) as the harness uses them, and the confusions that a careless key would make."""
    for seed in (0, 1, 2**32 - 1, 2**32, 2**32 + 1, 2**47):
        for role in Role:
            for image in (0, 1, 2, 9999):
                for block in (0, 1, 2, 1562):
                    yield seed, role, image, block
    yield from (key for key in permutations((0, 1, 2, 6, 7)) if key[1] in set(Role))


def test_no_two_streams_are_the_same() -> None:
    keys = set(streams())
    seeds = {derived_seed(seed, Role(role), *indices) for seed, role, *indices in keys}
    assert len(seeds) == len(keys) > 800
