"""Loads and saves for asyncio."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from polystore import FileManager, MemoryBackend, PathExistsError, StorageBackend
from polystore_ray import RayBackendRegistry


class Slow(StorageBackend):
    """A custom backend, of which three calls go on only together, each in some thread."""

    def __init__(self) -> None:
        self.threads: set[int] = set()
        self.together = threading.Barrier(3, timeout=60)

    def load(self, path: Any) -> Any:
        self.threads.add(threading.get_ident())
        self.together.wait()
        time.sleep(0.2)
        return path

    def save(self, data: Any, path: Any) -> None:
        self.together.wait()

    def is_file(self, path: Any) -> bool:
        return False

    def is_dir(self, path: Any) -> bool:
        return False

    def list_dir(self, path: Any) -> list[str]:
        return []


def test_the_event_loop_goes_on_meanwhile() -> None:
    async def work() -> tuple[Any, int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.01)

        ticking = asyncio.create_task(tick())
        loaded = await asyncio.gather(slow.aload("a"), slow.aload("b"), slow.asave(1, "c"))
        ticking.cancel()
        return loaded, ticks

    slow = Slow()
    loaded, ticks = asyncio.run(work())
    assert [*loaded] == ["a", "b", None]
    assert ticks > 5
    assert threading.get_ident() not in slow.threads


@pytest.mark.parametrize(
    "registry", [{"memory": MemoryBackend()}, RayBackendRegistry("async", local=True)]
)
def test_they_do_what_their_namesakes_do(registry: Any) -> None:
    async def work() -> None:
        fm = FileManager(registry)
        await fm.asave([1], "/d/a", backend="memory")
        await fm.asave_batch([2, 3], ["/d/b", "/d/c"], backend="memory")
        assert await fm.aload("/d/a", backend="memory") == [1]
        assert await fm.aload_batch(["/d/c", "/d/b"], backend="memory") == [3, 2]
        with pytest.raises(PathExistsError):
            await fm.registry["memory"].asave(1, "/d/a")

    asyncio.run(work())
