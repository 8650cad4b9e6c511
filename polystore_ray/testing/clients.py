"""Clients of a store under chaos: they run random operations and record the outcomes."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from polystore.exceptions import PathExistsError, PathNotFoundError, StorageError
from polystore_ray import DataLostError, RayBackendRegistry
from polystore_ray.client.claims import Claim
from polystore_ray.testing.history import Recorder

__all__ = ["DEADLINE", "TURNED_EVERY", "Client"]

DEADLINE = 20.0
"""The registry's timeout: the number of seconds that an operation may take."""

TURNED_EVERY = 2.0
"""The number of seconds until all clients move to a new directory, to keep histories short."""

_SLACK = 15.0  # seconds beyond the deadline, since all processes share one machine
_NAMES = list("abcdefgh")
_LARGE = 20_000  # values, too large to travel inside a call
# An operation that is listed n times is n times as likely.
_KINDS = ["save"] * 3 + ["replace"] * 3 + ["load"] * 5
_KINDS += ["await", "claim", "delete", "list", "move", "replace_all"]
_LEASE = 2.0  # seconds, of a claim
_AWAITED = 0.5  # seconds
_HOT = "a"  # the name that every client reads again and again
_READS = 6  # of it at a time


class Client:
    """A client of the store, in its own process.

    - `folder`: the directory for the client's history and violations
    - `name`: the client's name
    - `seed`: the seed of the operations
    - `begin`: the start of the run, by the monotonic clock of the machine
    """

    def __init__(
        self, registry: RayBackendRegistry, folder: str, name: str, seed: int, begin: float
    ) -> None:
        self._registry = registry
        self._memory = registry["memory"]
        self._folder = Path(folder)
        self._recorder = Recorder(self._folder / f"{name}.history", name)
        self._violations = (self._folder / f"{name}.violations").open("a", encoding="utf-8")
        self._random = random.Random(seed)  # noqa: S311 - nothing secret depends on it
        self._begin = begin
        self._number = seed * 1_000_000

    def pid(self) -> int:
        """Return the id of this process."""
        return os.getpid()

    def run(self, until: float) -> int:
        """Run operations until a time of the monotonic clock; return how many needed no call."""
        while time.monotonic() < until:
            where = f"/{int((time.monotonic() - self._begin) / TURNED_EVERY)}"
            name, argument, call = self._choice(where)
            for _ in range(_READS if argument == _HOT and name == "load" else 1):
                self._do(where, name, argument, call)
        try:
            return self._registry.status().lease_hits
        except StorageError:
            return 0

    def read(self, directories: list[str]) -> None:
        """Read every path once after the last fault, when every path must be readable."""
        for where in directories:
            self._do(where, "list", None, partial(self._list, where))
            for name in _NAMES:
                error = self._do(where, "load", name, partial(self._load, where, name))
                if error is not None:
                    self._violate(f"unreadable after the last fault was healed: {error}")
                    return

    def _choice(self, where: str) -> tuple[str, Any, Callable[[], Any]]:
        """Return the name of an operation, its argument, and a function that runs it."""
        memory, name, other = self._memory, *self._random.sample(_NAMES, 2)
        self._number += 1
        number = self._number
        path = f"{where}/{name}"
        kind = self._random.choice(_KINDS)
        if kind == "save":
            call = partial(memory.save, _value(number), path, parents=True)
            return kind, [name, number], call
        if kind == "replace":
            call = partial(memory.save, _value(number), path, overwrite=True, parents=True)
            return kind, [name, number], call
        if kind == "replace_all":
            values = [_value(number), _value(number)]
            paths = [path, f"{where}/{other}"]
            call = partial(memory.save_batch, values, paths, overwrite=True, parents=True)
            return kind, [[name, number], [other, number]], call
        if kind == "delete":
            return kind, name, partial(memory.delete, path)
        if kind == "move":
            return kind, [name, other], partial(memory.move, path, f"{where}/{other}")
        if kind == "list":
            return kind, None, partial(self._list, where)
        if kind == "claim":
            claim = self._claimed(where)
            if claim is not None:  # of those that hold it, one can delete it
                return "delete", claim.path.rpartition("/")[2], claim.done
        name = self._random.choice((name, _HOT))
        wait = _AWAITED if kind == "await" else None
        return "load", name, partial(self._load, where, name, wait)

    def _claimed(self, where: str) -> Claim | None:
        with suppress(StorageError):
            return self._memory.claim(f"{where}/*", lease=_LEASE)  # type: ignore[no-any-return]
        return None

    def _list(self, where: str) -> Any:
        try:
            return self._memory.list_dir(where)
        except PathNotFoundError:
            return []

    def _load(self, where: str, name: str, wait: float | None = None) -> int:
        value = np.ravel(self._memory.load(f"{where}/{name}", wait=wait))
        if not (value == value[0]).all():
            self._violate(f"a torn value at {where}/{name}")
        return int(value[0])

    def _do(
        self, where: str, name: str, argument: Any, call: Callable[[], Any]
    ) -> StorageError | None:
        """Run an operation; return an error that leaves its outcome unknown."""
        start = time.monotonic()
        with self._recorder.operation(where, name, argument) as outcome:
            try:
                found = call()
                outcome.append("done" if found is None else found)
            except PathExistsError:
                outcome.append("exists")
            except PathNotFoundError:
                outcome.append("missing")
            except DataLostError as error:
                self._violate(f"lost: {error}")
            except StorageError as error:
                outcome.append(error)
        if time.monotonic() - start > DEADLINE + _SLACK:
            self._violate(f"{name} in {where} took {time.monotonic() - start:.0f} s")
        return outcome[0] if outcome and isinstance(outcome[0], StorageError) else None

    def _violate(self, what: str) -> None:
        self._violations.write(f"{what}\n")
        self._violations.flush()


def _value(number: int) -> Any:
    return np.full(_LARGE, number) if number % 4 else np.array([number])
