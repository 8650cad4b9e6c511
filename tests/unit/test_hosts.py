"""The table of hosts: what it makes and takes over, and that nobody waits for Ray in it."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray
from ray import exceptions as ray_exceptions

from polystore import MemoryBackend
from polystore_ray.controller import host_table
from polystore_ray.controller.host_table import HostTable
from polystore_ray.errors import StoreUnavailableError
from polystore_ray.wire.classes import Shipped, class_to_bytes
from polystore_ray.wire.versions import ClassVersions

WITHIN = 10.0  # seconds


class Custom(MemoryBackend):
    """A hosted backend."""

    _backend_type = "hosts_custom"


class Call:
    """A method of an actor."""

    def __init__(self, answer: Any = None) -> None:
        self.remote = lambda: answer if answer is not None else object()


class Host:
    """An actor of a host."""

    def __init__(self, name: str, shipped: bytes = b"") -> None:
        self.name = name
        self.watch, self.close, self.shipped = Call(), Call(), Call(shipped)


class Store:
    """A controller: what it makes, finds, and hears of."""

    def __init__(self) -> None:
        self.events: list[tuple[str, ...]] = []
        self.versions = ClassVersions()
        self.make: Callable[[str, str], Host] = lambda key, node: Host(f"{key}@{node}")
        self.find: Callable[[str, str], Host | None] = lambda _key, _node: None
        self.hosts = HostTable(
            self._make,
            lambda key, node: self.find(key, node),
            lambda node, name: self.events.append(("joined", node, name)),
            lambda node: self.events.append(("lost", node)),
            self._number,
        )

    def _number(self, key: str, cls: Shipped) -> int:
        return self.versions.number(key, cls.origin, cls.sequence, cls.fingerprint)

    def _make(self, key: str, node: str, _shipped: bytes, *, another: bool = False) -> Host:
        host = self.make(key, node)
        self.events.append(("another" if another else "made", key, node))
        return host

    def taken_once(self, key: str, node: str) -> Host:
        """Refuse to make one host, since its name is taken."""
        self.make = lambda key, node: Host(f"{key}@{node}")
        raise ray_exceptions.ActorAlreadyExistsError(f"The name {key}@{node} is already taken.")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(host_table, "is_alive", lambda _node: True)
    monkeypatch.setattr(host_table, "actor_id", lambda host: host.name)
    monkeypatch.setattr(host_table, "wait_for", lambda answer, **_: answer)
    monkeypatch.setattr(ray, "wait", lambda asked, **_: (asked, []))
    monkeypatch.setattr(ray, "get", lambda *_, **__: None)
    monkeypatch.setattr(ray, "kill", lambda host: killed.append(host.name))
    killed: list[str] = []
    store = Store()
    yield store
    store.hosts.kill_all()
    assert not killed or store.hosts.everywhere() == {}


def in_time(call: Callable[[], Any]) -> Any:
    """Return the result of a call that must not wait for another thread."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()), daemon=True)
    thread.start()
    thread.join(WITHIN)
    assert results, "the call waits"
    return results[0]


@pytest.mark.parametrize("key", ["memory", "hosts_custom"])
def test_nobody_waits_while_ray_is_slow_to_make_a_host(store: Store, key: str) -> None:
    """As when the control store does not answer, which knows what a node has."""
    shipped = b"" if key == "memory" else class_to_bytes(Custom)
    asked, go_on = threading.Event(), threading.Event()

    def make(key: str, node: str) -> Host:
        if node == "slow":
            asked.set()
            assert go_on.wait(6 * WITHIN)
        return Host(f"{key}@{node}")

    store.make = make
    slow = threading.Thread(target=store.hosts.host, args=(key, "slow", shipped))
    slow.start()
    try:
        assert asked.wait(WITHIN)
        assert in_time(lambda: store.hosts.host(key, "quick", shipped)).name == f"{key}@quick"
        assert in_time(store.hosts.everywhere).keys() == {(key, "quick")}
        assert in_time(lambda: store.hosts.host("memory", "quick", b"")) is not None
        assert in_time(store.hosts.classes).keys() <= {key}
    finally:
        go_on.set()
        slow.join(WITHIN)
    assert store.hosts.everywhere()[key, "slow"].name == f"{key}@slow"


def test_one_host_is_made_for_many_that_ask_at_once(store: Store) -> None:
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait()
        store.hosts.host("memory", "node", b"")

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.events == [("made", "memory", "node"), ("joined", "node", "memory@node")]


def test_a_volume_that_another_controller_made_unseen_is_taken_over(store: Store) -> None:
    former = Host("of the former")
    store.make, store.find = store.taken_once, lambda _key, _node: former
    assert store.hosts.host("memory", "node", b"") is former
    assert store.hosts.host("memory", "node", b"") is former
    assert store.events == [("joined", "node", "of the former")]


def test_a_host_that_another_controller_made_unseen_is_taken_over_if_it_is_of_the_class(
    store: Store,
) -> None:
    shipped = class_to_bytes(Custom)
    former = Host("of the former", shipped)
    store.make, store.find = store.taken_once, lambda _key, _node: former
    assert store.hosts.host("hosts_custom", "node", shipped) is former
    assert store.hosts.host("hosts_custom", "node", shipped) is former
    assert store.events == []


def test_a_host_whose_former_is_about_to_end_is_made_then(store: Store) -> None:
    store.make = store.taken_once
    assert store.hosts.host("memory", "node", b"").name == "memory@node"
    assert store.events == [("made", "memory", "node"), ("joined", "node", "memory@node")]


def test_a_name_that_stays_taken_is_an_error_of_the_store(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_table, "_ENDS_WITHIN", 0.2)

    def taken(key: str, node: str) -> Host:
        raise ray_exceptions.ActorAlreadyExistsError(f"The name {key}@{node} is already taken.")

    store.make = taken
    with pytest.raises(StoreUnavailableError, match="memory@node is already taken"):
        store.hosts.host("memory", "node", b"")


def test_no_host_is_made_once_the_store_has_ended(store: Store) -> None:
    """It would take the name of one that a new store of the same name makes."""
    store.hosts.kill_all()
    with pytest.raises(StoreUnavailableError, match="was shut down"):
        store.hosts.host("memory", "a node", b"")
    assert store.events == []


def test_a_host_that_is_made_while_the_store_ends_is_killed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[Any] = []
    monkeypatch.setattr(ray, "kill", killed.append)
    made = Host("late")

    def make(_key: str, _node: str) -> Host:
        store.hosts.kill_all()
        return made

    store.make = make
    with pytest.raises(StoreUnavailableError, match="was shut down"):
        store.hosts.host("memory", "a node", b"")
    assert killed == [made]
    assert store.hosts.everywhere() == {}


def test_the_first_and_the_latest_code_are_told_apart_by_no_clock() -> None:
    versions = ClassVersions()

    def number(origin: str, sequence: int, code: str) -> int:
        return versions.number("mine", origin, sequence, code)

    assert number("driver", 0, "first") == 1
    assert number("worker", 0, "first") == 1  # the same code, defined by an import
    assert number("driver", 2, "third") == 2
    assert number("driver", 1, "second") < 2  # pickled earlier, used later
    assert number("another driver", 0, "other") == 3
    assert number("worker", 0, "first") == 1
    assert number("driver", 2, "third") == 2
    assert number("driver", 3, "other") == 3
    assert number("another driver", 1, "first") == 4  # edited back
    assert versions.number("another key", "driver", 9, "first") == 1


def test_what_is_remembered_of_a_class_is_bounded() -> None:
    versions = ClassVersions()
    for process in range(5000):
        versions.number("mine", f"{process}", 0, "code")
    assert len(pickle.dumps(versions)) < 100_000
    assert versions.number("mine", "0", 0, "code") == 1
