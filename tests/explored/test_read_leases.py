"""Read leases, in every order: readers that keep what they read while others change it.

Readers of two nodes load one path again and again, while it is replaced, deleted and made anew,
controllers take over from each other, messages are lost, and a volume dies. The clocks of nodes are
slow, and that of the controller is fast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from polystore_ray.controller.effects import Effect
from polystore_ray.controller.leases import Invalidation, Leases
from polystore_ray.controller.state import StoreController
from polystore_ray.hosting.lease_keeper import LeaseKeeper
from polystore_ray.transport.leased_reads import LeasedReads
from polystore_ray.wire.lease_board import LeaseBoard
from polystore_ray.wire.messages import Uncounted, Wish
from polystore_ray.wire.sessions import Session
from tests.explored.model import Cluster, Patch, Scenario, check, find

READS = 3  # until one needs no call


def _begin(
    cluster: Cluster, change: Callable[[Session], None], *, is_missing: bool = False
) -> None:
    """Have a value that both nodes keep, then a change, and then both read again.

    Or, if it `is_missing`, have both nodes keep that it is. Both also read while it is changed: one
    what it keeps, and the other asks again.
    """
    session = Session()
    spawn = cluster.world.spawn
    spawn("first", cluster.lead)
    saved: list[bool] = []
    kept: list[str] = []
    changed: list[bool] = []

    def read(node: str) -> None:
        reader = cluster.readers[node]
        cluster.world.block(lambda: bool(saved))
        for _ in range(READS):
            reader.load(f"reader on {node}", "/x")
        kept.append(node)
        if node == "b":  # which asks again, at the same time
            reader.reads.forget(["/x"])
        reader.load(f"reader on {node}", "/x")
        cluster.world.block(lambda: bool(changed))
        reader.load(f"reader on {node}", "/x")

    def work() -> None:
        if not is_missing:
            cluster.save_small("one", session, "/x", 1)
        saved.append(True)
        cluster.world.block(lambda: len(kept) == len(cluster.readers))
        change(session)
        changed.append(True)

    spawn("one", cluster.client(work))
    for node in cluster.readers:
        spawn(f"reader on {node}", cluster.client(lambda node=node: read(node)))  # type: ignore[misc]


def _save_delete_and_save(cluster: Cluster, session: Session) -> None:
    cluster.save_small("one", session, "/x", 2)
    cluster.delete("one", session, "/x")
    cluster.save_small("one", session, "/x", 3)


def a_hot_path(cluster: Cluster) -> None:
    """One path is replaced, deleted and made again while readers of both nodes keep it."""

    _begin(cluster, lambda session: _save_delete_and_save(cluster, session))


def one_replacement(cluster: Cluster) -> None:
    """The path is replaced once, so that no later change waits for what this one left."""
    cluster.loses_messages = False  # as the order alone makes for enough executions
    _begin(cluster, lambda session: cluster.save_small("one", session, "/x", 2))


def a_missing_path(cluster: Cluster) -> None:
    """A path is made, deleted and made again while both nodes keep that it is missing."""

    _begin(cluster, lambda session: _save_delete_and_save(cluster, session), is_missing=True)


def a_hot_path_and_another_controller(cluster: Cluster) -> None:
    """The path is replaced after another controller took over, which knows no leases."""

    def change(session: Session) -> None:
        cluster.world.spawn("second", cluster.lead)
        cluster.world.block(lambda: cluster.begun >= 2)
        cluster.save_small("one", session, "/x", 2)

    _begin(cluster, change)


def a_volume_that_died(cluster: Cluster) -> None:
    """A volume dies, whose node may go on reading, and another controller takes over."""
    cluster.loses_messages = False  # as the order alone makes for enough executions

    def change(session: Session) -> None:
        cluster.volumes.pop("a").controller = None
        cluster.world.spawn("second", cluster.lead)
        cluster.world.block(lambda: cluster.begun >= 2)
        cluster.save_small("one", session, "/x", 2)

    _begin(cluster, change)


SCENARIOS = [
    a_hot_path,
    one_replacement,
    a_missing_path,
    a_hot_path_and_another_controller,
    a_volume_that_died,
]


@pytest.mark.timeout(700)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_order_of_events_shows_a_value_after_it_was_changed(
    scenario: Scenario, patched: Patch
) -> None:
    check(scenario, patched)


# The explorer finds what would be wrong


def _changes_are_acknowledged_before_nodes_have_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    def carry_out(self: Invalidation, _maker: object = None) -> list[str]:
        self._begun.set()
        self._done.set()
        return []

    monkeypatch.setattr(Invalidation, "carry_out", carry_out)


def _the_maker_of_a_change_does_not_count_it(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = LeasedReads.changed

    def uncounted(self: LeasedReads, change: Callable[[Wish | None], Any]) -> Any:
        def answer(wish: Wish | None) -> Any:
            found = change(wish)
            return found.answer if isinstance(found, Uncounted) else found

        return changed(self, answer)

    monkeypatch.setattr(LeasedReads, "changed", uncounted)


def _what_is_made_was_missed_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    collect = Leases._collect

    def of_what_was_there(self: Leases, effect: Effect, *others: Any) -> Any:
        return collect(self, effect._replace(names=frozenset()), *others)

    monkeypatch.setattr(Leases, "_collect", of_what_was_there)


def _a_volume_keeps_its_lease_under_a_new_controller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LeaseKeeper, "turn_to", lambda *_: None)


def _a_new_controller_does_not_wait_for_old_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StoreController, "may_miss_volumes", lambda *_: False)


def _the_counter_is_read_after_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    keep = LeasedReads._keep

    def mark_late(
        self: LeasedReads, board: LeaseBoard, operation: str, answers: Any, until: float | None
    ) -> None:
        late = [(path, board.mark(path), each) for path, _, each in answers]
        keep(self, board, operation, late, until)

    monkeypatch.setattr(LeasedReads, "_keep", mark_late)


@pytest.mark.timeout(700)
@pytest.mark.parametrize(
    ("plant", "scenario"),
    [
        (_changes_are_acknowledged_before_nodes_have_heard, a_hot_path),
        (_a_volume_keeps_its_lease_under_a_new_controller, a_hot_path_and_another_controller),
        (_a_new_controller_does_not_wait_for_old_leases, a_volume_that_died),
        (_the_counter_is_read_after_the_answer, a_hot_path),
        (_the_maker_of_a_change_does_not_count_it, one_replacement),
        (_what_is_made_was_missed_by_nobody, a_missing_path),
    ],
)
def test_a_fault_that_is_planted_is_found(
    plant: Callable[[pytest.MonkeyPatch], None],
    scenario: Scenario,
    patched: Patch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        find(scenario, patched)
