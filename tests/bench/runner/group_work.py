"""Work for a group that trains together and fails; apart from its test, for every process of a cluster imports it."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from bench.runner.trial_work import TrialWork


class OneRaises(TrialWork):
    """Two real ranks on gloo, which take leave as with NCCL: all at once, or never."""

    def epochs_left(self, task: Any) -> int:  # noqa: ARG002
        return 1

    def train(self, task: Any) -> None:
        import torch
        from torch import distributed

        from bench.machine.processes import join_group
        from bench.runner import work
        from results.errors import BenchError

        def leave() -> None:
            Path(task["folder"], "leave").touch()
            store = distributed.distributed_c10d._get_default_store()
            store.set(f"leaves {distributed.get_rank()}", "")
            store.wait([f"leaves {rank}" for rank in range(distributed.get_world_size())], timedelta(seconds=20))

        def train_model(*_: object) -> None:
            rank = join_group().process_index
            distributed.all_reduce(torch.zeros(1))
            waits = Path(task["folder"], "waits")
            if rank == 1:
                while not waits.exists():
                    time.sleep(0.02)
                raise BenchError("the loss became nan in epoch 0")
            waits.touch()
            try:
                distributed.all_reduce(torch.zeros(1))  # the other never comes
            except RuntimeError as error:
                if "imed out" in str(error):  # and not that the other was stopped first
                    Path(task["folder"], "collective").touch()
                raise

        distributed.destroy_process_group = leave  # type: ignore[assignment]
        work.train_model = train_model  # type: ignore[assignment]
        work.train_trial(task)

    def note(self, task: Any, state: dict[str, Any] | None) -> None:
        Path(task["folder"], "state.json").write_text(json.dumps(state))
