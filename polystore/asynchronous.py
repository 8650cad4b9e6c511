"""Loads and saves for asyncio: the same ones, in a thread, so that the event loop goes on."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

__all__ = ["AsyncLoads", "AsyncSaves"]


class _Loads(Protocol):
    def load(self, *args: Any, **options: Any) -> Any: ...
    def load_batch(self, *args: Any, **options: Any) -> list[Any]: ...


class _Saves(Protocol):
    def save(self, *args: Any, **options: Any) -> None: ...
    def save_batch(self, *args: Any, **options: Any) -> None: ...


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
        return await asyncio.to_thread(self.load, *args, **options)

    async def aload_batch(self: _Loads, *args: Any, **options: Any) -> list[Any]:
        """Return what ``load_batch`` returns, while the event loop goes on."""
        return await asyncio.to_thread(self.load_batch, *args, **options)


class AsyncSaves:
    """What has ``save`` and ``save_batch``, for asyncio too."""

    async def asave(self: _Saves, *args: Any, **options: Any) -> None:
        """Do what ``save`` does, while the event loop goes on.

        If the task is cancelled meanwhile, the value may still be saved.
        """
        await asyncio.to_thread(self.save, *args, **options)

    async def asave_batch(self: _Saves, *args: Any, **options: Any) -> None:
        """Do what ``save_batch`` does, while the event loop goes on."""
        await asyncio.to_thread(self.save_batch, *args, **options)
