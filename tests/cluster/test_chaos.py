"""Chaos finds nothing where there is nothing to find, and finds bugs that are planted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from polystore_ray.testing.chaos import Chaos
from polystore_ray.testing.needs import goes_without
from polystore_ray.testing.nodes import Nodes
from tests.cluster.nodes import NOTICED_SOON

pytestmark = [
    pytest.mark.timeout(900),
    # Of Ray's own cluster utilities.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def chaos(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Chaos]:
    if ray.is_initialized():
        ray.shutdown()
    for name, value in NOTICED_SOON.items():
        monkeypatch.setenv(f"RAY_{name}", str(value))
    made = Chaos(tmp_path, 1, Nodes(4), **getattr(request, "param", {}))
    yield made
    made.close()


def plant(chaos: Chaos, bug: Any) -> None:
    # There is a volume on each node only once something was saved there.
    chaos.registry["memory"].save(np.zeros(2**17), "/anything", replicas=4)
    ray.get([volume.__ray_call__.remote(bug) for volume in chaos.victims.volumes()])


def test_forty_seconds_of_all_faults_loses_undoes_and_tears_nothing(chaos: Chaos) -> None:
    report = chaos.run(40)
    assert report.violations == []
    assert report.operations > 100
    assert report.faults.total() > 2


@pytest.mark.skipif(
    goes_without("redis-server"), reason="POLYSTORE_FAULTS_WITHOUT says to do without Redis"
)
def test_the_loss_of_the_head_loses_undoes_and_tears_nothing(chaos: Chaos) -> None:
    report = chaos.run(20, ["head lost"])
    assert report.violations == []
    assert report.operations > 100
    assert report.faults["head lost"] >= 1


# What is lost does not heal, and no recipe may hide it.
@pytest.mark.parametrize("chaos", [{"heal_timeout": 10.0, "evicts": False}], indirect=True)
def test_it_finds_an_acknowledgement_before_the_replica_is_pinned(chaos: Chaos) -> None:
    def acknowledge_early(volume: Any) -> None:
        held = volume._volume
        pin = held.pin

        def later(pins: Any, timeout: float) -> tuple[str, str]:
            threading.Timer(30.0, pin, (pins, timeout)).start()
            return held._node, held._incarnation

        held.pin = later

    plant(chaos, acknowledge_early)
    report = chaos.run(20, ["node lost"], peace=5)
    assert any(found.startswith(("lost", "unreadable")) for found in report.violations), str(report)


def test_it_finds_a_controller_that_takes_over_a_stale_state(chaos: Chaos) -> None:
    def forget_changes(volume: Any) -> None:
        follower = volume._follower

        def append(epoch: int, first: int, records: list[bytes]) -> None:
            follower._number = max(follower._number, first + len(records) - 1)

        follower.append = append

    plant(chaos, forget_changes)
    report = chaos.run(15, ["controller killed"])
    assert any(found.startswith("no order explains") for found in report.violations), str(report)
