"""More than a hundred faults, and the run is as if nothing had happened. Other seeds: `python -m tests.faults`."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from results.store.folder import RunFolder
from results.store.merge import merge_run
from tests.faults import damage, plan
from tests.faults.comparison import differences
from tests.faults.report import as_text
from tests.faults.watch import Ledger
from tests.faults.whole import FEWER, Outcome, disturb

FAULTS = 110


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_that_is_disturbed_a_hundred_times_ends_as_if_undisturbed(tmp_path: Path, seed: int) -> None:
    outcome = disturb(tmp_path / "faults", seed, *plan.draw(Random(seed), FAULTS))
    print(as_text(outcome))
    assert not outcome.problems
    assert len(outcome.faults) >= FAULTS
    happened = Counter((fault.kind, fault.stage) for fault in outcome.faults)
    assert happened["poisoned shard", "certification"] == 3
    skipped = {reason.partition(":")[0] for reason in outcome.skipped}
    for kinds in (plan.ENDING, plan.EXPECTED_TO_GO_ON, plan.NODES, plan.STALE_LOCKS):
        for (kind, stage), times in kinds.items():
            assert happened[kind, stage] == times or kind in skipped, (kind, stage)
    say_what_was_left_out(outcome)


@pytest.mark.slow
@pytest.mark.sample
@pytest.mark.timeout(1200)
def test_the_shortest_run_of_each_kind_ends_as_if_undisturbed(tmp_path: Path, seed: int) -> None:
    """One machine: the command is killed in training and in certification, and its disk is full; a cluster: a node
    dies. After each the same command goes on."""
    endings = [("kill command", "training"), ("kill command", "certification"), ("fill disk", "certification")]
    local = [*(plan.Act(last=plan.Fault(*ending)) for ending in endings), plan.Act()]
    cluster = [plan.Act(during=[plan.Fault("kill node", "certification")]), plan.Act()]
    outcome = disturb(tmp_path / "faults", seed, local, cluster, poisoned=False, grid=FEWER)
    print(as_text(outcome))
    assert not outcome.problems
    happened = {(fault.kind, fault.stage) for fault in outcome.faults}
    skipped = {reason.partition(":")[0] for reason in outcome.skipped}
    for kind, stage in (*endings, ("kill node", "certification")):
        assert (kind, stage) in happened or kind in skipped, (kind, stage)
    say_what_was_left_out(outcome)


def say_what_was_left_out(outcome: Outcome) -> None:
    """All else was as it should be; but a fault that cannot be caused here was not seen."""
    if outcome.skipped:
        pytest.skip("; ".join(outcome.skipped))


@pytest.fixture
def two_runs(fake_run: RunFolder, tmp_path: Path) -> tuple[Path, Path]:
    merge_run(fake_run)
    run = Path(str(fake_run.path))
    shutil.copy(run / "trials.parquet", run / "thumbnails.parquet")  # any table will do
    shutil.copytree(run, tmp_path / "other")
    return run, tmp_path / "other"


def change_a_count(run: Path) -> None:
    table = pd.read_parquet(run / "certificates.parquet")
    table.assign(count_top=table["count_top"] + 1).to_parquet(run / "certificates.parquet")


def repeat_a_row(run: Path) -> None:
    table = pq.read_table(run / "certificates.parquet")
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), run / "certificates.parquet")


def leave_a_temporary_file(run: Path) -> None:
    damage.leave_stray(Random(0), run / "run.json")


def cut_a_shard(run: Path) -> None:
    damage.truncate(Random(0), next(run.glob(damage.SHARD)))


@pytest.mark.parametrize("change", [change_a_count, repeat_a_row, leave_a_temporary_file, cut_a_shard])
def test_the_comparison_finds_what_is_wrong(two_runs: tuple[Path, Path], change: Callable[[Path], None]) -> None:
    assert differences(*two_runs) == []
    change(two_runs[1])
    assert differences(*two_runs)


def test_the_ledger_counts_what_is_done_again(fake_run: RunFolder) -> None:
    run = Path(str(fake_run.path))
    ledger = Ledger(run)
    ledger.look()
    shard = next(run.glob(damage.SHARD))
    table = pd.read_parquet(shard)
    table.assign(seconds=table["seconds"] + 1).to_parquet(shard)
    ledger.look()
    assert ledger.images_again.total() == len(table)
    ledger.forget_shard(shard)
    table.assign(seconds=table["seconds"] + 2).to_parquet(shard)
    ledger.look()
    assert ledger.images_again.total() == len(table)
