"""Runs of composed classifiers: certified from the command line, merged, audited, verified, attacked, shown."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torch import nn
from typer.testing import CliRunner

import bench.cli  # noqa: F401  # which registers the commands
from bench.audit.attack import Attack, attack_run
from bench.audit.independent import AuditError, audit
from bench.audit.verify import verify_run
from bench.certify.composed import smoothed_source
from bench.certify.engine import COMPILE_FROM, Engine
from bench.certify.shard import OpenedModel, agreement, settle_engine_of
from bench.cli.base import app
from bench.models.denoisers import OneShot
from bench.models.external import ModelError
from bench.models.sources import SourceError, from_trial, joined, open_model
from results import at_budget, read_run
from results.analysis.simultaneous import holding_together
from results.bounds.composition import composed_row
from results.errors import BenchError
from results.report.figures.curves import figure_certified_accuracy
from results.report.formats import to_csv, to_latex, to_markdown
from results.report.tables import table_beyond_acr, table_certified_accuracy
from results.store.folder import RunFolder, read_json, write_text
from results.store.merge import MergeError, merge_run
from results.store.settings import ComposedTrial, beacon_seed
from tests.conftest import trial_ids

MODELS = "tests.bench.audit.composed_models"
NEAREST, BRIGHT = f"{MODELS}:nearest", f"{MODELS}:bright"
FACTORIES = (NEAREST, BRIGHT)
COMMON = ["--data", "synthetic", "--n", "400", "--n0", "30", "--images", "30", "--precision", "fp32"]
DUAL = ["--selector", f"{BRIGHT}@0.25", "--classifier", f"{NEAREST}@0.25", "--classifier", f"{NEAREST}@0.5"]
SCALES = ["--classifier", f"{NEAREST}@2", "--classifier", f"{NEAREST}@0.5", "--classifier", f"{NEAREST}@0.25"]
Row = dict[str, Any]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a dual and of a multi-scale classifier, with certified, abstained and misclassified images."""
    path = tmp_path_factory.mktemp("composed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.cli.certify.merge_and_report", merge_and_write_table)
        for words in (DUAL, SCALES):
            result = CliRunner().invoke(app, ["certify", *words, *COMMON, "--out", str(path)], catch_exceptions=False)
            assert result.exit_code == 0, result.output
    rows = pq.read_table(path / "certificates.parquet").to_pylist()
    for name in ("dual", "multi-scale"):
        own = [row for row in rows if row["method"] == name]
        assert {row["status"] for row in own} == {"certified", "abstained", "misclassified"}
        assert len({row["sigma_input"] for row in own if row["status"] == "certified"}) >= 2
    return path


def merge_and_write_table(run: RunFolder) -> None:
    merge_run(run)
    write_text(run.tables / "certified_accuracy.csv", to_csv(table_certified_accuracy(read_run(run.path))))


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(finished, tmp_path / "run")))


def test_a_run_in_order_passes(finished: Path) -> None:
    assert audit(finished) == {"trials": 2, "rows": 60, "imported": 0, "beacons": {}}
    found = verify_run(RunFolder(finished), 8, seed=0, factories=FACTORIES)
    assert found.holds
    assert {verdict.outcome for verdict in found.verdicts} == {"identical"}
    with pytest.raises(SourceError, match=f"names code, {BRIGHT}: give --model {BRIGHT} to have it run"):
        verify_run(RunFolder(finished), 60, seed=0, factories=[NEAREST])


def test_rows_are_the_smaller_of_two(finished: Path) -> None:
    found = read_run(finished)
    rows = found.certificates
    for trial in found.trials.to_dict("records"):
        its = rows[rows["trial_id"] == trial["trial_id"]]
        counts = pd.concat([its["selector_selection_counts"].dropna(), its["selector_counts"].dropna()])
        samples = its["n"].sum() + its["n0"].sum() + sum(map(np.sum, counts))
        assert trial["certify_samples_per_second"] == pytest.approx(samples / its["seconds"].sum())  # of all parts
    own = rows[rows["status"] == "certified"]
    kept = own["selector_radius"].fillna(np.inf)
    assert (own["radius"] == np.minimum(own["classifier_radius"], kept)).all()
    assert (kept < own["classifier_radius"]).any()
    assert (kept > own["classifier_radius"]).any()
    assert set(rows["sigma"]) == {0.0}
    assert rows.groupby("method")["alpha_shares"].unique().map(list).to_dict() == {"dual": [2], "multi-scale": [5]}


def at(run: RunFolder, method: str, change: Callable[[Row], None], which: Callable[[Row], bool]) -> None:
    """Change the first such row of a trial in its shard."""
    folder = run.trial(next(name for name in trial_ids(run) if name.startswith(method)))
    for path in folder.shard_files():
        table = pq.read_table(path)
        rows = table.to_pylist()
        for row in rows:
            if which(row):
                change(row)
                pq.write_table(pa.Table.from_pylist(rows, table.schema), path)
                return
    raise AssertionError("no row is like that")


def follow(row: Row, alpha: float = 0.001) -> None:
    """All that follows from the counts, at another alpha than the row's."""
    found = composed_row(row, alpha)
    row.update(p_lower=found.p_lower, classifier_radius=found.classifier_radius, selector_radius=found.selector_radius)
    row.update(radius=found.radius, status="certified" if found.certified else "abstained")
    row.update(predicted=row["selected"] if found.certified else -1)
    row.update(correct=row["predicted"] == row["label"])


def certified(row: Row) -> bool:
    return row["status"] == "certified" and row["selector_radius"] is not None


def largest(row: Row) -> None:
    row["radius"] = max(row["classifier_radius"], row["selector_radius"])


def unshared(row: Row) -> None:
    row["alpha_shares"] = 1
    follow(row)


def one_more(row: Row) -> None:
    """A sample of the selector given to what it selects, with all that follows."""
    width = len(row["selector_counts"]) // len(row["selector_sigmas"])
    selected = int(np.argmax(row["selector_selection_counts"][:width]))
    other = next(place for place in range(width) if place != selected and row["selector_counts"][place])
    row["selector_counts"][selected] += 1
    row["selector_counts"][other] -= 1


def chosen_otherwise(row: Row) -> None:
    row["selector_selection_counts"].reverse()
    row["selector_counts"].reverse()
    follow(row)


def not_passed(row: Row) -> None:
    """As if nothing had been asked before."""
    row.update(selector_sigmas=[], selector_selection_counts=[], selector_counts=[])
    follow(row)


def rare_others(row: Row) -> None:
    """A scale that was passed, whose samples all gave the class: it would have answered."""
    n = sum(row["selector_counts"][:10])
    row["selector_counts"][:10] = [n if place == row["selected"] else 0 for place in range(10)]
    row["selector_selection_counts"][:10] = [30 if place == row["selected"] else 0 for place in range(10)]
    follow(row)


def fewer(row: Row) -> None:
    """A scale that was passed before all samples were drawn."""
    row["selector_counts"][row["selector_counts"].index(max(row["selector_counts"]))] -= 1
    follow(row)


Forgery = tuple[str, Callable[[Row], None], str, str]
FORGERIES: dict[str, Forgery] = {
    "the larger": ("dual", largest, "radius does not follow", "radius is"),
    "alpha not shared": ("dual", unshared, "alpha_shares is not the trial's 2", "shares of alpha are not those"),
    "alpha tripled": ("dual", lambda row: follow(row, 0.003), "p_lower does not follow", "does not follow from"),
    "alpha tripled, scales": ("multi", lambda row: follow(row, 0.003), "p_lower does not follow", "does not follow"),
    "a selector's radius": (
        "dual",
        lambda row: row.update(selector_radius=row["selector_radius"] * 1.001),
        "selector_radius does not follow from counts",
        "does not follow from",
    ),
    "no selector's radius": (
        "dual",
        lambda row: row.update(selector_radius=None, radius=row["classifier_radius"]),
        "selector_radius does not follow from counts",
        "",
    ),
    "another choice": ("dual", chosen_otherwise, "sigma_input is not that of the classifier", "its parts or their"),
    "another σ": ("dual", lambda row: row.update(sigma_input=1.0), "sigma_input is not that of", "its parts or their"),
    "another selector": (
        "dual",
        lambda row: row.update(selector_sigmas=[0.1]),
        "σ is not the trial's 0.25",
        "its parts",
    ),
    "a selection": (
        "dual",
        lambda row: row["selector_selection_counts"].__setitem__(0, 99),
        "do not sum to n0|sigma_input",
        "not the first of the most|its parts",
    ),
    "a scale forgotten": ("multi", not_passed, "sigma_input is not that of the scale after", "its parts or their"),
    "a scale that answers": ("multi", rare_others, "a scale was passed that is certified", "a class is above 1/2"),
    "a sample less": ("multi", fewer, "has 399 samples, 400 were to be drawn", "has 399 samples, 400 were"),
    "counts of other classes": (
        "multi",
        lambda row: row["selector_counts"].append(0),
        "selector_counts are not of",
        "counts of other classes",
    ),
    "a composition": ("multi", lambda row: row.update(composition="dual"), "composition is not the trial's", ""),
    "nothing composed": ("multi", lambda row: row.update(sigma_input=None), "sigma_input is missing", "its parts"),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_a_forged_row_is_found(what: str, run: RunFolder) -> None:
    """By the merge; and by the audit, where it is in the merged files as well."""
    method, change, by_merge, by_audit = FORGERIES[what]
    at(run, method, change, certified)
    with pytest.raises(MergeError, match=by_merge):
        merge_run(run)
    table = pq.read_table(run.certificates)
    rows = table.to_pylist()
    change(next(row for row in rows if row["method"].startswith(method) and certified(row)))
    pq.write_table(pa.Table.from_pylist(rows, table.schema), run.certificates)
    if by_audit:
        with pytest.raises(AuditError, match=by_audit):
            audit(Path(str(run.path)))


def test_counts_of_a_selector_decide(run: RunFolder) -> None:
    """A count moved in shard and file alike, with radii that were right before."""
    at(run, "dual", one_more, lambda row: certified(row) and min(row["selector_counts"]) > 0)
    with pytest.raises(MergeError, match="selector_radius does not follow from counts"):
        merge_run(run)


def test_other_alphas_follow_from_counts(finished: Path) -> None:
    """All certificates at once: each at a smaller alpha, shared as before; fewer samples would be other parts."""
    run = read_run(finished)
    for _, rows in run.certificates.groupby("trial_id"):
        together = holding_together(rows.assign(alpha=0.01), run.trials)
        for old, new in zip(rows.to_dict("records"), together.to_dict("records"), strict=True):
            expected = composed_row(old, 0.05 / 30) if old["status"] == "certified" else None
            assert new["radius"] == pytest.approx(expected.radius if expected else 0.0, rel=1e-9)
        with pytest.raises(BenchError, match="certificates of composed classifiers are not thinned"):
            at_budget(rows, 100, np.random.default_rng(0), trials=run.trials)


def test_tables_and_figures_say_per_input(finished: Path) -> None:
    run = read_run(finished)
    table = table_certified_accuracy(run)
    assert [row.sigma for row in table.rows] == [0.0, 0.0]
    assert "| per input | dual" in to_markdown(table)
    assert "per input & dual" in to_latex(table)
    assert to_csv(table).splitlines()[1].startswith("0.0,dual,")
    assert "two_sided" not in table_beyond_acr(run).rows[0].measured
    assert not [sentence for sentence in table.notes if "No radius can be above" in sentence]
    figure = figure_certified_accuracy(run)
    assert [panel.get_title() for panel in figure.axes] == ["σ per input"]


def test_an_attack_moves_images_against_the_part_that_answered(finished: Path) -> None:
    inside, accuracy, _ = attack_run(
        RunFolder(finished), 5, Attack(steps=1, samples=4, n=100), seed=0, factories=FACTORIES
    )
    assert not inside["fallen"].any()
    assert (accuracy["empirical"] >= accuracy["certified"]).all()
    assert inside["trial_id"].nunique() == 2


def test_by_a_beacon_and_behind_a_denoiser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All parts have noise that follows from the weights of all, and a denoiser for a σ of their own."""
    monkeypatch.setattr("bench.cli.certify.merge_and_report", merge_and_write_table)
    run, denoiser = RunFolder(tmp_path / "run"), f"{MODELS}:clean@schedule=linear,predicts=image"
    more = ["--beacon", "later", "--denoiser", denoiser, "--images", "6", "--n", "60", "--out", str(run.path)]
    result = CliRunner().invoke(app, ["certify", *DUAL, *COMMON, *more], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    [trial] = trial_ids(run)
    settings, record = (read_json(path) for path in (run.trial(trial).settings, run.trial(trial).training))
    weights = hashlib.sha256("\n".join(part["weights"] for part in settings["parts"]).encode()).hexdigest()
    rows = read_run(run.path).certificates
    assert set(rows["checkpoint_sha256"]) == {weights}
    assert set(rows["noise_seed"]) == {beacon_seed(weights, "later")}
    assert rows[["base_clean", "base_noisy", "radius_two_sided", "radius_soft"]].isna().all(axis=None)
    assert record["sources"] == [f"{denoiser} > {model}" for model in (BRIGHT, NEAREST, NEAREST)]
    assert settings["parts"][0]["model"] == f"{denoiser} > {BRIGHT}"
    factories = [denoiser, *FACTORIES]
    denoisers = [part.model.get_submodule("denoiser") for part in from_trial(run, trial, factories).parts]
    steps = [denoiser.step for denoiser in denoisers if isinstance(denoiser, OneShot)]
    assert steps[0] == steps[1] < steps[2]
    assert audit(tmp_path / "run")["beacons"] == {"later": 1}
    assert verify_run(run, 6, seed=0, factories=factories).holds


@pytest.mark.parametrize(("ways", "settled"), [(["cudnn", "triton"], "eager"), (["cudnn", "cudnn"], "cudnn")])
def test_parts_are_run_alike(ways: list[str], settled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As whoever certifies later settles all of them on what one word says."""
    parts = [{"model": NEAREST, "sigma": sigma, "weights": ""} for sigma in (0.5, 0.25)]
    certify = {"n": COMPILE_FROM, "precision": "fp32"}
    settings = ComposedTrial.model_validate(
        {"name": "scales", "composition": "multi-scale", "parts": parts, "model": "", "certify": certify}
    )
    source = joined([open_model(NEAREST)] * 2, "scales", settings.weights)
    made = iter(ways)
    monkeypatch.setattr(Engine, "classifier", lambda *_: (None, next(made)))
    run = RunFolder(tmp_path / "run")
    settle_engine_of(OpenedModel(smoothed_source(source, settings, 10), "", settings.weights), settings, run)
    assert agreement(run.trial(settings.trial_id)).engine == settled


@pytest.mark.parametrize("composition", ["dual", "multi-scale"])
def test_parts_are_in_the_precision_that_all_of_them_allow(composition: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.machine.hardware.has_fast_bf16", lambda _: True)
    parts = [{"model": "", "sigma": sigma, "weights": ""} for sigma in (0.5, 0.25, 0.25)]
    settings = ComposedTrial.model_validate(
        {"name": "composed", "composition": composition, "parts": parts, "model": ""}
    )
    opened = [open_model(name) for name in (BRIGHT, NEAREST, NEAREST)]
    mixed = [*opened[:2], replace(opened[2], model=InSingle(opened[2].model))]
    for sources, precision in ((opened, "bf16"), (mixed, "fp32")):
        classes = 2 if composition == "dual" else 10
        smoothed = smoothed_source(joined(sources, "composed", settings.weights), settings, classes)
        assert smoothed.precision == precision
    certify = settings.certify.model_copy(update={"precision": "bf16"})
    with pytest.raises(ModelError, match="the model computes in fp32 alone"):
        smoothed_source(
            joined(mixed, "composed", settings.weights), settings.model_copy(update={"certify": certify}), 10
        )


class InSingle(nn.Sequential):
    """As onnxruntime runs a model."""

    only_fp32 = True


def test_weights_of_another_part_are_found(run: RunFolder) -> None:
    trial = next(name for name in trial_ids(run) if name.startswith("dual"))
    settings = read_json(run.trial(trial).settings)
    settings["parts"][1]["weights"] = "0" * 64
    write_text(run.trial(trial).settings, json.dumps(settings))
    with pytest.raises(AuditError, match="its weights are not those of its parts"):
        audit(Path(str(run.path)))


def test_the_same_command_again_has_nothing_to_do(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.cli.certify.merge_and_report", merge_run)
    before = [path.stat().st_mtime_ns for path in Path(str(run.path)).rglob("shards/*")]
    result = CliRunner().invoke(app, ["certify", *DUAL, *COMMON, "--out", str(run.path)])
    assert result.exit_code == 0
    assert [path.stat().st_mtime_ns for path in Path(str(run.path)).rglob("shards/*")] == before
    record = read_json(run.trial(next(name for name in trial_ids(run) if name.startswith("dual"))).training)
    assert record["sources"] == [BRIGHT, NEAREST, NEAREST]
    assert record["source"] is None


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "give --model, or --classifier MODEL@SIGMA twice or more"),
        (["--classifier", f"{NEAREST}@0.25"], "give --model, or --classifier MODEL@SIGMA twice or more"),
        (["--model", NEAREST, *DUAL], "--model: give it alone, or --classifier"),
        ([*DUAL, "--sigma", "0.5"], "give each --classifier its own"),
        (["--classifier", NEAREST, *SCALES], r"must be MODEL@SIGMA, as in .*nearest@0\.25"),
        (["--classifier", f"{NEAREST}@-1", *SCALES], r"parts\.0\.sigma = -1\.0: "),
        ([*DUAL[:2], *SCALES], "bright gives 2 logits for an image, but selects among 3"),
        (["--classifier", f"{BRIGHT}@1", *SCALES], "bright gives 2 logits for an image, expected 10"),
        ([*SCALES, "--n", "12", "--alpha", "0.001"], "alpha is shared by 5 bounds: n = 12"),
        ([*SCALES * 3], "parts"),
        (
            [*DUAL, "--estimator", "anytime"],
            "estimator = anytime: must be fixed or two-stage for a composed classifier",
        ),
        ([*DUAL, "--soft"], "soft = true: a composed classifier has no expected softmax"),
        (["--classifier", "hf:some/model", *SCALES], "must be MODEL@SIGMA, as in hf:some/model@0.25"),
        (["--classifier", "timm:a@weights=random", *SCALES], "as in timm:a@weights=random@0.25"),
        (
            ["--classifier", "runs/some/trial", *SCALES, "--denoiser", f"{MODELS}:clean"],
            "--classifier runs/some/trial: @SIGMA must be given with --denoiser",
        ),
    ],
)
def test_what_cannot_be_composed_is_said(words: list[str], sentence: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["certify", "--data", "synthetic", "--out", str(tmp_path / "run"), *words])
    assert result.exit_code != 0
    assert result.exception is not None
    assert re.search(sentence, str(result.exception)), result.exception
