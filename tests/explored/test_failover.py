"""Failover, in every order: controllers that take over from each other while clients go on.

Two or three controllers, two volumes and three clients run the classes of the product, and what is
around them is a model: messages are lost, their answers are lost, they come again later, and any
thread may stand still for any time. What the clients saw must be explained by some order of their
operations, and every value that was acknowledged must be there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from polystore_ray.config.store import StoreOptions
from polystore_ray.controller import journal, snapshot
from polystore_ray.replication import epochs as succession
from polystore_ray.replication.epochs import Succession
from polystore_ray.replication.follower import Follower
from polystore_ray.wire.messages import Joined
from polystore_ray.wire.sessions import Answers, Session
from tests.explored.model import Cluster, Patch, Peers, Scenario, check, find


def two_controllers(cluster: Cluster) -> None:
    """Clients save, replace and delete one path, while another controller takes over."""
    one, two = Session(), Session()
    spawn = cluster.world.spawn
    spawn("first", cluster.lead)

    def first() -> None:
        cluster.save("one", one, "/x", 1)
        cluster.delete("one", one, "/x")

    def second() -> None:
        cluster.save("two", two, "/x", 2, overwrite=True)

    def third() -> None:
        cluster.load("three", "/x")
        cluster.load("three", "/x")

    for name, work in (("one", first), ("two", second), ("three", third)):
        spawn(name, cluster.client(work))
    spawn("second", cluster.client(lambda: spawn("leads", cluster.lead)))


def a_late_publication(cluster: Cluster) -> None:
    """A volume asks about what it pins, before that is published; another takes over."""
    one = Session()
    spawn = cluster.world.spawn
    spawn("first", cluster.lead)

    def first() -> None:
        cluster.save("one", one, "/w", 1)
        cluster.save("one", one, "/x", 2)
        cluster.load("one", "/x")

    spawn("one", cluster.client(first))
    spawn("volume", cluster.client(cluster.confirm))
    spawn("second", cluster.client(lambda: spawn("leads", cluster.lead)))


def a_value_on_its_way(cluster: Cluster) -> None:
    """A client pins a value and publishes it just while another controller takes over."""
    one = Session()
    cluster.loses_messages = False  # as below
    spawn = cluster.world.spawn
    spawn("first", cluster.lead)

    def work() -> None:
        cluster.save("one", one, "/w", 1)
        spawn("second", cluster.lead)
        cluster.save("one", one, "/x", 2)
        cluster.world.block(lambda: cluster.begun >= 2)
        cluster.load("one", "/x")

    spawn("one", cluster.client(work))


def three_controllers(cluster: Cluster) -> None:
    """Two controllers begin at once, and take over from a third; then clients go on."""
    one = Session()
    cluster.loses_messages = False  # as the order alone makes for enough executions
    spawn = cluster.world.spawn
    spawn("first", cluster.lead)

    def work() -> None:
        cluster.save("one", one, "/w", 1)
        spawn("second", cluster.lead)
        spawn("third", cluster.lead)
        cluster.world.block(lambda: cluster.begun >= 3)
        cluster.save("one", one, "/x", 2)
        cluster.load("two", "/x")

    spawn("one", cluster.client(work))


def a_follower_that_moves(cluster: Cluster) -> None:
    """A follower moves to a node that had no volume, while another controller takes over."""
    one = Session()
    cluster.better = {"b": "c"}
    spawn = cluster.world.spawn
    spawn("first", cluster.lead)

    def work() -> None:
        cluster.save("one", one, "/w", 1)
        cluster.world.block(lambda: "c" in cluster.volumes, 10.0)
        cluster.save("one", one, "/x", 2)
        cluster.load("one", "/x")

    spawn("one", cluster.client(work))
    spawn("second", cluster.client(lambda: spawn("leads", cluster.lead)))


SCENARIOS = [
    two_controllers,
    a_late_publication,
    a_value_on_its_way,
    three_controllers,
    a_follower_that_moves,
]


@pytest.mark.timeout(700)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_order_of_events_loses_or_undoes_what_was_acknowledged(
    scenario: Scenario, patched: Patch
) -> None:
    check(scenario, patched)


# The explorer finds what was wrong once


def _answers_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many answers are kept, whoever waits for them."""
    keep = Answers.keep

    def keep_one(self: Answers, *arguments: Any) -> None:
        self._sessions.clear()
        keep(self, *arguments)

    monkeypatch.setattr(Answers, "keep", keep_one)


def _the_follower_is_read_before_the_epoch_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Succession.__init__

    def read_first(self: Succession, namespace: str, options: StoreOptions) -> None:
        log = vars(succession)["remembered"](namespace)
        nodes = [recall(key) for key in sorted(log) if "origin" not in key]
        begin(self, namespace, options)
        self.read = next((node for node in reversed(nodes) if node), None)  # type: ignore[attr-defined]

    def recall(key: str) -> str:
        return str(vars(succession)["recall"](key).decode().partition(" ")[2])

    def designate(self: Succession, node: str) -> None:
        self._last = max(self._numbers())
        self._add(node)

    monkeypatch.setattr(Succession, "__init__", read_first)
    monkeypatch.setattr(Succession, "designated", lambda self: self.read)
    monkeypatch.setattr(Succession, "designate", designate)


def _an_epoch_is_written_and_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    remember = Cluster.remember

    def overwrite(self: Cluster, key: str, value: bytes, *, overwrite: bool = True) -> bool:
        return remember(self, key, value, overwrite=overwrite or "origin" not in key)

    monkeypatch.setattr(Cluster, "remember", overwrite)


def _what_was_let_go_is_not_part_of_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    state_of = snapshot.state_of

    def forgetful(parts: Any) -> Any:
        state = state_of(parts)
        del state["withdrawn"]
        return state

    monkeypatch.setattr(snapshot, "state_of", forgetful)


def _a_new_state_discards_the_old_one_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    take = Follower.take

    def discard(self: Follower, epoch: int, first: bool, part: bytes) -> None:
        take(self, epoch, first, part)
        self._controller = None

    monkeypatch.setattr(Follower, "take", discard)


def _holdings_are_asked_before_the_former_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when every volume was joined first, and then the follower was asked for the state."""
    state, join = Peers.state, Peers.join

    def state_later(self: Peers, node: str, epoch: int) -> Any:
        self.joined = join(self, epoch)  # type: ignore[attr-defined]
        return state(self, node, epoch)

    def joined(self: Peers, epoch: int) -> dict[str, Joined]:
        return getattr(self, "joined", None) or join(self, epoch)

    monkeypatch.setattr(Peers, "state", state_later)
    monkeypatch.setattr(Peers, "join", joined)


def _a_designation_overwrites_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when each controller had one key, which a message that is late may write at any time."""

    def add(self: Succession, node: str) -> bool:
        key = f"{self._log}{self._last + 1}"
        entry = f"{self.epoch} {node}".encode()
        return bool(vars(succession)["remember"](key, entry, overwrite=bool(node)))

    def designate(self: Succession, node: str) -> None:
        self._add(node)
        self._last, last = self._last + 1, self._last
        self.check()
        self._last = last

    monkeypatch.setattr(Succession, "_add", add)
    monkeypatch.setattr(Succession, "designate", designate)


def _changes_are_answered_before_the_follower_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal.Journal, "wait", lambda *_, **__: None)


@pytest.mark.timeout(700)
@pytest.mark.parametrize(
    ("plant", "scenario"),
    [
        (_answers_are_forgotten, two_controllers),
        (_the_follower_is_read_before_the_epoch_begins, two_controllers),
        (_an_epoch_is_written_and_not_compared, three_controllers),
        (_what_was_let_go_is_not_part_of_the_state, a_late_publication),
        (_a_new_state_discards_the_old_one_too_early, two_controllers),
        (_holdings_are_asked_before_the_former_is_refused, a_value_on_its_way),
        (_a_designation_overwrites_another, a_follower_that_moves),
        (_changes_are_answered_before_the_follower_has_them, two_controllers),
    ],
)
def test_a_fault_that_is_put_back_is_found(
    plant: Callable[[pytest.MonkeyPatch], None],
    scenario: Scenario,
    patched: Patch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        find(scenario, patched)
