"""Histories: what clients did with a directory, as they write it down, and what may come of it.

Every client writes to a file of its own, so that the history of one that is killed is kept: what
it had begun and not ended has an unknown outcome.
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
"""What stands for every number that was written and never read."""


class Recorder:
    """Write down the operations of one client.

    Parameters
    ----------
    path : pathlib.Path
        A file of this client's own.
    client : str
        Its name.
    """

    def __init__(self, path: Path, client: str) -> None:
        self._client = client
        self._file = path.open("a", encoding="utf-8", buffering=1)
        self._number = 0

    @contextmanager
    def operation(self, where: str, name: str, argument: Any) -> Iterator[list[Any]]:
        """Record an operation; the block appends its outcome to the list that it is given.

        An outcome that is an error is unknown; why is written down for those who read it.
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

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, kind: str, key: str, facts: list[Any]) -> None:
        self._file.write(json.dumps([kind, key, facts]) + "\n")


def histories(folder: Path) -> dict[str, list[Operation]]:
    """Return what was recorded in a folder, by directory.

    Numbers that nobody read are all `UNREAD`, as it makes no difference which of them is where.
    """
    found: dict[str, list[Operation]] = {}
    for file in sorted(folder.glob("*.history")):
        facts_of: dict[str, dict[str, list[Any]]] = {"start": {}, "end": {}, "failed": {}}
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.endswith("]"):  # the last line of a killed client may be half of one
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

    def seen(argument: Any) -> Any:
        if isinstance(argument, tuple):
            return tuple(map(seen, argument))
        return UNREAD if isinstance(argument, int) and argument not in read else argument

    return [replace(o, argument=seen(o.argument)) for o in operations]


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def directory(state: frozenset[tuple[str, int]], operation: Operation) -> tuple[bool, Any]:
    """Model a directory of files, each of which holds a number; see `linearizability.Model`.

    The operations are ``save`` (of a name and a number, to a free path), ``replace``,
    ``replace_all`` (of several, at once), ``delete``, ``load``, ``move`` (of a name to a free one)
    and ``list``. Their outcomes are ``"done"``, ``"exists"``, ``"missing"``, or what was read.
    """
    files = dict(state)
    outcome = operation.outcome
    after, possible = _apply(files, operation.name, operation.argument)
    if outcome == UNKNOWN:
        return True, frozenset(after.items())
    return outcome == possible, frozenset(after.items())


def _apply(files: dict[str, int], name: str, argument: Any) -> tuple[dict[str, int], Any]:
    """Return the files after an operation, and what comes of it."""
    if name == "list":
        return files, tuple(sorted(files))
    if name == "load":
        return files, files.get(argument, "missing")
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
