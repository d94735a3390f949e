"""The check of `bench doctor` whether two processes can compute together; of all libraries it needs torch alone."""

from __future__ import annotations

import time
from datetime import timedelta

import torch
import torch.distributed as dist

from bench.audit.finding import Finding

JOINS_WITHIN = timedelta(seconds=20)


def join_ranks(rank: int, address: str) -> Finding:
    """One of two ranks: join, add up, and see that the sum is right. The other one runs beside."""
    apart = torch.cuda.is_available() and torch.cuda.device_count() > 1
    device = torch.device("cuda", rank) if apart else torch.device("cpu")
    backend = "nccl" if apart else "gloo"
    if apart:
        torch.cuda.set_device(device)
    started = time.perf_counter()
    dist.init_process_group(backend, init_method=address, rank=rank, world_size=2, timeout=JOINS_WITHIN)
    total = torch.full((1024,), float(rank + 1), device=device)
    dist.all_reduce(total)
    right = bool((total.cpu() == 3).all())
    seconds = time.perf_counter() - started
    dist.destroy_process_group()
    if not right:
        return Finding("ranks", "wrong", f"two ranks by {backend} add 1 and 2 to {float(total[0]):g}")
    return Finding("ranks", "right", f"two joined by {backend} and added up within {seconds:.1f} s")
