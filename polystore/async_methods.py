"""Methods for asyncio: the synchronous ones, run in a thread while the event loop goes on."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import update_wrapper
from typing import Any, ParamSpec, TypeVar

__all__ = ["in_a_thread"]

A = ParamSpec("A")
T = TypeVar("T")


def in_a_thread(method: Callable[A, T]) -> Callable[A, Coroutine[Any, Any, T]]:
    """Return a coroutine method that runs the object's method of this name in a thread.

    Examples
    --------
    >>> import asyncio
    >>> from polystore import MemoryBackend
    >>> memory = MemoryBackend()
    >>> asyncio.run(memory.asave(1, "/a"))
    >>> asyncio.run(memory.aload("/a"))
    1
    """
    name = method.__name__

    async def call(*args: A.args, **options: A.kwargs) -> T:
        import asyncio  # a seventh of the time that importing polystore would take

        self, *others = args
        result: T = await asyncio.to_thread(getattr(self, name), *others, **options)
        return result

    update_wrapper(call, method, assigned=("__module__",), updated=())
    call.__name__ = f"a{name}"
    call.__qualname__ = method.__qualname__.replace(name, call.__name__)
    call.__doc__ = (
        f"Run `{name}` in a thread, while the event loop goes on.\n\n"
        f"If the task is cancelled, `{name}` still runs to its end."
    )
    return call
