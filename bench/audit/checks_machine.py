"""Checks of `bench doctor` that need neither torch nor ray: what is installed, and what room there is."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

import psutil
from packaging.requirements import Requirement

from bench.audit.finding import Finding
from bench.machine.resources import usable_cores
from results.store.packages import PACKAGES, PROGRAM

SHARED = Path("/dev/shm")  # noqa: S108  # where Ray and NCCL put what processes share
DRIVER = Path("/proc/driver/nvidia/version")
CGROUP = Path("/sys/fs/cgroup")
LEAST_SHARED = 256 * 2**20
"""Ray's object store takes 200 MB, NCCL some more."""
LEAST_DISK = 2 * 2**30
"""Of a run, or of temporary files: checkpoints, and what inductor compiles."""
LEAST_MEMORY = 2 * 2**30
"""A worker takes one to two GB, libraries included."""
LEAST_FILES = 1024
COMPILES_WITHIN = 20.0
LOOKS_FOR = 1.0
"""Seconds in which others' work is measured."""
MOST_BUSY = 0.2
"""Of all cores; more of it makes rates, and times of a run, wrong."""
CODE = "#include <Python.h>\n#include <cmath>\n#include <omp.h>\nint cores() { return omp_get_max_threads(); }\n"


def check_versions() -> Finding:
    """What is installed, and whether it is what this program asks for."""
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return Finding("versions", "wrong", f"{package} is not installed", f"pip install {package}")
    for requirement in _required():
        version = found.get(requirement.name)
        if version and not requirement.specifier.contains(version, prereleases=True):
            return Finding(
                "versions",
                "wrong",
                f"{requirement.name} {version} is installed, and {requirement} is needed",
                f"pip install '{requirement}'",
            )
    return Finding("versions", "right", ", ".join(f"{name} {version}" for name, version in found.items()))


def _required() -> list[Requirement]:
    try:
        texts = importlib.metadata.requires(PROGRAM) or []
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        texts = []
    return [requirement for requirement in map(Requirement, texts) if requirement.marker is None]


def check_compiler() -> Finding:
    """One small C++ program, with all that inductor's code includes; on a machine with NVIDIA's driver C as well."""
    remedy = "install g++ and Python's headers (apt-get install g++ python3-dev), or name another compiler in CXX"
    compiler = os.environ.get("CXX") or "g++"
    path = shutil.which(compiler)
    if path is None:
        return Finding("compiler", "wrong", f"there is no {compiler}, so no classifier is compiled", remedy)
    with tempfile.TemporaryDirectory(prefix="bench-doctor-") as folder:
        source = Path(folder, "cores.cpp")
        source.write_text(CODE, encoding="ascii")
        include = sysconfig.get_path("include")
        command = [path, "-shared", "-fPIC", "-fopenmp", f"-I{include}", str(source), "-o", f"{source}.so"]
        ended = subprocess.run(  # noqa: S603  # the user's own compiler
            command, capture_output=True, text=True, check=False, timeout=COMPILES_WITHIN
        )
    if ended.returncode:
        lines = [*filter(None, ended.stderr.splitlines()), ""]
        line = next((line for line in lines if "error" in line), lines[0])
        return Finding("compiler", "wrong", f"{path} fails on a small program: {line}", remedy)
    if DRIVER.exists() and not any(map(shutil.which, filter(None, [os.environ.get("CC"), "clang", "gcc", "cc"]))):
        return Finding("compiler", "wrong", "there is no C compiler, which Triton takes", "install gcc, or set CC")
    return Finding("compiler", "right", f"{path} compiles")


def check_processors() -> Finding:
    """How many this process may use, and whether others compute on them."""
    cores, busy = usable_cores(), psutil.cpu_percent(LOOKS_FOR) / 100
    sentence = f"{cores} core{'s' * (cores != 1)} for this process, {busy:.0%} of the machine's busy before we began"
    if busy <= MOST_BUSY:
        return Finding("processors", "right", sentence)
    return Finding("processors", "slow", f"{sentence}: others compute here too", "measure when the machine is quiet")


def check_memory() -> Finding:
    """Room for a worker."""
    free = min(psutil.virtual_memory().available, _left_of_quota())
    sentence = f"{_size(free)} of memory to be had"
    if free >= LEAST_MEMORY:
        return Finding("memory", "right", sentence)
    return Finding("memory", "wrong", sentence, f"a worker takes one to two GB: end something, or give {_size(2**32)}")


def _left_of_quota() -> float:
    """Of a container's memory."""
    try:
        most, used = ((CGROUP / name).read_text(encoding="ascii") for name in ("memory.max", "memory.current"))
        return int(most) - int(used)
    except (OSError, ValueError):  # no cgroup v2, or no quota ("max")
        return float("inf")


def check_shared_memory() -> Finding:
    """Room in /dev/shm, which containers keep small."""
    free = shutil.disk_usage(SHARED).free
    sentence = f"{_size(free)} free in {SHARED}"
    if free >= LEAST_SHARED:
        return Finding("shared memory", "right", sentence)
    remedy = f"{_size(LEAST_SHARED)} or more, as by docker run --shm-size=1g"
    if DRIVER.exists():
        return Finding("shared memory", "wrong", f"{sentence}: NCCL fails, and Ray goes to the disk", remedy)
    return Finding("shared memory", "slow", f"{sentence}: Ray goes to the disk", remedy)


def check_disks() -> list[Finding]:
    """Room where runs are put unless --out says otherwise, and for temporary files."""
    runs = Path("runs").absolute()
    # Compilers write into TMPDIR, also where it is full and Python takes another folder without a word.
    temporary = Path(os.environ.get("TMPDIR") or tempfile.gettempdir())
    places = {"disk of runs": runs, "temporary files": temporary}
    return [_check_disk(name, place) for name, place in places.items()]


def _check_disk(name: str, place: Path) -> Finding:
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    sentence = f"{_size(free)} free for {place}"
    remedy = "give --out another disk" if name == "disk of runs" else "set TMPDIR to a folder of another disk"
    if not os.access(there, os.W_OK):
        return Finding(name, "wrong", f"{there} cannot be written", remedy)
    return Finding(name, "right", sentence) if free >= LEAST_DISK else Finding(name, "wrong", sentence, remedy)


def check_open_files() -> Finding:
    """The limit of open files: each worker and each node of a cluster takes some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = "without limit" if hard == resource.RLIM_INFINITY else f"at most {hard}"
    sentence = f"{soft} at once, {most}"
    if soft == resource.RLIM_INFINITY or soft >= LEAST_FILES:
        return Finding("open files", "right", sentence)
    return Finding("open files", "wrong", sentence, "ulimit -n 65536, before `bench run` and `ray start`")


def _size(number: float) -> str:
    return f"{number / 2**30:.1f} GB" if number >= 2**30 else f"{number / 2**20:.0f} MB"
