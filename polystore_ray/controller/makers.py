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
        self._turns: dict[int, _Turn] = {}  # by the version of the value, wherever that is moved to

    def begin(
        self, wanted: Iterable[tuple[str, int]], by: str, lease: float, clock: float
    ) -> list[Recipe | None]:
        """Return the recipes of values that `by` may make now, for so many seconds.

        None stands for one that is there, is another one by now, or that somebody else makes.

        - `wanted`: paths with the versions of their values
        """
        self._turns = {of: turn for of, turn in self._turns.items() if turn.until > clock}
        recipes: list[Recipe | None] = []
        for path, version in wanted:
            entry = entry_at(self._tree, path)
            recipes.append(None)
            if entry is None or entry.version != version or not entry.is_lacking:
                continue
            if version not in self._turns:
                self._turns[version] = _Turn(by, lease, clock + lease)
                recipes[-1] = entry.recipe
        return recipes

    def renew(self, versions: Iterable[int], by: str, lease: float, clock: float) -> None:
        """Let `by` have longer for the values of these versions, whose turns it still has."""
        for version in self._held(versions, by):
            self._turns[version] = _Turn(by, lease, clock + lease)

    def end(self, versions: Iterable[int], by: str) -> None:
        """Let others make values."""
        self.forget(self._held(versions, by))

    def _held(self, versions: Iterable[int], by: str) -> list[int]:
        return [of for of in versions if of in self._turns and self._turns[of].by == by]

    def forget(self, versions: Iterable[int]) -> None:
        """Forget values that are made, or are made no more."""
        for version in versions:
            self._turns.pop(version, None)

    def begin_anew(self, clock: float) -> None:
        """Let each turn last as long as it could, by the clock of another controller."""
        self._turns = {
            of: turn._replace(until=clock + turn.lease) for of, turn in self._turns.items()
        }
