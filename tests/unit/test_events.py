"""Events: what each change tells those who watch, and how calls wait for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from polystore import Event, FileManager, PathNotFoundError, StorageError
from polystore.exceptions import StorageResolutionError, VFSTypeError
from polystore_ray import RayBackendRegistry, WatchExpiredError
from polystore_ray.client.memory import ClusterMemoryBackend
from polystore_ray.controller import events
from polystore_ray.controller.requests import CHANGES
from polystore_ray.transport.in_process import LocalTransport
from polystore_ray.wire import event_log
from polystore_ray.wire.decoding import decode_state, encode_state
from polystore_ray.wire.event_log import EventLog

SOON = 0.2  # seconds, in which something that must not happen would
LONG = 60.0  # seconds, for a machine under load


@pytest.fixture
def registry() -> Iterator[RayBackendRegistry]:
    registry = RayBackendRegistry("events", local=True)
    yield registry
    registry.shutdown()


@pytest.fixture
def memory(registry: RayBackendRegistry) -> ClusterMemoryBackend:
    memory: ClusterMemoryBackend = registry["memory"]
    memory.save("as it was", "/old/x", parents=True)
    memory.create_symlink("/old", "/to old")
    return memory


def told(memory: ClusterMemoryBackend, change: Callable[[], object]) -> list[tuple[object, ...]]:
    """Return the events of a change, without versions, sizes and numbers."""
    last = memory._connect().ask("places", ["/"])[2]
    change()
    found = list(memory.watch("/", since=last, timeout=0))
    return [(e.kind, e.type, e.path, e.source, e.is_tree) for e in found]


CASES: dict[str, tuple[Callable[[ClusterMemoryBackend], object], list[tuple[object, ...]]]] = {
    "publish": (
        lambda m: m.save_batch([1, 2], ["/a/b/1", "/a/b/2"], parents=True),
        [
            ("created", "directory", "/a", None, False),
            ("created", "directory", "/a/b", None, False),
            ("created", "file", "/a/b/1", None, False),
            ("created", "file", "/a/b/2", None, False),
        ],
    ),
    "replace": (
        lambda m: m.save(2, "/old/x", overwrite=True),
        [("replaced", "file", "/old/x", None, False)],
    ),
    "ensure_directory": (
        lambda m: [m.ensure_directory(path) for path in ("/new/below", "/new")],
        [
            ("created", "directory", "/new", None, False),
            ("created", "directory", "/new/below", None, False),
        ],
    ),
    "delete": (
        lambda m: [*map(m.delete, ["/old/x", "/old"])],
        [
            ("deleted", "file", "/old/x", None, False),
            ("deleted", "directory", "/old", None, False),
        ],
    ),
    "delete_all": (
        lambda m: m.delete_all("/old"),
        [("deleted", "directory", "/old", None, True)],
    ),
    "delete_keys": (
        lambda m: m.delete_keys(["/old/x", "/old/missing"], "/"),
        [
            ("deleted", "file", "/old/x", None, False),
            ("deleted", "directory", "/old", None, False),
        ],
    ),
    "move": (
        lambda m: m.move("/old/x", "/y"),
        [("moved", "file", "/y", "/old/x", False)],
    ),
    "move of a tree": (
        lambda m: m.move("/old", "/new"),
        [("moved", "directory", "/new", "/old", True)],
    ),
    "copy": (
        lambda m: m.copy("/old", "/new"),
        [("created", "directory", "/new", None, True)],
    ),
    "create_symlink": (
        lambda m: m.create_symlink("/old", "/link"),
        [("created", "symlink", "/link", None, True)],
    ),
    "create_symlink over another": (
        lambda m: m.create_symlink("/old/x", "/to old", overwrite=True),
        [("replaced", "symlink", "/to old", None, False)],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_change_tells_what_it_did(memory: ClusterMemoryBackend, case: str) -> None:
    change, expected = CASES[case]
    assert told(memory, lambda: change(memory)) == expected


def test_a_change_that_fails_tells_nothing(memory: ClusterMemoryBackend) -> None:
    def fail() -> None:
        with pytest.raises(StorageError):
            memory.save(1, "/old/x")
        with pytest.raises(StorageError):
            memory.move("/missing", "/y")

    assert told(memory, fail) == []


def test_every_change_of_the_tree_tells_of_it() -> None:
    of_no_path = {
        *(
            "adopted",
            "begin_making",
            "claim",
            "release_claim",
            "renew_claim",
            "renew_making",
            "class_arrived",
            "confirm",
            "drain",
            "end_making",
            "evict",
            "lost",
            "packed",
            "pinned",
        ),
        *("set_fallback", "set_pinned", "took_over", "volume_joined", "volume_lost", "withdraw"),
    }
    tell_themselves = {"delete_keys", "expire", "publish"}
    assert events._EVENTS.keys() | of_no_path | tell_themselves == CHANGES.keys()


def test_an_event_has_the_version_and_the_size_of_the_value(memory: ClusterMemoryBackend) -> None:
    watched = memory.watch("/old", timeout=LONG)
    memory.save(np.zeros(10), "/old/x", overwrite=True)
    event, stat = next(watched), memory.stat("/old/x")
    assert (event.version, event.size) == (stat["version"], stat["size"])


def test_a_watch_is_of_one_directory_or_of_all_below_it(memory: ClusterMemoryBackend) -> None:
    last = next(iter(memory.watch("/", since=0, timeout=0))).number - 1
    memory.save(1, "/old/deep/y", parents=True)
    memory.save(2, "/older", parents=True)
    memory.move("/old/deep/y", "/z")

    def paths(top: str, *, recursive: bool) -> list[str]:
        return [e.path for e in memory.watch(top, recursive=recursive, since=last, timeout=0)]

    assert paths("/old", recursive=True) == ["/old", "/old/x", "/old/deep", "/old/deep/y", "/z"]
    assert paths("/old", recursive=False) == ["/old", "/old/x", "/old/deep"]
    assert paths("/z", recursive=True) == ["/z"]


def test_a_watch_of_a_directory_sees_that_a_tree_above_it_goes(
    memory: ClusterMemoryBackend,
) -> None:
    watched = memory.watch("/old/x", timeout=LONG)
    memory.move("/old", "/new")
    memory.move("/new", "/old")
    assert [next(watched).path, next(watched).path] == ["/new", "/old"]


def test_a_watch_through_a_link_sees_what_happens_where_it_leads(
    memory: ClusterMemoryBackend,
) -> None:
    memory.create_symlink("/old", "/link")
    watched = memory.watch("/link", timeout=LONG)
    memory.save(1, "/link/y")
    assert next(watched).path == "/old/y"


def test_a_watch_goes_on_after_any_event(memory: ClusterMemoryBackend) -> None:
    memory.save_batch(range(2500), [f"/n/{number}" for number in range(2500)], parents=True)
    whole = list(memory.watch("/", since=0, timeout=0))
    assert len(whole) == 2504
    assert [event.number for event in whole] == sorted({event.number for event in whole})
    later = list(memory.watch("/", since=whole[1200].number, timeout=0))
    assert later == whole[1201:]


def test_a_watch_that_comes_too_late_says_so(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(event_log, "_MOST", 10)
    memory: ClusterMemoryBackend = request.getfixturevalue("memory")
    slow = memory.watch("/", timeout=LONG)
    for number in range(11):
        memory.save(number, f"/{number}")
    late = memory.watch("/", since=0)
    with pytest.raises(WatchExpiredError, match=r"list the directory.*'/'"):
        next(late)
    assert next(slow).path == "/0"  # it waited when that came


def test_a_log_knows_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "_MOST", 2)
    log = EventLog()
    assert log.after(0) == []
    for number in range(3):
        log.add("created", f"/{number}")
    assert [record[1] for record in log.after(1) or []] == ["/1", "/2"]
    assert log.after(0) is None
    assert log.after(4) is None
    assert log.since(0) == (False, 1, [("created", "/1", 2), ("created", "/2", 3)])


def test_a_log_is_replicated_as_it_is(tmp_path: object) -> None:
    import io

    log = EventLog()
    for number in range(3):
        log.add("created", f"/{number}", "file", False, number, 5)
    file = io.BytesIO()
    encode_state({"events": log}, file)
    file.seek(0)
    assert decode_state(file)["events"].whole() == log.whole()


# Waiting for paths


def later(change: Callable[[], object]) -> threading.Thread:
    thread = threading.Timer(SOON / 2, change)
    thread.start()
    return thread


def test_a_load_waits_for_its_path(registry: RayBackendRegistry) -> None:
    fm = FileManager(registry)
    saving = later(lambda: fm.save(7, "/a/b", backend="memory"))
    assert fm.load("/a/b", backend="memory", wait=LONG) == 7
    saving.join()


def test_a_load_waits_no_longer_than_it_says(memory: ClusterMemoryBackend) -> None:
    start = time.monotonic()
    with pytest.raises(PathNotFoundError, match="/missing"):
        memory.load("/missing", wait=SOON)
    assert SOON <= time.monotonic() - start < LONG


def test_a_wait_returns_when_as_many_paths_exist_as_wanted(memory: ClusterMemoryBackend) -> None:
    saving = later(lambda: memory.save_batch([1, 2], ["/1", "/2"]))
    assert memory.wait(["/0", "/1", "/2"], 1, LONG) == (["/1"], ["/0", "/2"])
    saving.join()
    assert memory.wait(["/2", "/0", "/1"], timeout=0) == (["/2", "/1"], ["/0"])


def test_a_wait_is_for_what_exists_after_it_began(memory: ClusterMemoryBackend) -> None:
    memory.save(1, "/gone")
    memory.delete("/gone")
    assert memory.wait(["/gone"], timeout=SOON) == ([], ["/gone"])


COMES: dict[str, Callable[[ClusterMemoryBackend], object]] = {
    "a directory": lambda m: m.ensure_directory("/new/x/y"),
    "a file below": lambda m: m.save(1, "/new/x/y", parents=True),
    "the copy of a tree": lambda m: m.copy("/source", "/new"),
    "the move of a tree": lambda m: m.move("/source", "/new"),
    "a link to a tree": lambda m: m.create_symlink("/source", "/new"),
    "a value where a link leads": lambda m: m.save(1, "/source/late"),
    "another link": lambda m: m.create_symlink("/source", "/link", overwrite=True),
}
AWAITED = dict.fromkeys(COMES, "/new/x") | {
    "a value where a link leads": "/to source/late",
    "another link": "/link/x",
}


@pytest.mark.parametrize("way", COMES)
def test_a_path_may_come_in_any_way(memory: ClusterMemoryBackend, way: str) -> None:
    memory.save(1, "/source/x", parents=True)
    memory.create_symlink("/source", "/to source")
    memory.ensure_directory("/empty")
    memory.save(1, "/file")
    memory.create_symlink("/file", "/link")
    change = later(lambda: COMES[way](memory))
    assert memory.wait([AWAITED[way]], timeout=LONG) == ([AWAITED[way]], [])
    change.join()


def test_paths_are_the_same_in_any_spelling(memory: ClusterMemoryBackend) -> None:
    saving = later(lambda: memory.save(1, "/old/y"))
    assert memory.wait(["/old//y", "/old/./y"], timeout=LONG) == (["/old//y", "/old/./y"], [])
    saving.join()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((["/a"], 0), VFSTypeError),
        ((["/a"], 2), StorageResolutionError),
        ((["/a"], None, -1), VFSTypeError),
        (("/a",), VFSTypeError),
    ],
)
def test_wrong_arguments_of_a_wait_are_refused(
    memory: ClusterMemoryBackend, arguments: tuple[object, ...], error: type[Exception]
) -> None:
    with pytest.raises(error):
        memory.wait(*arguments)  # type: ignore[arg-type]


def test_nobody_who_waited_is_remembered(registry: RayBackendRegistry) -> None:
    memory = registry["memory"]
    memory.wait(["/a/b"], timeout=0.01)
    with pytest.raises(PathNotFoundError):
        memory.load("/a", wait=0.01)
    list(memory.watch("/", timeout=0.01))
    transport = memory._connect()
    assert isinstance(transport, LocalTransport)
    feed = transport._controller._feed
    assert not feed.is_needed
    assert not feed._below


def test_an_event_is_a_plain_tuple_with_names() -> None:
    assert Event("created", "/a", 1)._asdict()["type"] == "file"
