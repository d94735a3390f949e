"""A question to every node: answers, a node that fails, one that does not answer, and `bench doctor` of a cluster."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from bench.audit import checks_machine, doctor
from bench.audit.finding import Finding
from cluster.nodes import ask_nodes  # before ray, whose environment it sets
from tests.cluster.local import local_cluster

import ray  # isort: skip


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with local_cluster(cpus=1):
        yield


def who() -> int:
    return os.getpid()


def fails() -> int:
    raise ValueError("this node lacks something")


def hangs() -> None:
    time.sleep(600)


def test_answers_come_from_other_processes_and_failures_are_told() -> None:
    [(name, pid, why)] = ask_nodes(who, 400)
    assert ray.nodes()[0]["NodeManagerHostname"] in name
    assert (pid != os.getpid(), why) == (True, "")
    [(_, nothing, why)] = ask_nodes(fails, 400)
    assert (nothing, why) == (None, "this node lacks something")
    [(_, nothing, why)] = ask_nodes(hangs, 1)
    assert (nothing, why) == (None, "no answer in 1 s")


def examined_without_haste() -> list[Finding]:
    """What a node is asked, with limits that a machine keeps on which much else runs."""
    checks_machine.LEAST_MEMORY, checks_machine.LEAST_DISK, checks_machine.COMPILES_WITHIN = 0, 0, 150.0
    doctor.LIMITS["devices"] = 150.0
    return doctor.examine_node()


def test_the_doctor_asks_each_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "NODES_WITHIN", 400.0)
    monkeypatch.setattr(doctor, "examine_node", examined_without_haste)
    cluster, *found = doctor._ask_cluster("auto", allow_unauthenticated=False)
    assert (cluster.verdict, "1 node" in cluster.sentence) == ("right", True)
    assert found
    assert all(each.host and each.verdict in ("right", "slow") for each in found), found  # others may compute here
    here, there = (Finding("versions", "right", f"torch {version}") for version in "12")
    [other] = doctor._of_node("node7", [there, Finding("memory", "right", "enough")], here)
    assert (other.verdict, other.host, other.sentence) == ("wrong", "node7", "torch 2; here torch 1")
