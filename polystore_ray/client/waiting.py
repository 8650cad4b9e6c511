"""Methods of the cluster memory that wait: for paths that others save, and for changes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as settle
from typing import Any, NamedTuple

from polystore.arguments import seconds, whole_number
from polystore.events import Event
from polystore.exceptions import PathNotFoundError, StorageResolutionError
from polystore.paths import P, as_text, normalize
from polystore_ray.client.lookup import Memory, texts_of
from polystore_ray.deadline import Deadline
from polystore_ray.errors import HostBusyError, HostLostError, WatchExpiredError
from polystore_ray.transport.base import Transport
from polystore_ray.wire.decoding import decode

__all__ = [
    "Step",
    "asked",
    "async_wait",
    "awatch",
    "load_when_there",
    "run",
    "until_in",
    "wait",
    "watch",
]

_IN_ONE_CALL = 30.0  # seconds, after which it is looked again
_LATE = 10.0  # seconds after its time, when an answer counts as lost
_AT_LEAST = 5.0  # seconds, for the question what exists now
_PAUSE = 0.2  # seconds, where the event feed was lost

Ready = tuple[list[str], list[str]]


def wait(
    self: Memory, paths: Sequence[P], num_returns: int | None = None, timeout: float | None = None
) -> Ready:
    """Wait until paths exist, as `ray.wait` waits for objects.

    Whoever waits takes no thread of the store. A task that waits keeps its CPU: if all workers
    wait for paths that only tasks without a worker could save, nothing happens until `timeout`.

    Parameters
    ----------
    paths : sequence of str or os.PathLike
        Files or directories.
    num_returns : int, optional
        How many have to exist; by default all.
    timeout : float, optional
        Seconds; without it, the wait has no end. With 0 it only looks.

    Returns
    -------
    ready, not_ready : list of str
        The first `num_returns` paths that exist, or existed meanwhile, and the others, both in the
        order in which they were given.

    Raises
    ------
    StoreUnavailableError, CallTimeoutError
        If the store does not answer; never reported as "not ready".

    Examples
    --------
    >>> from polystore_ray import RayBackendRegistry
    >>> memory = RayBackendRegistry("waiting", local=True)["memory"]
    >>> memory.save(1, "/a")
    >>> memory.wait(["/a", "/b"], num_returns=1)
    (['/a'], ['/b'])
    >>> memory.wait(["/a", "/b"], timeout=0.1)
    (['/a'], ['/b'])
    """
    ready: Ready = run(_waiting(self, paths, num_returns, timeout))
    return ready


async def async_wait(
    self: Memory,
    paths: Sequence[P],
    num_returns: int | None = None,
    timeout: float | None = None,  # noqa: ASYNC109 - the same as of `wait`
) -> Ready:
    """Wait as `wait` does, while the event loop goes on; thousands of these need no threads."""
    steps = _waiting(self, paths, num_returns, timeout)
    step = await asyncio.to_thread(_next, steps)
    while isinstance(step, Step):
        await asyncio.wait([asyncio.wrap_future(step.future)], timeout=step.seconds)
        step = await asyncio.to_thread(_next, steps, step.future)
    ready: Ready = step.value
    return ready


def watch(
    self: Memory,
    path: P = "/",
    *,
    recursive: bool = True,
    since: int | None = None,
    timeout: float | None = None,
) -> Iterator[Event]:
    """Yield what happens at a path and below it: each event once, in order.

    The events go on over the loss of any one process of the store.

    Parameters
    ----------
    path : str or os.PathLike, default "/"
        A directory or a file, which may be missing.
    recursive : bool, default True
        Whether to watch all levels below the path; otherwise the path and the first level.
    since : int, optional
        Begin after the event of this number; by default, with this call.
    timeout : float, optional
        End after so many seconds without an event. Without it the iterator has no end.

    Yields
    ------
    Event
        A change. One of a tree, which is copied, moved or deleted in one step, is one event.

    Raises
    ------
    WatchExpiredError
        If events after `since` are not known any more: the store keeps the last 20,000. List the
        directory again, and watch anew.

    Examples
    --------
    >>> from polystore_ray import RayBackendRegistry
    >>> memory = RayBackendRegistry("watched", local=True)["memory"]
    >>> events = memory.watch("/plate1", timeout=0.1)
    >>> memory.save(1, "/plate1/A01", parents=True)
    >>> memory.delete("/plate1/A01")
    >>> for event in events:
    ...     print(event.kind, event.type, event.path)
    created directory /plate1
    created file /plate1/A01
    deleted file /plate1/A01
    """
    steps = _watching(self, path, recursive, since, timeout)
    return _events(steps, _next(steps))  # it begins with this call


def load_when_there(
    self: Memory, load: Callable[..., list[Any]], path: P, timeout: float
) -> list[Any]:
    """Return what `load` returns once a path exists, or raise its error if it does not come.

    - `load`: asks through a transport, by default the present one
    """
    text = as_text(path, backend="memory")
    until = Deadline(seconds(timeout, "wait"))
    transport = None
    while True:
        try:
            return load(transport)
        except PathNotFoundError:
            if not until.left:
                raise
            transport = self._connect().when_there(text, min(until.left, _IN_ONE_CALL))
        except HostBusyError:
            transport = None
            wait(self, [path], timeout=until.left)


def _events(steps: Steps, step: Step | _Result) -> Iterator[Event]:
    while isinstance(step, Step):
        yield from step.events
        settle([step.future], step.seconds)
        step = _next(steps, step.future)


async def awatch(
    self: Memory,
    path: P = "/",
    *,
    recursive: bool = True,
    since: int | None = None,
    timeout: float | None = None,  # noqa: ASYNC109 - the same as of `watch`
) -> AsyncIterator[Event]:
    """Yield as `watch` does, while the event loop goes on; it begins with the first step."""
    steps = _watching(self, path, recursive, since, timeout)
    step = await asyncio.to_thread(_next, steps)
    while isinstance(step, Step):
        for event in step.events:
            yield event
        await asyncio.wait([asyncio.wrap_future(step.future)], timeout=step.seconds)
        step = await asyncio.to_thread(_next, steps, step.future)


class Step(NamedTuple):
    """What to wait for before the next step, or events to hand out before it."""

    future: Future[Any]
    seconds: float
    events: Sequence[Event] = ()


class _Result(NamedTuple):
    """The end of all steps."""

    value: Any


Steps = Generator[Step, Any, Any]


def run(steps: Steps) -> Any:
    """Carry out steps, and return what they return."""
    step = _next(steps)
    while isinstance(step, Step):
        settle([step.future], step.seconds)
        step = _next(steps, step.future)
    return step.value


def _next(steps: Steps, future: Future[Any] | None = None) -> Step | _Result:
    """Return the next step, after what the last one waited for, if that came."""
    try:
        if future is None or not future.done():
            return steps.send(None)
        error = future.exception()
        return steps.send(future.result()) if error is None else steps.throw(error)
    except StopIteration as end:
        return _Result(end.value)


def _waiting(
    self: Memory, paths: Sequence[P], num_returns: int | None, timeout: float | None
) -> Generator[Step, Any, Ready]:
    named = {text: normalize(text, backend="memory") for text in texts_of(paths)}
    wanted = len(named)
    if num_returns is not None:
        wanted = whole_number(num_returns, "num_returns", 1, backend="memory")
    if wanted > len(named):
        raise StorageResolutionError(
            f"num_returns={wanted} is more than the {len(named)} different paths", backend="memory"
        )
    until = until_in(timeout)
    ready: set[str] = set()
    while True:
        missing = list(dict.fromkeys(path for path in named.values() if path not in ready))
        places, exist, last = _places(_transport(self, until), missing)
        ready.update(path for path, exists in zip(missing, exist, strict=True) if exists)
        lacking = wanted - sum(path in ready for path in named.values())
        if lacking <= 0 or not until.left:
            break
        pairs = [(p, place) for p, place in zip(missing, places, strict=True) if p not in ready]
        came = yield from asked(self, until, "arrivals", pairs, min(lacking, len(pairs)), last)
        ready.update(came[1] if came[0] and came[1] else ())
        if len(ready) >= len(set(named.values())):
            break
    found = [text for text, path in named.items() if path in ready][:wanted]
    return found, [text for text in named if text not in found]


def _watching(
    self: Memory, path: P, recursive: bool, since: int | None, timeout: float | None
) -> Generator[Step, Any, None]:
    until = until_in(timeout)
    if since is not None:
        since = whole_number(since, "since", 0, backend="memory")
    text = as_text(path, backend="memory")
    [top], _, last = _places(_transport(self, until), [text])
    after = last if since is None else since
    while True:
        is_answered, found = yield from asked(self, until, "changes", top, recursive, after)
        if not is_answered:
            after = after if found is None else found
            if not until.left:
                return
        elif found is None:
            raise WatchExpiredError(
                f"not all events after number {after} are known any more; list the directory, and "
                f"watch again without since=",
                path=text,
                backend="memory",
            )
        else:
            after, records = found
            yield Step(Future(), 0.0, [Event(*record) for record in records])
            until = until_in(timeout)


def asked(
    self: Memory, until: Deadline, kind: str, *arguments: Any
) -> Generator[Step, Any, tuple[bool, Any]]:
    """Return whether the event feed has an answer by a deadline, and the answer.

    See `Transport.next_events`.
    """
    within = min(until.left, _IN_ONE_CALL)
    answer: bytes | None = None
    try:
        asked = _transport(self, until).next_events(kind, *arguments, within=within)
        answer = yield Step(asked, within + _LATE)
    except HostLostError:
        yield Step(Future(), min(until.left, _PAUSE))
    return (False, None) if answer is None else decode(answer)


def _places(transport: Transport, paths: list[str]) -> tuple[list[str], list[bool], int]:
    with transport.measured("memory", "wait"):
        found: tuple[list[str], list[bool], int] = transport.ask("places", paths, path=paths[0])
    return found


def _transport(self: Memory, until: Deadline) -> Transport:
    transport = self._connect()
    return transport.by(Deadline(min(transport.deadline.left, max(until.left, _AT_LEAST))))


def until_in(timeout: float | None) -> Deadline:
    """Return the end of a wait; one without a timeout has no end."""
    return Deadline(math.inf if timeout is None else seconds(timeout, "timeout"))
