"""The certificate of the expected softmax, of a classifier whose expectation is known."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy.integrate import quad
from scipy.special import expit
from scipy.stats import norm
from torch import Tensor, nn

from bench.audit.independent import AuditError, audit
from bench.audit.verify import _compare, verify_run
from bench.certify.smoothing import Smoothed
from bench.certify.soft import SoftmaxWeights
from bench.runner.single import run_single
from results.bounds.soft import EDGES, SCALE, UNIT
from results.report.update import update_report
from results.store.folder import RunFolder
from results.store.merge import MergeError, merge_run
from results.store.records import RunRecord
from results.store.run import read_run
from results.store.settings import CertifySettings, Estimator
from tests.conftest import small_trial

CPU = torch.device("cpu")
SIGMA = 0.5
SLOPE = 6.0


class Logistic(nn.Module):
    """Class 1 to the right of 1/2, and how surely."""

    def forward(self, points: Tensor) -> Tensor:
        distance = SLOPE * (points[:, 0] - 0.5)
        return torch.stack([torch.zeros_like(distance), distance], dim=1)


def expected(offset: float) -> float:
    return float(quad(lambda z: norm.pdf(z) * expit(SLOPE * (offset + SIGMA * z)), -9, 9)[0])


@pytest.mark.parametrize("estimator", ["fixed", "two-stage", "anytime"])
def test_its_radius_is_below_that_of_the_expectation_and_close(estimator: Estimator) -> None:
    points = torch.tensor([[0.5, 0.5], [0.7, 0.5], [0.9, 0.5], [1.0, 0.5]])
    smoothed = Smoothed(Logistic(), SIGMA, 2, precision="fp32", device="cpu")
    settings = CertifySettings(n=9000, estimator=estimator, soft=True)
    found = smoothed.certify(points, settings, labels=[1] * 4)
    plain = smoothed.certify(points, settings.model_copy(update={"soft": False}), labels=[1] * 4)
    for point, certificate, without in zip(points, found, plain, strict=True):
        assert certificate.counts == without.counts
        assert (without.radius_soft, without.soft_weights) == (None, None)
        assert certificate.soft_weights is not None
        assert sum(certificate.soft_weights) == certificate.n * UNIT
        true = SIGMA * norm.ppf(expected(float(point[0]) - 0.5))
        assert certificate.radius_soft is not None
        assert certificate.radius_soft <= max(true, 0)
        if true > 0.1:
            assert certificate.radius_soft > true - 0.15 * SIGMA
    [skipped] = smoothed.certify(points[:1], settings, labels=[5])
    assert (skipped.status, skipped.soft_weights) == ("misclassified", None)


def test_weights_say_where_the_softmax_was_whatever_the_batches() -> None:
    logits = torch.randn(3000, 10, generator=torch.Generator().manual_seed(0)) * 6
    whole, parts = SoftmaxWeights(3, CPU), SoftmaxWeights(3, CPU)
    whole.add(logits)
    for part in logits.flip(0).split(7):
        parts.add(part)
    assert whole.sums() == parts.sums()
    assert min(whole.sums()) >= 0
    x = logits.double().softmax(dim=1)[:, 3]
    mean = float(np.dot(whole.sums(), EDGES) / UNIT / SCALE / len(x))
    assert float(x.mean()) - 1 / SCALE <= mean <= float(x.mean())
    sure = SoftmaxWeights(1, CPU)
    sure.add(torch.tensor([[-1e4, 1e4], [1e4, -1e4], [0.0, 0.0]]))
    assert [(int(EDGES[place]), count) for place, count in enumerate(sure.sums()) if count] == [
        (0, UNIT),
        (SCALE // 2, UNIT),
        (SCALE, UNIT),
    ]


def test_settings_without_it_are_those_that_they_were() -> None:
    plain, soft = (small_trial("gaussian", certify={"n": 100, "soft": soft}) for soft in (False, True))
    assert "soft" not in str(plain._identity(without=set()))
    assert plain.trial_id != soft.trial_id
    assert plain.noise_seed("0" * 64) == soft.noise_seed("0" * 64)  # the same counts


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    train = {"epochs": 12, "decay_epochs": [10], "learning_rate": 0.2, "batch": 32, "images": 800, "precision": "fp32"}
    certify = {"n": 300, "n0": 20, "images": 20, "precision": "fp32", "soft": True}
    run = RunFolder(tmp_path_factory.mktemp("soft") / "run")
    for name, arithmetic in (("soft", "float"), ("soft_sound", "sound")):
        trial = small_trial("gaussian", name=name, train=train, certify={**certify, "arithmetic": arithmetic})
        assert run_single(trial, run, 8)
    return run


Change = Callable[[dict[str, Any]], dict[str, Any]]


def forge(run: RunFolder, how: Change) -> None:
    """Change the rows that have a radius, merged and in their shards."""
    shards = [path for trial in RunRecord.read(run.description).trials for path in run.trial(trial).shard_files()]
    for path in [run.certificates, *shards]:
        table = pq.read_table(path)
        rows = [row | how(row) if row["radius_soft"] else row for row in table.to_pylist()]
        pq.write_table(pa.Table.from_pylist(rows, table.schema), path)


@pytest.mark.usefixtures("_no_figures")
def test_a_run_from_training_to_audit(run: RunFolder) -> None:
    report = update_report(run)
    rows = read_run(run.path).certificates
    estimated = rows["n"] > 0
    assert (rows["radius_soft"].notna() == estimated).all()
    assert (rows["radius_soft"] > 0).any()
    assert (rows["radius_soft"].dropna() < rows["sigma"].iloc[0] * 3.9).all()
    beyond = next(table for table in report.tables if table.name == "beyond_acr")
    own = rows[rows["method"] == "soft"]
    mean = (own["radius_soft"].fillna(0) * (own["selected"] == own["label"])).mean()
    assert [row.measured["soft"] for row in beyond.rows if row.method == "soft"] == [pytest.approx(mean)]
    assert audit(Path(str(run.path)))["rows"] == 40
    verdicts = verify_run(run, 5, seed=0).verdicts
    assert {verdict.outcome for verdict in verdicts} == {"identical"}
    found = next(verdict.found for verdict in verdicts if verdict.found.soft_weights)
    assert found.soft_weights
    forged = found.model_copy(update={"soft_weights": [*found.soft_weights[1:], found.soft_weights[0]]})
    assert _compare(forged, found, 1e-3).outcome == "different"


@pytest.mark.parametrize(
    ("how", "merged", "audited"),
    [
        (lambda row: {"radius_soft": row["radius_soft"] * 1.001}, "radius_soft does not follow", "does not follow"),
        (lambda row: {"radius_soft": row["radius_soft"] * 0.999}, "radius_soft does not follow", "does not follow"),
        (lambda row: {"radius_soft": None}, "radius_soft is not where soft_weights are", "soft_weights are not of"),
        (lambda row: {"soft_weights": row["soft_weights"][1:]}, "soft_weights are not of n", "soft_weights are not of"),
        (
            lambda row: {"soft_weights": [UNIT, *row["soft_weights"][1:]]},
            "soft_weights are not of n",
            "soft_weights are not of",
        ),
    ],
)
def test_what_does_not_follow_is_refused(
    how: Change, merged: str, audited: str, run: RunFolder, tmp_path: Path
) -> None:
    own = RunFolder(Path(shutil.copytree(str(run.path), tmp_path / "run")))
    merge_run(own)
    forge(own, how)
    with pytest.raises(AuditError, match=audited):
        audit(tmp_path / "run")
    with pytest.raises(MergeError, match=merged):
        merge_run(own)
