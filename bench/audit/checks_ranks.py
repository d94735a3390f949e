"""The check of `bench doctor` whether two processes can compute together; of all libraries it needs torch alone."""

from __future__ import annotations

import time
from datetime import timedelta

import torch
import torch.distributed as dist

from bench.audit.finding import Finding


def join_ranks(rank: int, address: str, until: float) -> Finding:
    """One of two ranks: join, add up, and see that the sum is right. The other one runs beside.

    Args:
        until: when it gives the other up (seconds since 1970); torch's import may keep one for longer than the other.
    """
    apart = torch.cuda.is_available() and torch.cuda.device_count() > 1
    device = torch.device("cuda", rank) if apart else torch.device("cpu")
    backend = "nccl" if apart else "gloo"
    if apart:
        torch.cuda.set_device(device)
    started = time.perf_counter()
    within = timedelta(seconds=max(1.0, until - time.time()))
    dist.init_process_group(backend, init_method=address, rank=rank, world_size=2, timeout=within)
    total = torch.full((1024,), float(rank + 1), device=device)
    dist.all_reduce(total)
    right = bool((total.cpu() == 3).all())
    seconds = time.perf_counter() - started
    dist.destroy_process_group()
    if not right:
        return Finding("ranks", "wrong", f"two ranks by {backend} add 1 and 2 to {float(total[0]):g}")
    return Finding("ranks", "right", f"two joined by {backend} and added up within {seconds:.1f} s")
