"""A bounded explorer: the same threads in every order, one at a time, on a clock of their own.

The code under test runs in real threads, of which one has the baton. It is handed on at *points*:
where a message travels, a lock is waited for, or time passes. At each point there are some choices,
the first of which is to go on. An execution is the list of its choices, so that it can be repeated;
`executions` yields all of those that differ from going on in at most so many places.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

__all__ = ["Stopped", "World", "executions"]

_MOST_POINTS = 3000  # in one execution, which goes in a circle then
_AT_ONCE = 20.0  # real seconds that anything between two points may take


class Stopped(BaseException):
    """Signal to a thread that its execution is over."""


class _Task:
    def __init__(self, name: str) -> None:
        self.name = name
        self.turn = threading.Semaphore(0)
        self.is_done = False
        self.until: Callable[[], bool] | None = None  # it waits for this
        self.deadline = float("inf")


class World:
    """Threads that take turns. It stands in for the modules `threading` and `time`.

    Parameters
    ----------
    choices : list of int
        What is chosen at the first points; later it is the first of the choices.
    """

    def __init__(self, choices: list[int]) -> None:
        self._choices = choices
        self.trace: list[tuple[int, int]] = []  # what was chosen, of how many
        self.clock = 1000.0
        self._steps = 0
        self.error: BaseException | None = None
        self._tasks: list[_Task] = []
        self._threads: list[threading.Thread] = []
        self._current: _Task | None = None
        self._over = threading.Event()
        self._stops = False

    def choose(self, count: int) -> int:
        """Return which of some choices is taken at this point."""
        if count < 2:
            return 0
        at = len(self.trace)
        chosen = self._choices[at] if at < len(self._choices) else 0
        self.trace.append((chosen, count))
        if at > _MOST_POINTS:
            raise AssertionError("an execution does not end")
        return chosen

    def now(self) -> float:
        """Return the time, in which what follows at one moment of the clock is told apart."""
        self._steps += 1
        return self.clock + self._steps * 1e-6

    # Threads

    def spawn(self, name: str, work: Callable[[], object]) -> None:
        """Add a thread, which runs when it is chosen."""
        task = _Task(name)
        self._tasks.append(task)

        def run() -> None:
            task.turn.acquire()
            try:
                if not self._stops:
                    work()
            except Stopped:
                pass
            except BaseException as error:  # noqa: BLE001 - it is raised by `run`
                self.error = self.error or error
                self._stops = True
            task.is_done = True
            self._hand_on()

        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def run(self, ends: Callable[[], bool]) -> None:
        """Run all threads until `ends()`, and raise what one of them raised."""
        self._ends = ends
        self._hand_on()
        assert self._over.wait(_AT_ONCE), "a thread waits for something that is no point"
        self._stops = True
        for task in self._tasks:
            task.turn.release()
        for thread in self._threads:
            thread.join(_AT_ONCE)
        if self.error is not None:
            raise self.error

    def _runnable(self) -> list[_Task]:
        return [task for task in self._tasks if not task.is_done and self._can_run(task)]

    def _can_run(self, task: _Task) -> bool:
        if task.until is None or self.clock >= task.deadline:
            return True
        try:
            return task.until()
        except Exception:  # noqa: BLE001 - the task itself is to meet it
            return True

    def _hand_on(self, *, voluntarily: bool = False) -> None:
        """Let some thread run: this one, another one, or the next after time has passed."""
        me = self._current
        while not self._stops and not self._ends():
            able = self._runnable()
            if voluntarily and me in able:
                able.remove(me)
                able.insert(0, me)
            deadlines = [t.deadline for t in self._tasks if not t.is_done and t.until is not None]
            later = min((d for d in deadlines if d > self.clock), default=float("inf"))
            count = len(able) + (later < float("inf"))
            if not count:
                self.error = self.error or AssertionError("every thread waits for another one")
                break
            try:
                chosen = self.choose(count)
            except AssertionError as error:
                self.error = self.error or error
                break
            if chosen == len(able):
                self.clock = later
                continue
            self._current = able[chosen]
            able[chosen].turn.release()
            return
        self._stops = True
        self._over.set()

    def point(self) -> None:
        """Let others run here, or not."""
        self._wait(None, float("inf"))

    def block(self, until: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait until something is so, or some time has passed; return whether it is so."""
        deadline = float("inf") if timeout is None else self.clock + timeout
        while not until():
            if self.clock >= deadline:
                return False
            self._wait(until, deadline)
        return True

    def _wait(self, until: Callable[[], bool] | None, deadline: float) -> None:
        me = self._current
        assert me is not None
        me.until, me.deadline = until, deadline
        self._hand_on(voluntarily=True)
        me.turn.acquire()
        me.until, me.deadline = None, float("inf")
        if self._stops:
            raise Stopped

    # In place of the modules `time` and `threading`

    def monotonic(self) -> float:
        return self.clock

    def clock_gettime_ns(self, _clock: int) -> int:
        return int(self.clock * 1e9)

    time = monotonic

    def sleep(self, seconds: float) -> None:
        self.block(lambda: False, seconds)

    def RLock(self) -> _Lock:  # noqa: N802 - as in `threading`
        return _Lock(self)

    Lock = RLock

    def Condition(self, lock: _Lock | None = None) -> _Condition:  # noqa: N802 - as above
        return _Condition(self, lock or _Lock(self))

    def Event(self) -> _Event:  # noqa: N802 - as above
        return _Event(self)

    @property
    def current(self) -> object:
        """The thread that runs."""
        return self._current


class _Lock:
    def __init__(self, world: World) -> None:
        self._world = world
        self.owner: object = None
        self.depth = 0

    def __enter__(self) -> None:
        me = self._world.current
        if self.owner not in (None, me):
            self._world.block(lambda: self.owner is None)
        self.owner, self.depth = me, self.depth + 1

    def __exit__(self, *_: object) -> None:
        self.depth -= 1
        if not self.depth:
            self.owner = None


class _Condition:
    def __init__(self, world: World, lock: _Lock) -> None:
        self._world, self._lock = world, lock

    def __enter__(self) -> None:
        self._lock.__enter__()

    def __exit__(self, *_: object) -> None:
        self._lock.__exit__()

    def wait_for(self, until: Callable[[], Any], timeout: float | None = None) -> bool:
        with self._released():
            return self._world.block(lambda: bool(until()), timeout)

    @contextmanager
    def _released(self) -> Iterator[None]:
        lock, me, depth = self._lock, self._lock.owner, self._lock.depth
        lock.owner, lock.depth = None, 0
        try:
            yield
        finally:
            if not self._world._stops and lock.owner not in (None, me):
                self._world.block(lambda: lock.owner is None)
            lock.owner, lock.depth = me, depth

    def notify(self) -> None:
        """Do nothing: who waits looks again by itself."""

    notify_all = notify


class _Event:
    def __init__(self, world: World) -> None:
        self._world = world
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True

    def wait(self, timeout: float | None = None) -> bool:
        return self._world.block(self.is_set, timeout)


def executions(
    run: Callable[[list[int]], list[tuple[int, int]]], differences: int
) -> Iterator[list[int]]:
    """Yield the choices of every execution that goes on as usual but for so many differences.

    Those with fewer differences come first.

    Parameters
    ----------
    run : callable
        Execute with these first choices; return what was chosen at each point, and of how many.
    differences : int
        How often something else than the first choice is taken.
    """
    level: list[Iterator[list[int]]] = [iter([[]])]
    for left in reversed(range(differences + 1)):
        following: list[Iterator[list[int]]] = []
        for choices in chain.from_iterable(level):
            trace = run(choices)
            yield choices
            if left:
                following.append(_others(len(choices), bytes(chain.from_iterable(trace))))
        level = following


def _others(begin: int, trace: bytes) -> Iterator[list[int]]:
    """Yield the choices that differ from those of a trace at one point from `begin` on.

    The trace is bytes, since very many wait for their turn.
    """
    taken, counts = list(trace[::2]), trace[1::2]
    for at in range(begin, len(taken)):
        for other in range(1, counts[at]):
            yield [*taken[:at], other]
