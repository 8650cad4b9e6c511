"""Succession: what the cluster remembers of a store, so that one controller can follow another.

Ray's control store keeps an *origin* for each store, and a log of numbered entries. An entry is
created once and never changed, so that only one controller can add the next. A controller begins
its *epoch*, which is one more than that of the last entry, by adding an entry, and adds another for
the node of every follower that it designates. If it meets an entry of another controller, it is
over. So nobody designates a follower once the next controller has begun, whoever stalls for how
long.
"""

from __future__ import annotations

import pickle
import secrets

from ray import exceptions as ray_exceptions

from polystore_ray.config.store import StoreOptions
from polystore_ray.rayapi.errors import translated
from polystore_ray.rayapi.placement import MEMORY
from polystore_ray.rayapi.private import forget, recall, remember, remembered
from polystore_ray.wire.messages import StaleEpochError

__all__ = ["Succession", "has_ended"]


def has_ended(namespace: str) -> bool:
    """Return whether a store was shut down, so that nobody should start its controller anew."""
    return recall(_origin_key(namespace)) is None


class Succession:
    """One controller's place among those of its store.

    - `namespace`: the store's Ray namespace
    - `options`: what a new store is made with; one that lost its controller keeps its own
    """

    def __init__(self, namespace: str, options: StoreOptions) -> None:
        self._namespace = namespace
        origin = pickle.dumps((secrets.token_hex(8), options), protocol=5)
        if not remember(_origin_key(namespace), origin, overwrite=False):
            origin = recall(_origin_key(namespace)) or origin
        # What stays the same from a store's first controller to its last.
        self.store_id, self.options = pickle.loads(origin)
        self._log = f"{namespace}/{self.store_id}/"
        self._last = max(self._numbers(), default=0)  # of the entries that are known
        while True:
            self.epoch = 1 + self._entry(self._last)[0]
            if self._add(""):
                break
            self._last += 1
        self._begun = self._last + 1

    def _numbers(self) -> list[int]:
        return [int(key.removeprefix(self._log)) for key in remembered(self._log)]

    def _entry(self, number: int) -> tuple[int, str]:
        """Return the epoch and the node of an entry; of none, 0 and nothing."""
        epoch, _, node = (recall(f"{self._log}{number}") or b"0").decode().partition(" ")
        return int(epoch), node

    def _add(self, node: str) -> bool:
        """Add the next entry, if there is none yet."""
        entry = f"{self.epoch} {node}".encode()
        return remember(f"{self._log}{self._last + 1}", entry, overwrite=False)

    def designated(self) -> str | None:
        """Return the node of the follower that has all that was acknowledged before this epoch.

        None if nothing has been acknowledged.
        """
        entries = map(self._entry, range(self._begun - 1, 0, -1))
        return next((node for _, node in entries if node), None)

    def designate(self, node: str) -> None:
        """Have the next controller take the tree from this node, and from no other.

        Raises `StaleEpochError` if the next one has begun; then nothing is designated;
        `StorageError` if the cluster does not answer; then this node may be designated, or not.
        """
        try:
            while not self._add(node):
                self.check()
        except ray_exceptions.RayError as error:
            raise translated(error, backend=MEMORY) from error

    def check(self) -> None:
        """Raise if another controller has begun.

        Raises `StaleEpochError` if so.
        """
        number = self._last + 1
        while (epoch := self._entry(number)[0]) == self.epoch:
            self._last, number = number, number + 1
        if epoch:
            raise StaleEpochError(f"epoch {self.epoch} of {self._namespace} is over")

    def end(self) -> None:
        """Let nobody take over any more."""
        forget(_origin_key(self._namespace))
        for number in self._numbers():
            forget(f"{self._log}{number}")


def _origin_key(namespace: str) -> str:
    return f"{namespace}/origin"
