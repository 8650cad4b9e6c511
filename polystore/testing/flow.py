"""Values that come and go: waits, claims, times to live, eviction and recipes.

Each suite is for a backend that has the methods or the options that it is named after.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest

from polystore.exceptions import PathNotFoundError, StorageError
from polystore.testing.kit import BackendKit

__all__ = ["Awaited", "Claimed", "Evicting", "Expiring"]

_LONG = 60.0  # seconds, for a machine under load
_MOST = 10_000  # values, of which a store with room for few evicts some


class Awaited(BackendKit):
    """The promises of ``wait`` and of ``load(wait=)``."""

    def test_a_load_waits_for_its_path(self, backend: Any, root: str) -> None:
        path = self.path(root, "a")
        saving = threading.Timer(0.1, backend.save, (self.value(), path))
        saving.start()
        self.same(backend.load(path, wait=_LONG), self.value())
        saving.join()

    def test_a_load_waits_no_longer_than_it_says(self, backend: Any, root: str) -> None:
        with pytest.raises(PathNotFoundError) as caught:
            backend.load(self.path(root, "missing"), wait=0.1)
        self.names(caught.value, self.path(root, "missing"))

    def test_a_wait_returns_what_is_ready(self, backend: Any, root: str) -> None:
        one, other = self.paths(root, "a", "b")
        backend.save(self.value(), other)
        assert backend.wait([one, other], num_returns=1, timeout=_LONG) == ([other], [one])
        assert backend.wait([one, other], timeout=0.1) == ([other], [one])


class Claimed(BackendKit):
    """The promises of ``claim``."""

    def test_a_value_is_claimed_by_one_at_a_time(self, backend: Any, root: str) -> None:
        paths = self.paths(root, "a", "b")
        for path in paths:
            backend.save(self.value(), path)
        claims = [backend.claim(f"{root}/*") for _ in range(3)]
        assert [claim and claim.path for claim in claims] == [*paths, None]
        claims[0].release()
        again = backend.claim(f"{root}/*")
        assert again.path == paths[0]
        again.done()
        assert not backend.exists(paths[0])

    def test_a_claim_ends_with_its_lease(self, backend: Any, root: str) -> None:
        path = self.path(root, "a")
        backend.save(self.value(), path)
        first = backend.claim(f"{root}/*", lease=0.1)
        second = backend.claim(f"{root}/*", wait=_LONG)
        assert second.path == path
        with pytest.raises(StorageError) as caught:
            first.done()
        self.names(caught.value, path)
        second.done(to=self.path(root, "done"))
        self.same(backend.load(self.path(root, "done")), self.value())


class Expiring(BackendKit):
    """The promises of ``save(ttl=)``; the suite needs ``watch``."""

    def test_a_value_goes_when_its_time_has_passed(self, backend: Any, root: str) -> None:
        path, stays = self.paths(root, "a", "stays")
        backend.save(self.value(), stays)
        backend.save(self.value(), path, ttl=0.2)
        events = backend.watch(root or "/", timeout=_LONG)
        if backend.exists(path):
            assert next(events)[:2] == ("deleted", path)
        assert not backend.exists(path)
        assert backend.exists(stays)
        events.close()


class Evicting(BackendKit):
    """The promises of ``save(evictable=True)``, ``pin`` and ``save(recipe=)``.

    The backend under test has room for few values, and evicts.
    """

    def _fill(self, backend: Any, root: str, path: str) -> None:
        """Save values until one at a path is evicted."""
        for number in range(_MOST):
            backend.save(self.value(number), self.path(root, f"more{number}"), evictable=True)
            if backend.stat(path)["evicted"]:
                return
        pytest.fail(f"{_MOST} values were saved, and {path} was not evicted")

    def test_an_evicted_value_is_never_missing(self, backend: Any, root: str) -> None:
        path = self.path(root, "a")
        backend.save(self.value(), path, evictable=True)
        self._fill(backend, root, path)
        assert backend.exists(path)
        with pytest.raises(StorageError, match="evicted") as caught:
            backend.load(path)
        assert not isinstance(caught.value, PathNotFoundError)
        self.names(caught.value, path)

    def test_a_pinned_value_is_not_evicted(self, backend: Any, root: str) -> None:
        pinned, other = self.paths(root, "pinned", "other")
        backend.save(self.value(), pinned, evictable=True)
        backend.pin(pinned)
        backend.save(self.value(), other, evictable=True)
        self._fill(backend, root, other)
        self.same(backend.load(pinned), self.value())

    def test_a_recipe_makes_the_same_value_again(self, backend: Any, root: str) -> None:
        path = self.path(root, "a")
        recipe = _first, (self.value(),)
        backend.save(self.value(), path, evictable=True, recipe=recipe)
        before = backend.stat(path)["version"]
        self._fill(backend, root, path)
        self.same(backend.load(path), self.value())
        assert backend.stat(path)["version"] == before


def _first(value: Any) -> Any:
    return value
