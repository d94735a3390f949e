"""Counts must be the same, to the last one, whoever draws them, in which company and order."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from itertools import permutations, product

import numpy as np
import pytest
import torch
from numpy.random import MT19937, SeedSequence

from bench.certify.engine import COMPILE_FROM
from bench.certify.smoothing import Smoothed
from bench.machine.randomness import Role, derived_seed, generator, seeded, stream_key
from bench.models.classifier import build_model
from bench.models.decomposition import LinearDecomposition
from results.store.settings import CertifySettings

CPU = torch.device("cpu")
SCRIPT = """
import json, sys
from tests.bench.certify.test_exactness import certified
print(json.dumps([certified({n}, {indices}, {precision!r}, decomposed) for decomposed in (False, True)]))
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
    found = smoothed.certify(images[indices], CertifySettings(n0=50, n=n, alpha=0.001), seed=7, indices=indices)
    return [[certificate.selected, certificate.n, *certificate.counts] for certificate in found]


def by_another_process(n: int, indices: list[int], precision: str, threads: int) -> list[list[list[int]]]:
    """Without and with a decomposition."""
    script = SCRIPT.format(n=n, indices=indices, precision=precision)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    counts: list[list[list[int]]] = json.loads(result.stdout)
    return counts


@pytest.mark.parametrize(
    ("n", "precision"),
    [
        (300, "fp32"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in product((700, COMPILE_FROM), ("fp32", "bf16"))),
    ],
)
def test_counts_do_not_depend_on_workers_shards_order_or_restarts(n: int, precision: str) -> None:
    indices = [0, 3, 6]
    part = by_another_process(n, indices[1:], precision, threads=2)
    for decomposed in (False, True):
        together = certified(n, indices, precision, decomposed)
        assert len({tuple(counts) for counts in together}) == 3
        assert all(sorted(counts[2:])[-2] > 0 for counts in together)  # several classes: rounding would show
        assert certified(n, indices[::-1], precision, decomposed)[::-1] == together
        assert [certified(n, [index], precision, decomposed)[0] for index in indices[:1]] == together[:1]
        assert part[decomposed] == together[1:]


def streams() -> Iterator[tuple[int, ...]]:
    """(seed, role, indices) as the harness uses them, and the confusions that a careless key would make."""
    for seed in (0, 1, 2**32 - 1, 2**32, 2**32 + 1, 2**47):
        for role in Role:
            for first in (0, 1, 2, 9999):
                for second in (0, 1, 2, 1562):
                    yield seed, role, first, second
    yield from (key for key in permutations((0, 1, 2, 6, 7)) if key[1] in set(Role))


def test_no_two_streams_are_the_same() -> None:
    keys = set(streams())
    drawn = {bytes(generator(CPU, seed, Role(role), *indices).get_state().numpy()) for seed, role, *indices in keys}
    assert len(drawn) == len(keys) > 800
    assert len({bytes(stream_key(seed, Role(role), *indices)) for seed, role, *indices in keys}) == len(keys)


def test_what_others_draw_is_seeded_and_nobody_else_notices() -> None:
    def draw() -> tuple[float, ...]:
        return torch.rand(()).item(), random.random(), np.random.rand()  # noqa: NPY002

    def drawn(*indices: int) -> tuple[float, ...]:
        with seeded(CPU, 5, Role.TRAINING, *indices):
            return draw()

    state = torch.get_rng_state(), random.getstate(), str(np.random.get_state())  # noqa: NPY002
    assert drawn(0, 0) == drawn(0, 0)
    assert len({number for indices in ((0, 0), (0, 1), (1, 0)) for number in drawn(*indices)}) == 9
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (random.getstate(), str(np.random.get_state())) == state[1:]  # noqa: NPY002


def test_streams_have_more_than_the_32_bits_that_torch_keeps_of_a_seed() -> None:
    """Of two steps that share the low half of their seed: the first of this stream."""
    steps = (68_902, 96_702)
    one, other = (derived_seed(5, Role.AUGMENT, 3, step) for step in steps)
    assert one & 0xFFFFFFFF == other & 0xFFFFFFFF
    assert one != other
    drawn = [torch.randn(64, generator=generator(CPU, 5, Role.AUGMENT, 3, step)) for step in steps]
    assert not torch.equal(drawn[0], drawn[1])


def test_a_stream_is_the_mersenne_twister_with_its_own_state() -> None:
    """numpy's, given the same words, draws the same: torch's layout of a state is as `generator` takes it to be."""
    words = SeedSequence([5, Role.SELECT, 2, 3, 4]).generate_state(624, np.uint32).astype(np.uint32)
    words[0] = 1 << 31
    twister = MT19937()
    twister.state = {"bit_generator": "MT19937", "state": {"key": words, "pos": 624}}
    raw = twister.random_raw(2000).astype(np.uint64)
    expected = ((raw[0::2] << np.uint64(32)) | raw[1::2]) % np.uint64(2**40)
    drawn = torch.randint(0, 2**40, (1000,), generator=generator(CPU, 5, Role.SELECT, 3, 4))
    assert drawn.tolist() == expected.tolist()
