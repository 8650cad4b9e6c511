"""Watches that a host keeps, and that callers ask for events by one short call after another."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_base import Five
from test_file_watch import LONG, listeners, short

from polystore import Event, FileManager, PathNotFoundError, UnsupportedOperationError
from polystore_ray import HostBusyError, RayBackendRegistry, WatchExpiredError
from polystore_ray.client.hosted_events import HostedEvents
from polystore_ray.hosting import watches
from tests.cluster.nodes import eventually


@pytest.fixture
def registry() -> Iterator[RayBackendRegistry]:
    registry = RayBackendRegistry(uuid.uuid4().hex, local=True)
    yield registry
    registry.shutdown()
    assert eventually(lambda: listeners() == 0)


@pytest.mark.parametrize("key", ["disk", "zarr"])
def test_a_hosted_backend_is_watched(
    registry: RayBackendRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.chdir(tmp_path)
    fm = FileManager(registry)
    fm.ensure_directory("data", key)
    events = fm.watch("data", key, timeout=0)
    here = fm.watch("data", key, recursive=False, timeout=0)
    fm.save("1", "data/well/a.txt", key)
    assert [event[:5] for event in events] == [
        ("created", "data/well", 1, "directory", False),
        ("created", "data/well/a.txt", 2, "file", False),
    ]
    assert short(here) == [("created", "data/well")]


def test_a_hosted_watch_waits_for_events(registry: RayBackendRegistry, tmp_path: Path) -> None:
    disk = registry["disk"]
    with disk.watch(tmp_path, timeout=LONG) as events:
        for number in range(3):
            disk.save(number, tmp_path / f"{number}.json")
            assert short([next(events)]) == [("created", f"{tmp_path}/{number}.json")]
    assert list(events) == []
    assert eventually(lambda: listeners() == 0)


def test_errors_of_a_hosted_watch_arrive(registry: RayBackendRegistry, tmp_path: Path) -> None:
    disk = registry["disk"]
    with pytest.raises(PathNotFoundError):
        disk.watch(tmp_path / "missing")
    disk.ensure_directory(tmp_path / "a")
    with disk.watch(tmp_path / "a", timeout=LONG) as events:
        disk.delete(tmp_path / "a")
        assert short([next(events)]) == [("deleted", f"{tmp_path}/a")]
        with pytest.raises(PathNotFoundError, match="watch the path again"):
            next(events)


def test_a_coroutine_watches_a_hosted_backend(registry: RayBackendRegistry, tmp_path: Path) -> None:
    async def run() -> list[Event]:
        return [event async for event in registry["disk"].awatch(tmp_path, timeout=0)]

    assert asyncio.run(run()) == []


def test_a_watch_that_nobody_asks_is_ended(
    registry: RayBackendRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watches, "_KEPT", 0.01)
    events = registry["disk"].watch(tmp_path)
    assert eventually(lambda: listeners() == 0)
    with pytest.raises(WatchExpiredError, match="watch it again"):
        next(events)


def test_a_watch_goes_on_when_the_host_was_busy() -> None:
    answers: list[Any] = ["id", HostBusyError("busy"), [], [tuple(Event("created", "/a", 1))], None]

    def call(method: str, *_: Any, **__: Any) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    events = HostedEvents(call, lambda path: f"here{path}", 2.0, "/")
    assert list(events) == [Event("created", "here/a", 1)]
    assert answers == []


class Quiet(Five):
    _backend_type = "quiet"


class Endless(Five):
    """One whose watch would hold a call of its host for ever."""

    _backend_type = "endless"

    def watch(self, path: Any, **options: Any) -> Iterator[Event]:
        yield Event("created", path, 1)


@pytest.mark.parametrize(
    ("key", "said"), [("quiet", "does not support watch"), ("endless", "in a task on that node")]
)
def test_a_host_runs_no_watch_without_an_end(
    registry: RayBackendRegistry, key: str, said: str
) -> None:
    with pytest.raises(UnsupportedOperationError, match=said):
        registry[key].watch("/")
    # Nor does it run the method itself.
    with pytest.raises(UnsupportedOperationError, match="no operation 'watch'"):
        registry[key]._call("watch", "/")
