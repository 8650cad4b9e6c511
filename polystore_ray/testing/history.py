"""Histories: the recorded operations of clients on directories, and the model of a directory.

Each client writes to its own file, so that the history of a killed client is kept. An operation
that started and has no recorded end has an unknown outcome.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from polystore_ray.testing.linearizability import UNKNOWN, Operation

__all__ = ["UNREAD", "Recorder", "directory", "histories"]

UNREAD = -1
"""Replaces every number that was written and never read."""


class Recorder:
    """Record the operations of one client.

    - `path`: the client's own file
    - `client`: the client's name
    """

    def __init__(self, path: Path, client: str) -> None:
        self._client = client
        self._file = path.open("a", encoding="utf-8", buffering=1)
        self._number = 0

    @contextmanager
    def operation(self, where: str, name: str, argument: Any) -> Iterator[list[Any]]:
        """Record an operation; the block appends its outcome to the list that is yielded.

        If the outcome is an exception, it counts as unknown; the exception is recorded for readers.
        """
        self._number += 1
        key = f"{self._client}-{self._number}"
        self._write("start", key, [self._client, where, name, argument, time.monotonic()])
        outcome: list[Any] = []
        yield outcome
        if outcome and isinstance(outcome[0], Exception):
            self._write("failed", key, [repr(outcome[0]), time.monotonic()])
        elif outcome:
            self._write("end", key, [outcome[0], time.monotonic()])

    def may_happen(self, where: str, name: str, argument: Any) -> None:
        """Record what the store may do by itself at any time from now on."""
        self._number += 1
        key = f"{self._client}-{self._number}"
        self._write("start", key, [self._client, where, name, argument, time.monotonic()])

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, kind: str, key: str, facts: list[Any]) -> None:
        self._file.write(json.dumps([kind, key, facts]) + "\n")


def histories(folder: Path) -> dict[str, list[Operation]]:
    """Return the operations recorded in a folder, by directory of the store.

    Numbers that no client read are replaced by `UNREAD`: they are interchangeable.
    """
    found: dict[str, list[Operation]] = {}
    for file in sorted(folder.glob("*.history")):
        facts_of: dict[str, dict[str, list[Any]]] = {"start": {}, "end": {}, "failed": {}}
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.endswith("]"):  # the last line of a killed client may be cut off
                kind, key, facts = json.loads(line)
                facts_of[kind][key] = facts
        for key, (client, where, name, argument, start) in facts_of["start"].items():
            outcome, end = facts_of["end"].get(key, (UNKNOWN, float("inf")))
            looks = name in ("load", "list") or outcome in ("exists", "missing")
            found.setdefault(where, []).append(
                Operation(client, name, _hashable(argument), _hashable(outcome), start, end, looks)
            )
    return {where: _without_unread(operations) for where, operations in found.items()}


def _without_unread(operations: list[Operation]) -> list[Operation]:
    read = {operation.outcome for operation in operations if operation.name == "load"}
    read |= {operation.argument for operation in operations if operation.name == "expire"}

    def seen(argument: Any) -> Any:
        if isinstance(argument, tuple):
            return tuple(map(seen, argument))
        return UNREAD if isinstance(argument, int) and argument not in read else argument

    return [replace(o, argument=seen(o.argument)) for o in operations]


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def directory(state: frozenset[tuple[str, int]], operation: Operation) -> tuple[bool, Any]:
    """Model a directory of files, each of which holds a number; see `linearizability.Model`.

    The operations are ``save`` (a name and a number, to a free path), ``replace``,
    ``replace_all`` (several files at once), ``delete``, ``load``, ``move`` (to a free name),
    ``list`` and ``expire`` (of the file that holds a number). Their outcomes are ``"done"``,
    ``"exists"``, ``"missing"``, or the value read.
    """
    files = dict(state)
    outcome = operation.outcome
    after, possible = _apply(files, operation.name, operation.argument)
    if outcome == UNKNOWN:
        return True, frozenset(after.items())
    return outcome == possible, frozenset(after.items())


def _apply(files: dict[str, int], name: str, argument: Any) -> tuple[dict[str, int], Any]:
    """Return the files after an operation, and its outcome."""
    if name == "list":
        return files, tuple(sorted(files))
    if name == "load":
        return files, files.get(argument, "missing")
    if name == "expire":
        return {file: number for file, number in files.items() if number != argument}, "done"
    if name == "replace_all":
        return files | dict(argument), "done"
    if name == "delete":
        if argument not in files:
            return files, "missing"
        return {file: number for file, number in files.items() if file != argument}, "done"
    one, other = argument
    if name == "replace":
        return files | {one: other}, "done"
    if name == "save":
        return (files, "exists") if one in files else (files | {one: other}, "done")
    if one not in files:
        return files, "missing"
    if other in files:
        return files, "exists"
    return {(other if file == one else file): number for file, number in files.items()}, "done"
