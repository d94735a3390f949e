"""What is done with a trained model: certified in other ways, certified again, attacked, and certified in bf16."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load, save

from bench.audit.attack import Attack, attack_run, smoothed_pgd
from bench.audit.perf_certify import compare_precisions
from bench.certify.shard import OpenedModel, certified_rows
from bench.certify.smoothing import Smoothed
from bench.data import load_images
from bench.machine.hardware import peak_memory_bytes, resolve_precision, restart_peak_memory
from bench.models.classifier import build_model
from bench.models.sources import SourceError, load_model, open_model
from results import read_run
from results.bounds.anytime import Design, anytime_bound, look_sizes
from results.bounds.radius import certified_radius, lower_confidence_bound
from results.store.folder import RunFolder, read_json
from results.store.merge import merge_run
from results.store.rows import CertificateRow
from results.store.settings import CertifiedTrial, CertifySettings
from tests.command import bench
from tests.conftest import edit_record, here, small_trial, trial_ids, two_sided, without_figures

CERTIFY = {"n": 400, "n0": 30, "images": 30, "precision": "fp32"}
TRAIN = {"epochs": 10, "decay_epochs": [8], "learning_rate": 0.1, "batch": 64, "images": 600, "precision": "fp32"}


def trained_in(folder: Path, model: str) -> RunFolder:
    """A network on synthetic images, certified on 30."""
    trial = small_trial(model=model, width=8, certify=CERTIFY, train=TRAIN)
    (folder / "trial.json").write_text(trial.model_dump_json())
    with without_figures():
        assert bench("trial", str(folder / "trial.json"), "--out", str(folder / "run"), "--shard-size", "8") == 0
    return RunFolder(folder / "run")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return trained_in(tmp_path_factory.mktemp("trained"), "tiny")


def name_of(run: RunFolder) -> str:
    return f"{run.path}/{trial_ids(run)[0]}"


def test_a_trial_that_is_loaded_by_its_name_certifies_as_its_run_did(trained: RunFolder) -> None:
    trial = open_model(name_of(trained)).trial
    assert trial is not None
    rows = read_run(trained.path).certificates.iloc[:2]
    smoothed = Smoothed(load_model(name_of(trained)), precision=rows["precision"].iloc[0])
    assert (smoothed.sigma, smoothed.num_classes) == (0.25, 10)
    indices = rows["index"].tolist()
    found = smoothed.certify(
        images()[indices],
        trial.certify,
        seed=int(rows["noise_seed"].iloc[0]),
        indices=indices,
        labels=rows["label"].tolist(),
    )
    assert [certificate.counts for certificate in found] == [list(counts) for counts in rows["counts"]]


def test_the_model_is_worth_testing_on(trained: RunFolder) -> None:
    rows = read_run(trained.path).certificates
    assert rows["correct"].mean() > 0.4
    assert (rows["status"] == "misclassified").any()
    assert rows.loc[rows["status"] == "certified", "radius"].nunique() > 5


def test_rows_have_the_answers_of_the_base_classifier(trained: RunFolder) -> None:
    source = open_model(name_of(trained))
    rows = read_run(trained.path).certificates
    data = load_images("synthetic", "test", "synthetic")
    images = torch.from_numpy(data.images[rows["index"].to_numpy()]).float() / 255
    with torch.inference_mode():
        assert rows["base_clean"].tolist() == source.model.eval()(images).argmax(dim=1).tolist()
    right = [float((rows[name] == rows["label"]).mean()) for name in ("base_clean", "base_noisy")]
    assert min(right) > 0.25  # of ten classes, on 30 images
    assert rows["base_noisy"].tolist() != rows["base_clean"].tolist()


@pytest.mark.usefixtures("_no_figures")
def test_deleted_shards_come_back_identical_with_other_threads_and_shard_sizes(
    trained: RunFolder, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(here(trained.path), folder)
    [kept, *others] = sorted(folder.rglob("shards/*"))
    for path in others:
        path.unlink()
    stored, model = kept.stat().st_mtime_ns, next(folder.rglob("model.safetensors")).stat().st_mtime_ns
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert (
            bench("trial", str(here(trained.path).parent / "trial.json"), "--out", str(folder), "--shard-size", "7")
            == 0
        )
    finally:
        torch.set_num_threads(threads)
    assert kept.stat().st_mtime_ns == stored
    assert next(folder.rglob("model.safetensors")).stat().st_mtime_ns == model
    assert len(list(folder.rglob("shards/*"))) != 1 + len(others)
    before, after = (read_run(place).certificates.sort_values("index") for place in (trained.path, folder))
    for name in ("index", "label", "predicted", "radius", "checkpoint_sha256"):
        assert after[name].tolist() == before[name].tolist()
    assert [list(counts) for counts in after["counts"]] == [list(counts) for counts in before["counts"]]


@pytest.mark.slow
@pytest.mark.timeout(3600)  # where bf16 is emulated it takes a hundred times as long
def test_bf16_and_fp32_agree_in_acr(tmp_path: Path) -> None:
    found = compare_precisions(open_model(name_of(trained_in(tmp_path, "resnet8"))), 0.25, 250, n=2000)
    assert found["acr_fp32"] > 0.1
    assert found["acr_fp32"] != found["acr_bf16"]  # another classifier, if only just
    assert abs(found["acr_difference"]) < 0.002


@pytest.mark.usefixtures("_no_figures")
def test_skipping_misclassified_images_changes_no_table(trained: RunFolder, tmp_path: Path) -> None:
    arguments = ["--n", "400", "--n0", "30", "--images", "30", "--precision", "fp32", "--name", "same"]
    for folder, more in (("skipped", []), ("full", ["--full"])):
        assert bench("certify", "--model", name_of(trained), "--out", str(tmp_path / folder), *arguments, *more) == 0
    skipped, full = (read_run(tmp_path / folder).certificates for folder in ("skipped", "full"))
    left_out = skipped["status"] == "misclassified"
    assert left_out.any()
    assert (full["n"] > 0).all()
    assert not (full["status"] == "misclassified").any()
    assert not full.loc[left_out, "correct"].any()
    assert (skipped["radius"] * skipped["correct"]).tolist() == (full["radius"] * full["correct"]).tolist()
    tables = [(tmp_path / folder / "tables" / "certified_accuracy.csv").read_text() for folder in ("skipped", "full")]
    assert tables[0] == tables[1]


@pytest.mark.usefixtures("_no_figures")
def test_two_stage_rows_say_so_and_have_their_true_n(trained: RunFolder, tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    arguments = ["--n", "960", "--images", "30", "--estimator", "two-stage"]
    assert bench("certify", "--model", name_of(trained), "--out", out, *arguments) == 0
    rows = read_run(out).certificates
    assert set(rows["estimator"]) == {"two-stage"}
    assert (rows["counts"].map(sum) == rows["n"]).all()
    assert (
        "n = 960 at most (curtailed two-stage sampling)"
        in (tmp_path / "run" / "tables" / "certified_accuracy.md").read_text()
    )


@pytest.mark.usefixtures("_no_figures")
def test_rows_that_were_stopped_by_their_answers_follow_from_their_counts(
    trained: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    arguments = ["--n", "960", "--images", "30", "--estimator", "anytime"]
    assert bench("certify", "--model", name_of(trained), "--out", out, *arguments) == 0
    rows = read_run(out).certificates
    estimated = rows[rows["n"] > 0]
    assert set(estimated["n"]) <= set(look_sizes(960))
    assert rows["radius_two_sided"].isna().all()
    design = Design.of(estimated["selection_counts"].map(max).to_numpy(), 100, 960, 0.001)
    bounds = anytime_bound(estimated["count_top"], estimated["n"], design, 0.001)
    assert estimated["p_lower"].to_numpy() == pytest.approx(bounds, rel=1e-12)
    assert "n = 960 at most (anytime-valid bounds)" in (tmp_path / "run/tables/certified_accuracy.md").read_text()
    beyond = (tmp_path / "run" / "tables" / "beyond_acr.csv").read_text().splitlines()
    [line] = csv.DictReader(beyond)
    assert line["two_sided"] == ""
    assert line["together"] == line["acr_960"]  # of so few images each holds at alpha
    capsys.readouterr()
    assert bench("verify", out, "--images", "30") == 0
    assert "30 identical" in capsys.readouterr().out


@pytest.mark.usefixtures("_no_figures")
def test_a_stored_model_keeps_the_record_of_its_training(trained: RunFolder, tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    assert bench("certify", "--model", name_of(trained), "--n", "100", "--images", "5", "--out", out) == 0
    row = read_run(out).trials.iloc[0]
    original = read_run(trained.path).trials.iloc[0]
    for key in ("train_seconds", "memory_bytes", "checkpoint_sha256", "model", "sigma", "seed"):
        assert row[key] == original[key]


@pytest.fixture(scope="module")
def drawn() -> dict[tuple[str, str, int], CertificateRow]:
    """Rows that were certified again, by model, settings and image."""
    return {}


@pytest.fixture
def _drawn_once(drawn: dict[tuple[str, str, int], CertificateRow], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is certified again is the same whatever was changed in the run: the first test draws it."""

    def once(model: OpenedModel, settings: CertifiedTrial, indices: list[int]) -> list[CertificateRow]:
        keys = [(model.sha256, settings.model_dump_json(), index) for index in indices]
        new = [index for key, index in zip(keys, indices, strict=True) if key not in drawn]
        for row in certified_rows(model, settings, new) if new else []:
            drawn[*keys[0][:2], row.index] = row
        return [drawn[key] for key in keys]

    monkeypatch.setattr("bench.audit.verify.certified_rows", once)


@pytest.fixture
def forged(trained: RunFolder, tmp_path: Path) -> Callable[[Callable[[dict[str, Any]], dict[str, Any]]], Path]:
    """Writes a copy of the run whose rows are changed; gives its folder."""

    def forge(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
        folder = tmp_path / "forged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(here(trained.path), folder)
        table = pq.read_table(RunFolder(folder).certificates)
        rows = [row | change(row) for row in table.to_pylist()]
        pq.write_table(pa.Table.from_pylist(rows, table.schema), here(RunFolder(folder).certificates))
        return folder

    return forge


GPU = {"device": "another GPU", "device_kind": "cuda"}
OTHER_CPU = {"device": "another processor"}


def consistent(row: dict[str, Any], counts: list[int]) -> dict[str, Any]:
    """All that follows from other counts of the samples that were drawn."""
    n, top = sum(counts), counts[row["selected"]]
    p_lower = float(lower_confidence_bound(top, n, row["alpha"])) if n else 0.0
    predicted = row["selected"] if p_lower >= 0.5 else -1
    status = "misclassified" if not n else "certified" if predicted >= 0 else "abstained"
    radius = float(certified_radius(p_lower, row["sigma"]))
    beside = two_sided(counts, row["selected"], row["alpha"], row["sigma"]) if n == 400 else None
    return {
        "radius_two_sided": beside,
        "counts": counts, "n": n, "count_top": top, "p_lower": p_lower, "predicted": predicted, "radius": radius,
        "status": status, "correct": predicted == row["label"],
    }  # fmt: skip


def moved(row: dict[str, Any], by: int) -> dict[str, Any]:
    """With some samples of the selected class given to the next one."""
    counts = list(row["counts"])
    if row["status"] == "certified" and counts[row["selected"]] - by > 0.6 * row["n"]:
        counts[row["selected"]] -= by
        counts[(row["selected"] + 1) % 10] += by
    return consistent(row, counts)


def half_the_errors(row: dict[str, Any]) -> dict[str, Any]:
    """Every count raised by half of its errors."""
    if row["status"] != "certified":
        return {}
    counts = [count // 2 for count in row["counts"]]
    counts[row["selected"]] = row["n"] - sum(counts) + counts[row["selected"]]
    return consistent(row, counts)


def claimed(row: dict[str, Any]) -> dict[str, Any]:
    """A misclassified image, claimed as certified."""
    if row["status"] != "misclassified":
        return {}
    everything = [row["n0"] if k == row["label"] else 0 for k in range(10)]
    row = row | {"selected": row["label"], "selection_counts": everything}
    return row | consistent(row, [400 if k == row["label"] else 0 for k in range(10)])


def drawn_again(row: dict[str, Any]) -> dict[str, Any]:
    """Counts as other noise may give them."""
    random = np.random.default_rng(row["index"])
    if row["status"] != "certified" or row["count_top"] < 320:
        return {}
    return consistent(row, random.multinomial(row["n"], np.array(row["counts"]) / row["n"]).tolist())


def other_base(row: dict[str, Any]) -> dict[str, Any]:
    """Another answer of the base classifier to the noise sample that is its own."""
    return {"base_noisy": (row["base_noisy"] + 1) % 10}


@pytest.mark.usefixtures("_drawn_once")
@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        (lambda _: {}, 0, "30 of 30 rows certified again: 30 identical: no row is wrong"),
        (lambda _: OTHER_CPU, 0, "30 of 30 rows certified again: 30 identical: no row is wrong"),
        (lambda row: moved(row, 1) | OTHER_CPU, 0, "within rounding: no row is wrong"),
        (lambda row: moved(row, 1) | GPU, 0, "within rounding: no row is wrong"),
        (lambda row: moved(row, 6) | GPU, 1, "at least 6 of the same 400 samples are classified otherwise"),
        (lambda row: moved(row, 1), 1, " different"),
        (lambda row: drawn_again(row) | GPU, 1, "of the same 400 samples are classified otherwise"),
        (lambda row: claimed(row) | GPU, 1, "of the same 30 samples are classified otherwise"),
        (lambda row: half_the_errors(row) | GPU, 1, "together they differ in one direction by more than chance"),
        (lambda row: other_base(row), 1, "the base classifier answers otherwise"),
        (lambda row: other_base(row) | GPU, 1, "answers more of them otherwise than roundings explain"),
        (lambda row: {} if row["index"] else other_base(row) | GPU, 0, "1 within rounding: no row is wrong"),
        (lambda _: {"base_clean": 10}, 2, "base_clean is not a class"),
        (lambda row: {"radius": 0.99 * row["radius"]}, 2, "radius does not follow from p_lower"),
    ],
)
def test_verify_tells_what_may_be_from_what_cannot(
    forged: Callable[[Callable[[dict[str, Any]], dict[str, Any]]], Path],
    change: Callable[[dict[str, Any]], dict[str, Any]],
    status: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    folder = forged(change)
    capsys.readouterr()
    assert bench("verify", str(folder)) == status
    output = capsys.readouterr()
    assert said in " ".join((output.out + output.err).split())


def test_verify_names_labels_that_the_data_has_not(
    forged: Callable[[Callable[[dict[str, Any]], dict[str, Any]]], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    def relabelled(row: dict[str, Any]) -> dict[str, Any]:
        """A misclassified image, with the class that was selected for its label, and estimated."""
        if row["status"] != "misclassified":
            return {}
        row = row | {"label": row["selected"]}
        return row | consistent(row, [400 if k == row["selected"] else 0 for k in range(10)])

    assert bench("verify", str(forged(relabelled)), "--images", "3") == 2
    assert "its label is not that of synthetic" in capsys.readouterr().err


@pytest.mark.parametrize(
    "attack",
    [Attack(steps=4, samples=4, n=300), pytest.param(Attack(steps=8, samples=8, n=1000), marks=pytest.mark.slow)],
)
def test_no_certified_image_falls_and_the_attack_is_no_sham(attack: Attack, trained: RunFolder) -> None:
    inside, accuracy, power = attack_run(trained, 30, attack, seed=0)
    assert power["attacked"].tolist() == [len(inside)] * 3
    assert power["fell"].is_monotonic_increasing or power["fell"].sum() == 0
    rows = read_run(trained.path).certificates
    assert len(inside) == (rows["status"] == "certified").sum()
    assert not inside["fallen"].any()
    assert (accuracy["empirical"] >= accuracy["certified"]).all()
    # beyond its radius an image may fall, and most do when it is doubled again and again
    source = open_model(name_of(trained))
    smoothed = Smoothed(source.model, 0.25, 10, precision="fp32", device="cpu")
    weakest = inside.sort_values("radius").iloc[:5]
    fallen = 0
    for index in weakest["index"]:
        image = images()[index]
        label = int(rows.set_index("index").loc[index, "predicted"])
        draw = torch.Generator().manual_seed(0)
        noise = partial(torch.normal, 0.0, 0.25, (8, *image.shape), generator=draw)
        moved_far = smoothed_pgd(source.model, image, label, radius=2.0, steps=8, noise=noise)
        assert float((moved_far - image).norm()) <= 2.0 * (1 + 1e-5)
        fallen += smoothed.predict_moved(moved_far, n=300, seed=0, index=int(index)) not in (label, -1)
    assert fallen >= 3


def test_radii_that_are_far_too_large_fall_and_are_certified_again(
    forged: Callable[[Callable[[dict[str, Any]], dict[str, Any]]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.audit.attack.JUDGING_SAMPLES", 2000)
    folder = RunFolder(forged(lambda row: {"radius": 6 * row["radius"]}))
    inside, _, power = attack_run(folder, 10, Attack(steps=4, samples=8, n=300), seed=0)
    fallen = inside[inside["fallen"]]
    assert len(fallen) >= 2
    assert (fallen["radius_again"] < fallen["radius"]).all()
    assert inside.loc[~inside["fallen"], "radius_again"].isna().all()
    assert power["fell"].min() >= 1


def test_a_wrong_answer_of_predict_is_no_fall(trained: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """PREDICT errs with probability alpha; fresh samples decide."""
    monkeypatch.setattr("bench.audit.attack.JUDGING_SAMPLES", 2000)
    monkeypatch.setattr("bench.certify.smoothing.Smoothed.predict_moved", lambda *_, **__: 9)
    inside, _, power = attack_run(trained, 8, Attack(steps=2, samples=4, n=1000), seed=0)
    wrong = (
        inside["answer"]
        != read_run(trained.path).certificates.set_index("index")["predicted"].loc[inside["index"]].to_numpy()
    )
    assert wrong.any()
    assert not inside["fallen"].any()
    assert power["fell"].min() == wrong.sum()


def images() -> torch.Tensor:
    return torch.from_numpy(load_images("synthetic", "test").images).float() / 255


def test_memory_does_not_grow_with_n_or_images() -> None:
    """Of a network that takes hardly any itself: a sample of noise that were kept is 12 kB, so more than 90 MB here."""
    smoothed = Smoothed(build_model("tiny", num_classes=10, width=4), 0.25, 10, precision="fp32", device="cpu")
    batch = images()
    smoothed.certify(batch[:2], CertifySettings(n=500, n0=10))
    restart_peak_memory(torch.device("cpu"))
    smoothed.certify(batch[:2], CertifySettings(n=500, n0=10))
    few = peak_memory_bytes(torch.device("cpu"))
    restart_peak_memory(torch.device("cpu"))
    smoothed.certify(batch[:1], CertifySettings(n=9000, n0=10))
    smoothed.certify(batch[:40], CertifySettings(n=250, n0=10))
    assert peak_memory_bytes(torch.device("cpu")) < few + 30e6


def test_damaged_and_foreign_weights_are_refused(trained: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(here(trained.path), tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    folder = run.trial(trial_ids(run)[0])
    tensors = load(folder.model.read_bytes())
    record = read_json(folder.training)

    def put(content: bytes) -> None:
        folder.model.write_bytes(content)
        edit_record(folder.training, checkpoint_sha256=hashlib.sha256(content).hexdigest())

    cut = folder.model.read_bytes()[:1000]
    folder.model.write_bytes(cut)
    with pytest.raises(ValueError, match="is not the file that its training wrote"):
        open_model(name_of(run))
    put(cut)
    with pytest.raises(ValueError, match="not readable as safetensors"):
        open_model(name_of(run))
    del tensors["network.head.bias"]
    headless = save(tensors, {"training_id": str(record["training_id"])})
    put(headless)
    with pytest.raises(ValueError, match="not the weights of a tiny"):
        open_model(name_of(run))
    folder.training.unlink()
    with pytest.raises(SourceError, match="its training is not finished"):
        open_model(name_of(run))
    assert merge_run(run) == trial_ids(run)


@pytest.mark.slow
def test_perf_of_training_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("perf", "train", "--model", "tiny", "--rounds", "1", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert all(rate > 0 for rate in found["images_per_second"].values())
    assert 0 < found["ratios"]["train_fp32 / its convolutions alone"] < 1.2


@pytest.mark.slow
def test_perf_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("perf", "certify", "--model", "tiny", "--rounds", "1", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model"] == "tiny, untrained"
    precision = resolve_precision("auto", torch.device("cpu"))  # bf16 where the machine has units for it
    assert found["samples_per_second"][f"certify_{precision}"] > 0
    assert found["ratios"][f"certify_{precision} / its network alone"] > 0
