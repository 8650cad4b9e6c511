"""Clients of a store under chaos: they run random operations and record the outcomes."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from polystore.exceptions import PathExistsError, PathNotFoundError, StorageError
from polystore_ray import DataLostError, RayBackendRegistry, WatchExpiredError
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
_KINDS += ["await", "claim", "delete", "list", "move", "old", "replace_all"]
_FOR_A_WHILE = 0.05  # of the values have a time to live
_TTL = 1.0  # seconds
_OLD = 5  # directories, of which those who load what is old choose one
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
    - `evicts`: whether large values may be evicted, and are made again
    """

    def __init__(
        self,
        registry: RayBackendRegistry,
        folder: str,
        name: str,
        seed: int,
        begin: float,
        evicts: bool,
    ) -> None:
        self._registry = registry
        self._memory = registry["memory"]
        self._folder = Path(folder)
        self._recorder = Recorder(self._folder / f"{name}.history", name)
        self._violations = (self._folder / f"{name}.violations").open("a", encoding="utf-8")
        self._random = random.Random(seed)  # noqa: S311 - nothing secret depends on it
        self._begin = begin
        self._evicts = evicts
        self._number = seed * 1_000_000
        self._watching = threading.Event()

    def pid(self) -> int:
        """Return the id of this process."""
        return os.getpid()

    def run(self, until: float) -> int:
        """Run operations until a time of the monotonic clock; return how many needed no call."""
        self._watching.set()
        threading.Thread(target=self._watch, daemon=True).start()
        while time.monotonic() < until:
            turn = int((time.monotonic() - self._begin) / TURNED_EVERY)
            where, name, argument, call = self._choice(turn)
            for _ in range(_READS if argument == _HOT and name == "load" else 1):
                self._do(where, name, argument, call)
        self._watching.clear()
        try:
            return self._registry.status().lease_hits
        except StorageError:
            return 0

    def _watch(self) -> None:
        """Check that of all events each comes once, in order."""
        last = None
        while self._watching.is_set():
            try:
                for event in self._memory.watch("/", since=last, timeout=1.0):
                    if last is not None and event.number != last + 1:
                        self._violate(f"the event after number {last} was {event}")
                    last = event.number
                    if not self._watching.is_set():
                        return
            except WatchExpiredError:
                last = None
            except StorageError:
                continue

    def read(self, directories: list[str]) -> None:
        """Read every path once after the last fault, when every path must be readable."""
        for where in directories:
            self._do(where, "list", None, partial(self._list, where))
            for name in _NAMES:
                error = self._do(where, "load", name, partial(self._load, where, name))
                if error is not None:
                    self._violate(f"unreadable after the last fault was healed: {error}")
                    return

    def _choice(self, turn: int) -> tuple[str, str, Any, Callable[[], Any]]:
        """Return a directory, the name of an operation, its argument, and what runs it."""
        memory, name, other = self._memory, *self._random.sample(_NAMES, 2)
        self._number += 1
        number, where = self._number, f"/{turn}"
        path = f"{where}/{name}"
        kind = self._random.choice(_KINDS)
        if kind in ("save", "replace"):
            ttl = _TTL if self._random.random() < _FOR_A_WHILE else None
            if ttl is not None:
                self._recorder.may_happen(where, "expire", number)
            save = partial(memory.save, _value(number), path, overwrite=kind == "replace", ttl=ttl)
            return (
                where,
                kind,
                [name, number],
                partial(save, parents=True, **self._settings(number)),
            )
        if kind == "replace_all":
            values, paths = [_value(number), _value(number)], [path, f"{where}/{other}"]
            settings = self._settings(number)
            if settings:
                settings["recipes"] = [settings.pop("recipe")] * 2
            call = partial(memory.save_batch, values, paths, overwrite=True, parents=True)
            return where, kind, [[name, number], [other, number]], partial(call, **settings)
        if kind == "delete":
            return where, kind, name, partial(memory.delete, path)
        if kind == "move":
            return where, kind, [name, other], partial(memory.move, path, f"{where}/{other}")
        if kind == "list":
            return where, kind, None, partial(self._list, where)
        if kind == "claim":
            claim = self._claimed(where)
            if claim is not None:  # of those that hold it, one can delete it
                return where, "delete", claim.path.rpartition("/")[2], claim.done
        if kind == "old":
            where = f"/{max(0, turn - self._random.randint(1, _OLD))}"
        else:
            name = self._random.choice((name, _HOT))
        wait = _AWAITED if kind == "await" else None
        return where, "load", name, partial(self._load, where, name, wait)

    def _settings(self, number: int) -> dict[str, Any]:
        """Return what a value is saved with."""
        may_go = self._evicts and number % 4  # as large values may
        return {"evictable": True, "recipe": (_value, (number,))} if may_go else {}

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
