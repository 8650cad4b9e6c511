"""Failover, in every order: controllers that take over from each other while clients go on.

Two or three controllers, two volumes and three clients run the classes of the product, and what is
around them is a model: messages are lost, their answers are lost, they come again later, and any
thread may stand still for any time. What the clients saw must be explained by some order of their
operations, and every value that was acknowledged must be there.
"""

from __future__ import annotations

import itertools
import os
import random
import time as real_time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import pytest
from ray import exceptions as ray_exceptions

from polystore.exceptions import PathExistsError, PathNotFoundError, StorageError, StorageWriteError
from polystore_ray.config.store import StoreOptions
from polystore_ray.controller import journal, snapshot
from polystore_ray.controller import state as controller
from polystore_ray.errors import CallTimeoutError, StoreUnavailableError
from polystore_ray.replication import epochs as succession
from polystore_ray.replication import follower, leadership
from polystore_ray.replication.epochs import Succession
from polystore_ray.replication.follower import Follower
from polystore_ray.replication.leadership import Leadership
from polystore_ray.testing.history import directory
from polystore_ray.testing.linearizability import UNKNOWN, Operation, explain
from polystore_ray.wire import sessions
from polystore_ray.wire.messages import (
    WHOLE,
    Items,
    Joined,
    OutOfStepError,
    Pin,
    Request,
    StaleEpochError,
    StaleVolumeError,
)
from polystore_ray.wire.sessions import Answers, Session
from tests.explored.explorer import World, executions

NODES = ("a", "b")
SECONDS = float(os.environ.get("POLYSTORE_MODEL_SECONDS", "5"))
DELIVERED, REQUEST_LOST, ANSWER_LOST, REPEATED = range(4)


class Volume:
    """A volume: its follower, and which objects it pins."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.follower = Follower()
        self.pins: dict[str, Pin] = {}

    def join(self, epoch: int) -> Joined:
        self.follower.promise(epoch)
        holdings = [pin._replace(nodes=()) for pin in self.pins.values()]
        return Joined(f"of {self.node}", holdings)


class Cluster:
    """All that there is in one execution."""

    def __init__(self, choices: list[int], replicas: int) -> None:
        self.world = World(choices)
        self.options = StoreOptions(replicas=replicas)
        self.kept: dict[str, bytes] = {}
        self.volumes = {node: Volume(node) for node in NODES}
        self.leaders: list[Leadership] = []
        self.history: list[Operation] = []
        self.working = 0
        self.begun = 0
        self.loses_messages = True
        self.better: dict[str, str] = {}  # a place for the follower, by one that is worse
        self._ids = itertools.count()

    # What the cluster remembers

    def remember(self, key: str, value: bytes, *, overwrite: bool = True) -> bool:
        def keep() -> bool:
            if not overwrite and key in self.kept:
                return False
            self.kept[key] = value
            return True

        try:
            return bool(self.send(keep))
        except CallTimeoutError as error:
            self.world.spawn("a late message", keep)
            raise ray_exceptions.RpcError("no answer") from error

    def recall(self, key: str) -> bytes | None:
        self.world.point()
        return self.kept.get(key)

    # Messages

    def send(self, call: Callable[[], Any], *, repeats: bool = False) -> Any:
        """Return the answer to a message, which may be lost, or come again later."""
        self.world.point()
        fate = self.world.choose((4 if repeats else 3) if self.loses_messages else 1)
        if fate == REQUEST_LOST:
            self.world.sleep(0.6)
            raise CallTimeoutError("the message was lost")
        answer = call()
        if fate == ANSWER_LOST:
            self.world.sleep(0.6)
            raise CallTimeoutError("the answer was lost")
        if fate == REPEATED:
            self.world.spawn("a late message", lambda: self._again(call))
        return answer

    def _again(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except (StorageError, OutOfStepError, StaleEpochError, StaleVolumeError):
            return  # nobody hears it

    # Controllers

    def lead(self) -> None:
        """Be a controller from now on, until another one takes over."""
        try:
            peers = Peers(self)
            leader = Leadership(Succession("store", self.options), peers, self.release)
        except (StaleEpochError, StorageError, ray_exceptions.RpcError):
            self.world.spawn("another one", self.lead)
            return
        finally:
            self.begun += 1
        if not self.leaders:
            for node in NODES:
                leader.controller.note("volume_joined", node, f"of {node}")
        peers.leader = leader
        self.leaders.append(leader)
        self.world.spawn("keeps a follower", leader.keep_follower)
        leader.ship()

    def release(self, node: str, ids: list[str]) -> None:
        for id_ in ids:
            self.volumes[node].pins.pop(id_, None)

    def handle(self, leader: Leadership, request: Request) -> Any:
        leader.use()
        if leader.lost:
            raise AssertionError(leader.lost)  # no volume dies here
        return leader.controller.handle(request)

    # Clients

    def ask(self, request: Request) -> Any:
        """Have the present controller carry out a request, or the next one, some times."""
        for _ in range(3):
            with suppress(CallTimeoutError, StoreUnavailableError, StaleEpochError):
                return self._ask(request)
            self.world.sleep(0.5)
        return self._ask(request)

    def _ask(self, request: Request) -> Any:
        # A client may still believe in one that another has followed.
        leader = self.leaders[-1 - self.world.choose(len(self.leaders))]
        repeats = request.id is not None
        return self.send(lambda: self.handle(leader, request), repeats=repeats)

    @contextmanager
    def operation(self, client: str, name: str, argument: Any) -> Iterator[list[Any]]:
        start = self.world.now()
        order = len(self.history)
        outcome: list[Any] = []
        self.history.append(Operation(client, name, argument, UNKNOWN, start, float("inf")))
        try:
            yield outcome
        except PathExistsError:
            outcome.append("exists")
        except PathNotFoundError:
            outcome.append("missing")
        except StorageWriteError:
            outcome.append("refused")
        except (CallTimeoutError, StoreUnavailableError, StaleEpochError):
            return
        looks = name == "load"
        self.history[order] = Operation(
            client, name, argument, outcome[0], start, self.world.now(), looks
        )

    def save(self, client: str, session: Session, name: str, number: int, **how: Any) -> None:
        argument = (name, number)
        with self.operation(client, "replace" if how else "save", argument) as outcome:
            id_ = f"{client}-{next(self._ids)}={number}"
            pin = Pin(id_, ("a",), None, 1)
            self.world.point()
            self.volumes["a"].pins[id_] = pin
            items = Items([name], [(1, None, None)], [(0, WHOLE)], **how)
            with session.change() as change:
                arguments = ([pin], items, [("a", "of a")])
                self.ask(Request("publish", arguments, change, within=3.0))
            outcome.append("done")

    def delete(self, client: str, session: Session, name: str) -> None:
        with self.operation(client, "delete", name) as outcome, session.change() as change:
            self.ask(Request("delete", (name,), change, within=3.0))
            outcome.append("done")

    def load(self, client: str, name: str) -> None:
        with self.operation(client, "load", name) as outcome:
            for _ in range(5):
                [pin] = self.ask(Request("read", ([name],), within=3.0)).pins
                if any(pin.id in self.volumes[node].pins for node in pin.nodes):
                    outcome.append(int(pin.id.partition("=")[2]))
                    return  # else it was replaced in between: look it up again
            outcome.append("lost")

    def confirm(self) -> None:
        """Ask, as a volume does after a while, about all that it holds."""
        session = Session()
        with session.change() as change:
            ids = list(self.volumes["a"].pins)
            self.ask(Request("confirm", (ids, "a", "of a"), change, within=3.0))

    def client(self, work: Callable[[], object]) -> Callable[[], None]:
        self.working += 1

        def run() -> None:
            self.world.block(lambda: bool(self.leaders))
            with suppress(CallTimeoutError, StoreUnavailableError, StaleEpochError):  # of a volume
                work()
            self.working -= 1

        return run


class Peers:
    """The volumes, as one controller calls them."""

    leader: Leadership

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._volumes = cluster.volumes

    def _ask(self, call: Callable[[], Any]) -> Any:
        while True:
            with suppress(CallTimeoutError):
                return self._cluster.send(call)

    def state(self, node: str, epoch: int) -> tuple[int, list[bytes]] | None:
        with suppress(OutOfStepError, KeyError):
            return self._ask(lambda: self._volumes[node].follower.state(epoch))  # type: ignore[no-any-return]
        return None

    def join(self, epoch: int) -> dict[str, Joined]:
        return {
            node: self._ask(lambda v=volume: v.join(epoch))  # type: ignore[misc]
            for node, volume in list(self._volumes.items())
        }

    def candidates(self, present: str | None) -> list[str]:
        if present is None:
            return list(reversed(NODES))  # values are pinned on the other one
        return [self._cluster.better[present]] if present in self._cluster.better else []

    def install(self, node: str, epoch: int, number: int, state: Iterable[bytes]) -> None:
        if node not in self._volumes:
            self.leader.controller.note("volume_joined", node, f"of {node}")
            self._volumes[node] = Volume(node)
        parts = list(state)
        follower, send = self._volumes[node].follower, self._cluster.send
        for i, part in enumerate(parts):
            send(partial(follower.take, epoch, i == 0, part))
        send(partial(follower.install, epoch, number, len(parts)))

    def append(self, node: str, epoch: int, first: int, records: list[bytes]) -> None:
        self._cluster.send(
            lambda: self._volumes[node].follower.append(epoch, first, records), repeats=True
        )

    def forget(self, epoch: int, *, but: str) -> None:
        for node, volume in self._volumes.items():
            if node != but:
                self._cluster._again(lambda v=volume: v.follower.forget(epoch))  # type: ignore[misc]


Scenario = Callable[[Cluster], None]
Patch = Callable[[Cluster], None]


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


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> Patch:
    """Return what puts the model in place of the cluster, the clock and the threads."""

    def patch(cluster: Cluster) -> None:
        for module in (controller, follower, journal, leadership, sessions):
            for name in ("time", "threading"):
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, cluster.world)
        kept = cluster.kept
        monkeypatch.setattr(succession, "remember", cluster.remember)
        monkeypatch.setattr(succession, "recall", cluster.recall)
        monkeypatch.setattr(
            succession, "remembered", lambda p: [k for k in kept if k.startswith(p)]
        )
        monkeypatch.setattr(leadership.logger, "warning", lambda *_, **__: None)

    return patch


def run(
    scenario: Scenario, choices: list[int], patch: Patch, replicas: int = 2
) -> list[tuple[int, int]]:
    """Execute once; return what was chosen, or raise what went wrong."""
    cluster = Cluster(choices, replicas)
    patch(cluster)
    scenario(cluster)
    cluster.world.run(lambda: not cluster.working)
    trace = cluster.world.trace
    last = Cluster([], replicas)
    last.kept, last.volumes, last.history = cluster.kept, cluster.volumes, cluster.history
    last.world.clock = cluster.world.clock + 100.0
    patch(last)
    last.world.spawn("last", last.lead)
    for name in ("/w", "/x"):
        last.world.spawn("reader", last.client(lambda name=name: last.load("last", name)))  # type: ignore[misc]
    last.world.run(lambda: not last.working)
    made = [operation for operation in last.history if operation.outcome != "refused"]
    wrong = explain(made, directory, frozenset())
    if wrong:
        raise AssertionError(f"no order explains this, with the choices {choices}:\n{wrong}")
    return trace


def search(scenario: Scenario, patch: Patch, seconds: float) -> dict[int, int]:
    """Try all executions with one difference, then those with two, then others, as time allows.

    Return how many were tried, by their number of differences; 3 stands for more.
    """
    until = real_time.monotonic() + seconds
    tried = dict.fromkeys(range(4), 0)
    for choices in executions(lambda c: run(scenario, c, patch), 2):
        differences = sum(choice > 0 for choice in choices)
        tried[differences] += 1
        if differences == 2 and real_time.monotonic() > until:
            break
    others = at_random(scenario, patch)
    while real_time.monotonic() < until:
        next(others)
        tried[3] += 1
    return tried


def at_random(scenario: Scenario, patch: Patch) -> Iterator[None]:
    """Try an execution with up to four differences, at random, for each step of the iterator."""
    rng = random.Random(26)
    while True:
        trace = run(scenario, [], patch)
        choices: list[int] = []
        for _ in range(4):
            at = rng.randrange(len(choices), max(len(trace), len(choices) + 1))
            if at >= len(trace):
                break
            choices = [chosen for chosen, _ in trace[:at]] + [rng.randrange(trace[at][1])]
            trace = run(scenario, choices, patch)
            yield


@pytest.mark.timeout(700)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_order_of_events_loses_or_undoes_what_was_acknowledged(
    scenario: Scenario, patched: Patch
) -> None:
    tried = search(scenario, patched, SECONDS)
    print(f"{scenario.__name__}: executions by their number of differences: {tried}")  # noqa: T201
    assert tried[1] > 40


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
    # Some faults are near the usual execution, others are more often met by chance.
    in_order = executions(lambda choices: run(scenario, choices, patched), 2)
    with pytest.raises(AssertionError):
        for _ in zip(in_order, at_random(scenario, patched), strict=False):
            pass
