"""Loads and saves for asyncio: the same ones, in a thread, so that the event loop goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

__all__ = ["AsyncLoads", "AsyncSaves"]

T = TypeVar("T")


class _Loads(Protocol):
    def load(self, *args: Any, **options: Any) -> Any: ...
    def load_batch(self, *args: Any, **options: Any) -> list[Any]: ...


class _Saves(Protocol):
    def save(self, *args: Any, **options: Any) -> None: ...
    def save_batch(self, *args: Any, **options: Any) -> None: ...


async def _in_a_thread(call: Callable[..., T], *args: Any, **options: Any) -> T:
    import asyncio  # a seventh of the time that importing polystore would take

    return await asyncio.to_thread(call, *args, **options)


class AsyncLoads:
    """What has ``load`` and ``load_batch``, for asyncio too."""

    async def aload(self: _Loads, *args: Any, **options: Any) -> Any:
        """Return what ``load`` returns, while the event loop goes on.

        Examples
        --------
        >>> import asyncio
        >>> from polystore import MemoryBackend
        >>> memory = MemoryBackend()
        >>> memory.save(1, "/a")
        >>> asyncio.run(memory.aload("/a"))
        1
        """
        return await _in_a_thread(self.load, *args, **options)

    async def aload_batch(self: _Loads, *args: Any, **options: Any) -> list[Any]:
        """Return what ``load_batch`` returns, while the event loop goes on."""
        return await _in_a_thread(self.load_batch, *args, **options)


class AsyncSaves:
    """What has ``save`` and ``save_batch``, for asyncio too."""

    async def asave(self: _Saves, *args: Any, **options: Any) -> None:
        """Do what ``save`` does, while the event loop goes on.

        If the task is cancelled meanwhile, the value may still be saved.
        """
        await _in_a_thread(self.save, *args, **options)

    async def asave_batch(self: _Saves, *args: Any, **options: Any) -> None:
        """Do what ``save_batch`` does, while the event loop goes on."""
        await _in_a_thread(self.save_batch, *args, **options)
