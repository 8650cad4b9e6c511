"""Makers: who makes a value again from its recipe, so that nobody else does meanwhile."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from polystore.path_tree import PathTree
from polystore_ray.controller.entries import Entry, entry_at
from polystore_ray.wire.messages import Recipe

__all__ = ["Makers"]


class _Turn(NamedTuple):
    by: str
    lease: float
    until: float
    """In seconds by the clock of the controller, which no other controller shares."""


class Makers:
    """Whose turn it is to make which value, until when. It is not thread-safe."""

    def __init__(self, tree: PathTree[Entry]) -> None:
        self._tree = tree
        self._turns: dict[Entry, _Turn] = {}

    def begin(
        self, wanted: Iterable[tuple[str, int]], by: str, lease: float, clock: float
    ) -> list[Recipe | None]:
        """Return the recipes of values that `by` may make now, for so many seconds.

        None stands for one that is there, is another one by now, or that somebody else makes. Who
        asks again has longer.

        - `wanted`: paths with the versions of their values
        """
        self._turns = {of: turn for of, turn in self._turns.items() if turn.until > clock}
        recipes: list[Recipe | None] = []
        for path, version in wanted:
            entry = entry_at(self._tree, path)
            recipes.append(None)
            if entry is None or entry.version != version or not entry.is_lacking:
                continue
            turn = self._turns.get(entry)
            if turn is None or turn.by == by:
                self._turns[entry] = _Turn(by, lease, clock + lease)
                recipes[-1] = entry.recipe
        return recipes

    def end(self, path: str, by: str) -> None:
        """Let others make a value."""
        entry = entry_at(self._tree, path)
        turn = None if entry is None else self._turns.get(entry)
        if entry is not None and turn is not None and turn.by == by:
            del self._turns[entry]

    def forget(self, entries: Iterable[Entry]) -> None:
        """Forget values that are made."""
        for entry in entries:
            self._turns.pop(entry, None)

    def begin_anew(self, clock: float) -> None:
        """Let each turn last as long as it could, by the clock of another controller."""
        self._turns = {
            of: turn._replace(until=clock + turn.lease) for of, turn in self._turns.items()
        }
