"""Call a function with each of many values: in threads, in processes, or in tasks of a cluster."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from polystore.base import DataSource, StorageBackend
from polystore.capabilities import Capability
from polystore.exceptions import StorageError
from polystore.transfer.many import Failure
from polystore.transfer.proxies import Proxy, portable

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

__all__ = ["Call", "RunsTasks", "outcomes"]

Pair = tuple[str, str | None]
"""The path of a value, and that of the result, if it is saved."""


class RunsTasks(Capability, methods=("run_tasks",)):
    """A backend of a cluster, which runs functions in tasks."""

    @abstractmethod
    def run_tasks(
        self, call: Callable[[Pair], Any], pairs: Sequence[Pair], options: Mapping[str, Any]
    ) -> Iterator[Any]:
        """Yield ``call(pair)`` for each pair, in order, each from a task near its value."""


@dataclass(frozen=True, slots=True)
class Call:
    """Load a value, call the function with it, and save the result if there is a target."""

    source: DataSource
    function: Callable[[Any], Any]
    target: StorageBackend | None
    options: dict[str, Any]

    def __call__(self, pair: Pair) -> Any:
        """Return the result, None if it is saved, or the `Failure`."""
        path, new = pair
        try:
            result = self.function(self.source.load(path))
            if self.target is None or new is None:
                return result
            self.target.save(result, new, **self.options)
        except Exception as error:  # noqa: BLE001 - the function may raise anything
            # Without this frame, so that the traceback begins in the function.
            trace = error.__traceback__
            return Failure(error.with_traceback(trace and (trace.tb_next or trace)))
        return None


def outcomes(
    call: Call,
    pairs: Sequence[Pair],
    *,
    workers: int | None,
    processes: bool,
    tasks: Mapping[str, Any],
) -> Generator[Any, None, None]:
    """Yield what a call returns for each pair, in order; see `FileManager.map`."""
    if isinstance(call.source, RunsTasks):
        there, pairs = _placed(call, pairs)
        yield from call.source.run_tasks(there, pairs, tasks)
        return
    number = workers or os.cpu_count() or 1
    if processes:
        yield from _in_processes(call, pairs, number)
    else:
        from concurrent.futures import ThreadPoolExecutor  # late, as what processes need

        pool = ThreadPoolExecutor(number)
        try:
            yield from pool.map(call, pairs)
        finally:
            pool.shutdown(cancel_futures=True)


def _placed(call: Call, pairs: Sequence[Pair]) -> tuple[Call, Sequence[Pair]]:
    """Return a call and its paths as they mean the same on every node."""
    source, target = call.source, call.target
    placed = [
        (portable(source, old), None if target is None or new is None else portable(target, new))
        for old, new in pairs
    ]
    there = Call(_fixed(source), call.function, target and _fixed(target), call.options)
    return there, placed


def _fixed(backend: Any) -> Any:
    return backend.placed()[0] if isinstance(backend, Proxy) else backend


def _in_processes(call: Call, pairs: Sequence[Pair], number: int) -> Iterator[Any]:
    # Late: they take as long as it takes to import polystore.
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    import cloudpickle

    sent = partial(_call_sent, cloudpickle.dumps(call))
    start = partial(ProcessPoolExecutor, mp_context=get_context("spawn"))
    pool = start(number)
    try:
        calls = deque((pair, _submitted(pool, sent, pair)) for pair in pairs)
        while calls:
            pair, made = calls.popleft()
            if not _is_broken(made):
                yield _outcome(made)
                continue
            # A process died, and nobody knows during which call: repeat this one alone.
            with start(1) as alone:
                made = _submitted(alone, sent, pair)
            yield Failure(_died()) if _is_broken(made) else _outcome(made)
            pool.shutdown()
            pool = start(number)
            calls = deque(
                (pair, _submitted(pool, sent, pair) if _is_broken(made) else made)
                for pair, made in calls
            )
    finally:
        pool.shutdown(cancel_futures=True)


def _submitted(pool: Executor, call: Callable[[Pair], Any], pair: Pair) -> Future[Any]:
    from concurrent.futures import BrokenExecutor, Future

    try:
        return pool.submit(call, pair)
    except BrokenExecutor as error:
        failed: Future[Any] = Future()
        failed.set_exception(error)
        return failed


def _is_broken(call: Future[Any]) -> bool:
    """Wait for a call; return whether the pool lost a process before the call had a result."""
    from concurrent.futures import BrokenExecutor

    return isinstance(call.exception(), BrokenExecutor)


def _outcome(call: Future[Any]) -> Any:
    try:
        return call.result()
    except Exception as error:  # noqa: BLE001 - a result may fail to pickle in any way
        return Failure(error)


def _died() -> StorageError:
    return StorageError("the process died while it ran the function; processes=False shows why")


@lru_cache(maxsize=1)
def _received(sent: bytes) -> Call:
    import cloudpickle

    call: Call = cloudpickle.loads(sent)
    return call


def _call_sent(sent: bytes, pair: Pair) -> Any:
    return _received(sent)(pair)
