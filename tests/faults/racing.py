"""Processes and threads that do things at the same time, on one tree."""

from __future__ import annotations

import multiprocessing
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from multiprocessing.synchronize import Barrier
from typing import Any

from watching import KINDS, Tree

PROCESSES, THREADS = 3, 2
RACERS = PROCESSES * THREADS
PATIENCE = 60.0  # seconds for all racers to come to a line


@dataclass(frozen=True)
class Racer:
    """One of those that race; it counts what it was told is done."""

    tree: Tree
    number: int
    rng: random.Random
    until: float
    did: Counter[str] = field(default_factory=Counter)

    def going(self) -> bool:
        return time.monotonic() < self.until

    def wait_for_all(self) -> None:
        """Wait until every racer waits, so that what comes next is done at the same time."""
        _line.wait(PATIENCE)

    def do(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of the backend; texts are paths in the tree."""
        given = [self.tree.path(each) if isinstance(each, str) else each for each in arguments]
        found = getattr(self.tree.backend, method)(*given, **options)
        self.did[method] += 1
        return found

    def won(self, losing: Errors, method: str, *arguments: Any, **options: Any) -> bool:
        """Do it; tell whether it was done, or another was faster."""
        try:
            self.do(method, *arguments, **options)
        except losing:
            return False
        return True


@dataclass(frozen=True)
class Result:
    """What all racers did together, and what each returned."""

    did: Counter[str]
    returned: list[Any]


Errors = type[Exception] | tuple[type[Exception], ...]
Role = Callable[[Racer], Any]


class Crew:
    """Processes that stand ready, each with its threads.

    Parameters
    ----------
    pool : concurrent.futures.ProcessPoolExecutor
        The processes.
    line : multiprocessing.Barrier
        Where the racers of all of them wait for each other.
    """

    def __init__(self, pool: ProcessPoolExecutor, line: Barrier) -> None:
        self._pool = pool
        self._line = line

    def race(self, kind: str, top: str, roles: Sequence[Role], seconds: float, seed: int) -> Result:
        """Give each racer a role, the first ones first, and let them go.

        Parameters
        ----------
        kind, top : str
            The tree; it exists.
        roles : sequence of callable
            What racers do, module-level functions; after the last comes the first again.
        seconds : float
            How long they are going.
        seed : int
            Of what they choose.
        """
        given = list(islice(cycle(roles), RACERS))
        # Each process takes every third, so that each role is in several.
        tasks = [
            self._pool.submit(_run, kind, top, given[first::PROCESSES], first, seconds, seed)
            for first in range(PROCESSES)
        ]
        failures = [task.exception() for task in tasks]
        self._line.reset()
        for failure in sorted(filter(None, failures), key=_is_of_another):
            raise failure
        did: Counter[str] = Counter()
        returned: list[Any] = [None] * RACERS
        for first, task in enumerate(tasks):
            for place, (counted, found) in enumerate(task.result()):
                did += counted
                returned[first + place * PROCESSES] = found
        return Result(did, returned)


def _is_of_another(failure: BaseException) -> bool:
    return isinstance(failure, threading.BrokenBarrierError)


@contextmanager
def crew() -> Iterator[Crew]:
    context = multiprocessing.get_context("spawn")
    line = context.Barrier(RACERS)
    with ProcessPoolExecutor(
        PROCESSES, mp_context=context, initializer=_join, initargs=(line,)
    ) as pool:
        yield Crew(pool, line)


_line: Any = None  # where the racers of all processes wait


def _join(line: Any) -> None:
    global _line
    _line = line


def _run(
    kind: str, top: str, roles: Sequence[Role], first: int, seconds: float, seed: int
) -> list[tuple[Counter[str], Any]]:
    tree = KINDS[kind](top)

    def run(place: int, role: Role) -> tuple[Counter[str], Any]:
        number = first + place * PROCESSES
        _line.wait(PATIENCE)
        rng = random.Random(f"{seed} {number}")
        racer = Racer(tree, number, rng, time.monotonic() + seconds)
        try:
            return racer.did, role(racer)
        except BaseException:
            _line.abort()  # nobody need wait for this one
            raise

    with ThreadPoolExecutor(len(roles)) as pool:
        running = [pool.submit(run, place, role) for place, role in enumerate(roles)]
        failures = [each.exception() for each in running]
        for failure in sorted(filter(None, failures), key=_is_of_another):
            raise failure
        return [each.result() for each in running]
