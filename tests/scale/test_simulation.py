"""The simulation of many nodes, against what is known of queues."""

from __future__ import annotations

import csv

import pytest

from tests.scale.simulation import (
    RESULTS,
    Cluster,
    Load,
    Times,
    most_nodes,
    simulate,
)

TIMES = Times(read=2e-4, change=4e-4, tell=1e-4, renew=1e-4)


def test_the_wait_is_that_of_a_queue_with_equal_service_times() -> None:
    # M/D/1: the mean wait in the queue is rho / (2 (1 - rho)) service times.
    load = Load(again=0.0, first=62.5, saves=0.0, overwrites=0.0, across=0.0)
    found = simulate(Cluster(1, leases=False), load, TIMES, seconds=60.0)
    assert found.busy == pytest.approx(0.8, rel=0.02)
    assert 2e-4 <= found.median < 2e-4 * (1 + 0.8 / 0.4)


def test_a_controller_that_has_more_to_do_than_time_answers_late() -> None:
    load = Load(again=0.0, first=100.0, saves=0.0, overwrites=0.0, across=0.0)
    found = simulate(Cluster(1, leases=False), load, TIMES)
    assert found.busy > 1
    assert found.late > 0.5


def test_leases_and_partitions_make_room() -> None:
    most = [
        most_nodes(Cluster(1, partitions=partitions, leases=leases), Load(), TIMES)
        for partitions, leases in ((1, False), (1, True), (4, True))
    ]
    assert most == sorted(most)
    assert most[0] < most[-1]


def test_the_page_shows_what_the_simulation_finds() -> None:
    """The table is of this simulation, with the times of the tables beside it."""
    with (RESULTS / "scale.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        cluster = Cluster(1000, 64, int(row["controllers"]), row["leases"] == "with")
        found = simulate(cluster, Load(), Times.measured())
        assert row["busy"] == f"{found.busy:.2f}"
