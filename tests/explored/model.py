"""The failover of a store as a model: its cluster, its messages and its clients."""

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
from polystore_ray.controller import journal, leases
from polystore_ray.controller import state as controller
from polystore_ray.controller.leases import Paths
from polystore_ray.errors import CallTimeoutError, StoreUnavailableError
from polystore_ray.hosting import lease_keeper
from polystore_ray.hosting.lease_keeper import LeaseKeeper
from polystore_ray.replication import epochs as succession
from polystore_ray.replication import follower, leadership
from polystore_ray.replication.epochs import Succession
from polystore_ray.replication.follower import Follower
from polystore_ray.replication.leadership import Leadership
from polystore_ray.testing.history import directory
from polystore_ray.testing.linearizability import UNKNOWN, Operation, explain
from polystore_ray.transport import leased_reads
from polystore_ray.transport.leased_reads import LeasedReads
from polystore_ray.wire import lease_board, sessions
from polystore_ray.wire.lease_board import LeaseBoard, WritableLeaseBoard
from polystore_ray.wire.messages import (
    NOTHING,
    WHOLE,
    Items,
    Joined,
    OutOfStepError,
    Pin,
    Renewal,
    Request,
    StaleEpochError,
    StaleVolumeError,
    Wish,
)
from polystore_ray.wire.sessions import Session
from tests.explored.explorer import World, executions

NODES = ("a", "b")
CLOCK_OF_NODES = 0.82  # its speed, where a node's is a tenth slow and the controller's a tenth fast
_TIMED = (
    controller,
    follower,
    journal,
    leadership,
    leased_reads,
    lease_board,
    lease_keeper,
    leases,
    sessions,
)
SECONDS = float(os.environ.get("POLYSTORE_MODEL_SECONDS", "5"))
DELIVERED, REQUEST_LOST, ANSWER_LOST, REPEATED = range(4)


class Volume:
    """A volume: its follower, which objects it pins, and its node's lease."""

    def __init__(self, node: str, cluster: Cluster) -> None:
        self.node = node
        self.follower = Follower()
        self.pins: dict[str, Pin] = {}
        self.board = WritableLeaseBoard()
        self.leases = LeaseKeeper(self.board, self._renewal)
        self.controller: Peers | None = None
        self._cluster = cluster

    def _renewal(self) -> Renewal | None:
        leader = getattr(self.controller, "leader", None)
        if leader is None:
            return None
        with suppress(CallTimeoutError):
            renewal: Renewal | None = self._cluster.send(
                lambda: leader.controller.renew_lease(self.node, f"of {self.node}")
            )
            return renewal
        return None

    def join(self, epoch: int, controller: Peers) -> Joined:
        self.follower.promise(epoch)
        self.controller = controller
        self.leases.turn_to(epoch)
        holdings = [pin._replace(nodes=()) for pin in self.pins.values()]
        return Joined(f"of {self.node}", holdings)


class Cluster:
    """All that there is in one execution."""

    def __init__(self, choices: list[int], replicas: int) -> None:
        self.world = World(choices)
        self.options = StoreOptions(replicas=replicas)
        self.kept: dict[str, bytes] = {}
        self.volumes = {node: Volume(node, self) for node in NODES}
        self.readers = {node: Reader(self, node) for node in NODES}
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
            leader = Leadership(Succession("store", self.options), peers, self.release, self.tell)
        except (StaleEpochError, StorageError, ray_exceptions.RpcError):
            self.world.spawn("another one", self.lead)
            return
        finally:
            self.begun += 1
        if not self.leaders:
            for node, volume in self.volumes.items():
                leader.controller.note("volume_joined", node, f"of {node}")
                volume.controller = peers
        peers.leader = leader
        self.leaders.append(leader)
        self.world.spawn("keeps a follower", leader.keep_follower)
        leader.ship()

    def tell(self, node: str, term: int, paths: Paths) -> Callable[[float], bool]:
        def has_heard(_: float) -> bool:
            if node not in self.volumes:
                return False
            return bool(self.send(lambda: self.volumes[node].leases.count(term, paths)))

        return has_heard

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

    def save_small(self, client: str, session: Session, name: str, number: int) -> None:
        with self.operation(client, "replace", (name, number)) as outcome:
            items = Items([name], [(1, None, None)], [str(number).encode()], overwrite=True)
            self.change_on_node(session, "publish", [], items)
            outcome.append("done")

    def delete(self, client: str, session: Session, name: str) -> None:
        with self.operation(client, "delete", name) as outcome:
            self.change_on_node(session, "delete", name)
            outcome.append("done")

    def change_on_node(self, session: Session, operation: str, *arguments: Any) -> None:
        """Change something from node "a", whose board the maker of the change counts on itself."""
        with session.change() as id_:
            request = Request(operation, arguments, id_, within=3.0)
            self.readers["a"].reads.changed(lambda wish: self.ask(request._replace(wish=wish)))

    def load(self, client: str, name: str) -> None:
        with self.operation(client, "load", name) as outcome:
            for _ in range(5):
                found = self.ask(Request("read", ([name],), within=3.0))
                if not found.pins:
                    outcome.append(int(found.stored[0]))
                    return
                [pin] = found.pins
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


class Reader:
    """A process of a node, which keeps what it reads."""

    def __init__(self, cluster: Cluster, node: str) -> None:
        self._cluster = cluster
        self._volume = cluster.volumes[node]
        self.reads = LeasedReads(node, self._board, lambda: True, 10_000, is_local=True)

    def _board(self) -> LeaseBoard:
        self._volume.leases.renew()
        return self._volume.board

    def ask(
        self, operation: str, *arguments: Any, path: str | None = None, wish: Wish | None = None
    ) -> Any:
        answer = self._cluster.ask(Request(operation, arguments, within=3.0, wish=wish))
        self._cluster.world.point()  # on its way
        return answer

    def load(self, client: str, name: str) -> None:
        """Load a small value, if it is there."""
        with self._cluster.operation(client, "load", name) as outcome:
            [stored] = self.reads.look_up(self, [name], existing=True).stored
            outcome.append(int(stored) if isinstance(stored, bytes) else "missing")
            assert isinstance(stored, bytes) or stored == NOTHING


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
            node: self._ask(lambda v=volume: v.join(epoch, self))  # type: ignore[misc]
            for node, volume in list(self._volumes.items())
        }

    def candidates(self, present: str | None) -> list[str]:
        if present is None:
            return list(reversed(NODES))  # values are pinned on the other one
        return [self._cluster.better[present]] if present in self._cluster.better else []

    def install(self, node: str, epoch: int, number: int, state: Iterable[bytes]) -> None:
        if node not in self._volumes:
            self.leader.controller.note("volume_joined", node, f"of {node}")
            self._volumes[node] = Volume(node, self._cluster)
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


def patched(monkeypatch: pytest.MonkeyPatch) -> Patch:
    """Return what puts the model in place of the cluster, the clock and the threads."""

    def patch(cluster: Cluster) -> None:
        # Only the first is to be undone; of the others, nothing may be kept.
        put = setattr if vars(leadership)["time"] is not real_time else monkeypatch.setattr

        def now() -> int:
            cluster.world.point()
            return int(cluster.world.clock * CLOCK_OF_NODES * 1e9)

        for module in _TIMED:
            for name in ("time", "threading"):
                if hasattr(module, name):
                    put(module, name, cluster.world)
        kept = cluster.kept
        put(lease_board, "now", now)
        put(lease_keeper, "now", now)
        put(succession, "remember", cluster.remember)
        put(succession, "recall", cluster.recall)
        put(succession, "remembered", lambda p: [k for k in kept if k.startswith(p)])

    monkeypatch.setattr(leadership.logger, "warning", lambda *_, **__: None)
    monkeypatch.setattr(lease_board, "_COUNTERS", 8)
    monkeypatch.setattr(lease_board, "_BYTES", 8 * (lease_board._FIRST + 8))
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


def check(scenario: Scenario, patch: Patch) -> None:
    """Try executions as time allows, and those with one difference in any case."""
    tried = search(scenario, patch, SECONDS)
    print(f"{scenario.__name__}: executions by their number of differences: {tried}")  # noqa: T201
    assert tried[1] > 40


def find(scenario: Scenario, patch: Patch) -> None:
    """Try executions, in turn in order and at random, until one raises what went wrong."""
    in_order = executions(lambda choices: run(scenario, choices, patch), 2)
    for _ in zip(in_order, at_random(scenario, patch), strict=False):
        pass


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
