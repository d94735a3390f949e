"""`bench doctor` on machines that lack something: each is found, in a sentence, and keeps nothing else from being."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import logging
import os
import platform
import resource
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from bench.audit import checks_machine, checks_ranks, checks_torch, doctor, forecast
from bench.audit.finding import Finding, guarded
from bench.audit.forecast import Rates
from bench.certify import engine
from bench.cli import doctor as command
from bench.data import DataError, ImageSet
from bench.machine import hardware
from bench.machine.hardware import has_fast_bf16
from tests.bench.machine.test_devices import pretend
from tests.command import bench
from tests.test_imports import imported_names

DISK = SimpleNamespace(f_frsize=4096, f_blocks=10**6, f_bfree=10, f_bavail=10)
ROOMY = SimpleNamespace(f_frsize=4096, f_blocks=10**6, f_bfree=10**6, f_bavail=10**6)


def only(found: Finding | list[Finding]) -> Finding:
    [finding] = found if isinstance(found, list) else [found]
    return finding


# --- what needs no torch --------------------------------------------------------------------------------------------


def test_it_starts_and_refuses_without_what_takes_long_to_import() -> None:
    program = """
import sys
from bench.audit import doctor
try:
    doctor._chosen("no such check")
except KeyError:
    assert not {"torch", "ray", "pydantic", "pyarrow"} & sys.modules.keys()
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_each_check_is_chosen_and_imports_little_but_torch() -> None:
    assert doctor.COMPUTING.keys() == doctor.LIMITS.keys()
    assert all(callable(doctor._chosen(check)) for check in doctor.LIMITS)
    tops = {
        module: {
            name for node in ast.parse(Path(str(module.__file__)).read_text()).body for name in imported_names(node)
        }
        for module in (checks_ranks, checks_torch)
    }
    ours = {name for name in tops[checks_ranks] if name.split(".")[0] not in {"torch", *sys.stdlib_module_names}}
    assert ours == {"bench.audit.finding.Finding"}
    assert not any(name.startswith("bench.audit.forecast") for name in tops[checks_torch])


def test_this_machine_can_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks_machine, "COMPILES_WITHIN", None)  # others may compute here
    assert checks_machine.check_compiler().verdict == "right"


@pytest.mark.parametrize("lacks", ["compiler", "headers", "C"])
def test_a_machine_without_a_compiler(lacks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks_machine, "COMPILES_WITHIN", None)
    monkeypatch.delenv("CXX", raising=False)
    if lacks == "compiler":
        monkeypatch.setenv("PATH", str(tmp_path))
    elif lacks == "headers":
        monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    else:
        monkeypatch.setattr(checks_machine, "DRIVER", tmp_path)
        which = shutil.which
        monkeypatch.setattr(shutil, "which", lambda name: which(name) if name == "g++" else None)
    found = checks_machine.check_compiler()
    assert found.verdict == "wrong"
    said = {"compiler": "there is no g++", "headers": "Python.h", "C": "no C compiler, which Triton takes"}
    assert said[lacks] in found.sentence
    assert "install g" in found.remedy


@pytest.mark.parametrize(("driver", "verdict"), [(False, "slow"), (True, "wrong")])
def test_a_container_with_a_tiny_shared_memory(
    driver: bool, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert checks_machine.LEAST_SHARED > 64 * 2**20  # docker's own
    monkeypatch.setattr(os, "statvfs", lambda _: DISK)
    monkeypatch.setattr(checks_machine, "DRIVER", tmp_path if driver else tmp_path / "none")
    found = checks_machine.check_shared_memory()
    assert (found.verdict, "--shm-size=1g" in found.remedy) == (verdict, True)
    assert "0 MB free in /dev/shm" in found.sentence


def test_full_and_forbidden_disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda _: ROOMY)
    assert [found.verdict for found in checks_machine.check_disks()] == ["right", "right"]
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert all("cannot be written" in found.sentence for found in checks_machine.check_disks())
    monkeypatch.undo()
    monkeypatch.setattr(os, "statvfs", lambda _: DISK)
    runs, temporary = checks_machine.check_disks()
    assert (runs.verdict, temporary.verdict) == ("wrong", "wrong")
    assert ("--out" in runs.remedy, "TMPDIR" in temporary.remedy) == (True, True)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert checks_machine.check_disks()[1].sentence.endswith(f"for {tmp_path}")  # whatever Python takes in its place


def test_few_open_files_little_memory_and_a_busy_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    found = checks_machine.check_open_files()
    assert (found.verdict, "256 at once, at most 4096" in found.sentence) == ("wrong", True)
    assert "ulimit -n" in found.remedy
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**40))
    monkeypatch.setattr(checks_machine, "CGROUP", tmp_path)
    assert checks_machine.check_memory().verdict == "right"
    (tmp_path / "memory.max").write_text(f"{2**31}\n")
    (tmp_path / "memory.current").write_text(f"{2**30}\n")
    assert (checks_machine.check_memory().verdict, checks_machine.check_memory().sentence[:6]) == ("wrong", "1.0 GB")
    for busy, verdict in ((10.0, "right"), (50.0, "slow")):  # one of two cores
        monkeypatch.setattr(psutil, "cpu_percent", lambda seconds, busy=busy: busy if seconds >= 1 else 0.0)
        found = checks_machine.check_processors()
        assert (found.verdict, f"{busy:.0f}%" in found.sentence) == (verdict, True)


def test_packages_that_are_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks_machine.check_versions().verdict == "right"
    installed = importlib.metadata.version
    old = {"ray": "2.0.0"}
    monkeypatch.setattr(importlib.metadata, "version", lambda name: old.get(name) or installed(name))
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: ["ray[tune]>=2.50", "x>1; extra=='a'"])
    found = checks_machine.check_versions()
    assert (found.verdict, found.sentence) == ("wrong", "ray 2.0.0 is installed, and ray[tune]>=2.50 is needed")
    monkeypatch.setattr(checks_machine, "PACKAGES", ("torch", "no_such_package"))
    found = checks_machine.check_versions()
    # of an index of packages, which has none of this program's name
    assert (found.sentence, found.remedy) == ("no_such_package is not installed", "pip install no_such_package")


# --- devices --------------------------------------------------------------------------------------------------------


def test_one_device_of_two_is_unusable(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, count=2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(checks_torch, "driver_version", lambda: "580.65.06")
    fault = {"cuda:0": "a small matrix product on cuda:0 comes out wrong"}
    monkeypatch.setattr(checks_torch, "fault_of", lambda device: fault.get(str(device), ""))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80 * 2**30))
    driver, first, second = checks_torch.check_devices()
    assert (driver.verdict, first.verdict, second.verdict) == ("right", "wrong", "right")
    assert (first.sentence, first.remedy) == (fault["cuda:0"], "leave it out: CUDA_VISIBLE_DEVICES=1")
    assert "NVIDIA H100, 80 GB, capability 9.0" in second.sentence


ARM = """processor\t: 0
BogoMIPS\t: 243.75
CPU implementer\t: 0x41
CPU part\t: 0xd0c

processor\t: 1
CPU part\t: 0xd0d
"""


@pytest.mark.parametrize(
    ("said", "name"),
    [
        (ARM, "aarch64 CPU, implementer 0x41, part 0xd0c"),
        ("processor\t: 0\nmodel name\t: Some CPU: 64 cores\n\nmodel name\t: other\n", "Some CPU: 64 cores"),
        ("cpu : what else there is\n", "CPU"),
        (None, "CPU"),
    ],
)
def test_the_name_of_a_processor(said: str | None, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if said is not None:
        (tmp_path / "cpuinfo").write_text(said)
    monkeypatch.setattr(hardware, "PROCESSORS", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert hardware.device_name(torch.device("cpu")) == name


DRIVERS: list[tuple[str, str | None, str | None, str, str]] = [
    ("", "13.2", None, "right", "the processor computes"),
    ("", "13.2", "0", "wrong", "CUDA_VISIBLE_DEVICES=0"),
    ("535.1", "13.2", None, "wrong", "needs 580 or later"),
    ("580.65", "13.2", None, "wrong", "all the same torch finds no CUDA device"),
    ("580.65", "13.2", "", "skipped", "hides every accelerator"),
    ("580.65", None, None, "wrong", "built without CUDA"),
]


@pytest.mark.parametrize(("driver", "cuda", "mask", "verdict", "sentence"), DRIVERS)
def test_what_may_be_wrong_with_a_driver(
    driver: str, cuda: str | None, mask: str | None, verdict: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, count=0, driver=driver)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(checks_torch, "driver_version", lambda: driver)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if mask is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mask)
    found, processor = checks_torch.check_devices()
    assert (found.verdict, sentence in found.sentence) == (verdict, True)
    assert (processor.name, processor.verdict) == ("cpu", "right")


# --- compilation, noise, data, rates --------------------------------------------------------------------------------


def test_a_classifier_that_cannot_be_compiled_or_answers_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: fails)
    [found] = checks_torch.check_compilation()
    assert (found.verdict, "No working C++ compiler found" in found.sentence) == ("wrong", True)
    monkeypatch.setattr(
        engine, "compile_frozen", lambda classify, _, precision: lambda images: classify(images).roll(1, 1)
    )
    [found] = checks_torch.check_compilation()
    assert (found.verdict, "only 0.0% of its answers" in found.sentence) == ("wrong", True)


def test_a_way_that_is_slower_than_the_usual_one_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    ways = [("resnet8", cuda, "bf16"), ("resnet8", cuda, "fp32"), ("tiny", cuda, "bf16"), ("tiny", cpu, "bf16")]
    assert [checks_torch.expected_way(*way) for way in ways] == ["triton", "cudnn", "cudnn", "inductor"]

    def compile_frozen(classify: engine.Classify, *_: object, **__: object) -> engine.Classify:
        logging.getLogger("bench").info("certifying without our kernels: CompilationError: no ptxas")
        return classify

    monkeypatch.setattr(engine, "compile_frozen", compile_frozen)
    monkeypatch.setattr(checks_torch, "expected_way", lambda *_: "triton")
    [found] = checks_torch.check_compilation()
    assert found.verdict == "slow"
    assert (
        "not by triton, which is faster: certifying without our kernels: CompilationError: no ptxas" in found.sentence
    )


def test_noise_is_that_of_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks_torch.check_noise().verdict == "right"
    block = checks_torch.noise_block

    def by_cpu(device: torch.device) -> torch.Tensor:
        logging.getLogger("bench").warning("drawing noise on the CPU, since the accelerator's kernel failed: no gcc")
        return block(device)

    with monkeypatch.context() as patch:
        patch.setattr(checks_torch, "noise_block", by_cpu)
        found = checks_torch.check_noise()
        assert (found.verdict, "kernel failed: no gcc" in found.sentence) == ("slow", True)
    monkeypatch.setattr(checks_torch, "NOISE_DIGEST", "0" * 64)
    assert checks_torch.check_noise().verdict == "wrong"


def test_data_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_DATA", str(tmp_path))
    found = only(checks_torch.check_data(None))
    assert (found.verdict, f"CIFAR-10 is not in {tmp_path}" in found.sentence) == ("skipped", True)
    assert only(checks_torch.check_data("cifar10")).verdict == "wrong"
    assert list(tmp_path.iterdir()) == []  # nothing was downloaded
    found = only(guarded("data", lambda: checks_torch.check_data(str(tmp_path / "none"))))
    assert (found.verdict, f"{tmp_path / 'none'}" in found.sentence) == ("wrong", True)
    assert only(checks_torch.check_data("s3://bucket/images")).verdict == "skipped"


def test_data_that_is_there() -> None:
    train, test = checks_torch.check_data("synthetic")
    assert (train.verdict, test.verdict) == ("right", "right")
    assert "2000 images of 3 × 32 × 32" in train.sentence


@pytest.mark.parametrize(("split", "verdicts"), [("test", ["skipped", "right"]), ("train", ["right", "skipped"])])
def test_data_of_one_split(split: str, verdicts: list[str], tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        (tmp_path / "images" / split / name).mkdir(parents=True)
        pixels = np.full((4, 4, 3), 200 * number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / split / name / "0.png")
    found = checks_torch.check_data(str(tmp_path / "images"))
    assert [finding.verdict for finding in found] == verdicts
    if split == "test":
        assert found[0].sentence == f"{tmp_path}/images has no train: it can be certified on, not trained on"


def test_data_of_no_split(tmp_path: Path) -> None:
    found = only(guarded("data", lambda: checks_torch.check_data(str(tmp_path))))
    assert (found.verdict, "found neither train-*.parquet nor" in found.sentence) == ("wrong", True)


@pytest.mark.parametrize(
    ("pixels", "labels", "sentence"),
    [
        (7, [0, 1], "every pixel is the same"),
        (1, [0, 1], "bytes from 0 to 255 are expected"),
    ],
)
def test_data_that_cannot_be_right(
    pixels: int, labels: list[int], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.full((2, 3, 4, 4), pixels, np.uint8)
    images[0, 0, 0, 0] = 7 if pixels == 7 else 0
    monkeypatch.setattr(checks_torch, "load_images", lambda *_: ImageSet(images, np.array(labels), 2, None))
    for found in checks_torch.check_data(str(tmp_path)):
        assert (found.verdict, sentence in found.sentence) == ("wrong", True)


def test_only_what_is_trained_on_must_have_all_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.full((2, 3, 4, 4), 255, np.uint8)
    images[0] = 0
    monkeypatch.setattr(checks_torch, "load_images", lambda *_: ImageSet(images, np.array([0, 0]), 2, None))
    train, test = checks_torch.check_data(str(tmp_path))
    assert (train.verdict, "none of class 1" in train.sentence) == ("wrong", True)
    assert (test.verdict, "2 classes of 0 to 2" in test.sentence) == ("right", True)


def test_rates_beside_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = Rates(train=100.0, attack=1.0, survey=1.0, certify=1000.0, activation_bytes=1, model_bytes=1)
    monkeypatch.setattr(forecast, "measure", lambda *_: rates)
    monkeypatch.setattr(checks_torch, "_matrix_rate", lambda *_: 4e11)
    monkeypatch.setattr(checks_torch, "device_name", lambda _: "a machine")
    certify, train = checks_torch.check_rates()
    assert (certify.verdict, train.verdict) == ("right", "right")
    assert "1000 samples a second" in certify.sentence
    assert "20% of the matrix rate, 0.40 TFLOP/s; no figure for this device" in certify.sentence
    precision = "bf16" if has_fast_bf16(torch.device("cpu")) else "fp32"
    known = {("a machine", precision, torch.get_num_threads()): checks_torch.Figures(train=250.0, certify=1500.0)}
    monkeypatch.setattr(checks_torch, "FIGURES", known)
    certify, train = checks_torch.check_rates()
    assert (certify.verdict, train.verdict) == ("right", "slow")
    assert "we measured 250 on such a device" in train.sentence


# --- processes of their own -----------------------------------------------------------------------------------------


def test_a_check_that_fails_is_a_line_of_its_own() -> None:
    def fails() -> Finding:
        raise LookupError("\nan odd machine\nmore")

    def refuses() -> Finding:
        raise DataError("data: no folder")

    assert only(guarded("x", fails)) == Finding("x", "wrong", "the check itself failed: LookupError: an odd machine")
    assert only(guarded("x", refuses)) == Finding("x", "wrong", "data: no folder")
    found = only(doctor.apart("no such check", 60))
    assert (found.verdict, "KeyError" in found.sentence) == ("wrong", True)


def is_gone(pid: int) -> bool:
    """Whether a process has ended, or does within seconds."""
    try:
        psutil.Process(pid).wait(10)
    except psutil.NoSuchProcess:
        pass
    except psutil.TimeoutExpired:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)  # which nobody here takes in
    return True


def test_without_a_device_one_check_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    assert doctor.apart("devices", 120)[0].verdict == "wrong"
    assert only(guarded("noise", doctor._chosen("noise"))).verdict == "skipped"


def stands_in(monkeypatch: pytest.MonkeyPatch, folder: Path, *lines: str) -> None:
    """The processes of checks run this shell script instead."""
    script = folder / "python"
    script.write_text("\n".join(["#!/bin/sh", *lines]))
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))


def test_a_check_that_hangs_or_dies_is_ended_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = tmp_path / "child"
    child.touch()
    stands_in(monkeypatch, tmp_path, "echo loading >&2", f"sleep 3600 & echo $! >{child}", "sleep 3600")
    with doctor._Apart("devices", {}) as process:
        while not child.read_text().endswith("\n"):
            time.sleep(0.02)
        found = only(process.findings(1))
    assert (found.verdict, found.sentence) == ("wrong", "no answer within 1 seconds; it said: loading")
    assert is_gone(int(child.read_text()))
    stands_in(monkeypatch, tmp_path, "echo CUDA error >&2", "kill -SEGV $$")
    assert only(doctor.apart("devices", float("inf"))).sentence == "its process was killed by signal 11: CUDA error"
    stands_in(monkeypatch, tmp_path, "sleep 3600")
    assert only(doctor.apart("data", 0.1)).verdict == "slow"  # which says nothing against the data
    assert only(doctor.two_ranks(1)).sentence == "two ranks have not joined within 1 seconds"


def test_two_ranks_join_and_a_rank_that_cannot_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(doctor.two_ranks(120)).verdict == "right"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "none0")
    found = only(doctor.two_ranks(120))
    assert (found.verdict, "none0" in found.sentence) == ("wrong", True)


def test_a_rank_waits_for_the_other_until_there_is_time_for_its_error_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def join(*_: object, timeout: timedelta, **__: object) -> None:
        raise TimeoutError(timeout)

    monkeypatch.setattr("torch.distributed.init_process_group", join)
    monkeypatch.setattr(checks_ranks, "time", SimpleNamespace(time=lambda: 100.0, perf_counter=time.perf_counter))
    for until, seconds in ((140.0, 40), (90.0, 1)):
        with pytest.raises(TimeoutError) as error:
            checks_ranks.join_ranks(0, "tcp://127.0.0.1:1", until)
        assert error.value.args == (timedelta(seconds=seconds),)


# --- the whole ------------------------------------------------------------------------------------------------------


FOUND = [
    Finding("cpu", "right", "it computes"),
    Finding("compiler", "wrong", "there is no g++", "install g++"),
    Finding("versions", "slow", "an old one", host="node7"),
]


def test_all_is_said_and_what_is_wrong_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def answer(found: list[Finding]) -> Callable[..., list[Finding]]:
        def examine(about: str | None, **_: object) -> list[Finding]:
            asked.append(about)
            return found

        return examine

    monkeypatch.setattr(doctor, "examine_machine", answer(FOUND[:2]))
    monkeypatch.setattr(doctor, "examine_cluster", answer(FOUND[2:]))
    assert bench("doctor", "--data", "x", "--address", "auto") == 1
    printed = capsys.readouterr().out
    for part in ("→ install g++", "node7: versions", "1 right, 1 wrong, 1 slow"):
        assert part in printed
    assert bench("doctor", "--json") == 1
    assert [Finding(**values) for values in json.loads(capsys.readouterr().out)] == FOUND[:2]
    assert asked == ["x", "auto", None]
    monkeypatch.setattr(doctor, "examine_machine", lambda data: FOUND[:1])
    assert bench("doctor") == 0
    assert set(command.COLOURS) == {"right", "wrong", "slow", "skipped"}


def test_time_that_is_over_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SECONDS", 0.0)
    monkeypatch.setattr(doctor, "HERE", {"fails": lambda: 1 / 0})
    first, *others = doctor.examine_machine(None)
    assert first.verdict == "wrong"
    assert [found.name for found in others] == list(doctor.LIMITS)
    assert {found.verdict for found in others} == {"skipped"}


@pytest.mark.slow
def test_this_machine_is_fit() -> None:
    started = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-m", "bench", "doctor", "--json", "--data", "synthetic"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert time.monotonic() - started < 150
    found = {each["name"]: each for each in json.loads(ended.stdout)}
    assert ended.returncode == 0, ended.stdout
    assert {"versions", "compiler", "compilation", "noise", "ranks", "data", "certify", "train"} <= found.keys()
    assert found["compilation"]["verdict"] == "right"
