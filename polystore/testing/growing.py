"""Arrays that grow, and that several threads change at once."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest

from polystore.exceptions import PathNotFoundError, UnsupportedFormatError, VFSTypeError
from polystore.testing.kit import BackendKit
from polystore.testing.racing import race

__all__ = ["Growing"]


class Growing(BackendKit):
    """``append`` and ``resize``, and saves of regions at the same time, by threads that race.

    The backend holds arrays of integers and saves regions of them.

    Attributes
    ----------
    writers : int
        The number of threads.
    """

    writers: ClassVar[int] = 4

    def test_append_puts_values_at_the_end_of_an_axis(self, backend: Any, root: str) -> None:
        path = self.path(root, "a")
        expected = np.arange(6).reshape(2, 3)
        backend.save(expected, path)
        for axis, values in ((0, np.ones((4, 3), int)), (-1, np.zeros((6, 2), int))):
            assert backend.append(values, path, axis=axis) == expected.shape[axis]
            expected = np.append(expected, values, axis=axis)
            self.same(backend.load(path), expected)

    def test_resize_cuts_off_and_fills_up(self, backend: Any, root: str) -> None:
        path = self.path(root, "a")
        backend.save(np.arange(1, 21).reshape(4, 5), path)
        backend.resize(path, (2, 3))
        self.same(backend.load(path), [[1, 2, 3], [6, 7, 8]])
        backend.resize(path, (3, 4))
        self.same(backend.load(path), [[1, 2, 3, 0], [6, 7, 8, 0], [0, 0, 0, 0]])

    def test_what_does_not_fit_changes_nothing(self, backend: Any, root: str) -> None:
        path = self.path(root, "a")
        backend.save(np.ones((2, 3), int), path)
        with pytest.raises(UnsupportedFormatError) as caught:
            backend.append(np.ones((2, 2), int), path)
        self.names(caught.value, path)
        with pytest.raises(VFSTypeError):
            backend.append(np.ones((2, 3), int), path, axis=2)
        with pytest.raises(VFSTypeError):
            backend.resize(path, (2,))
        missing = self.path(root, "b")
        for change in (
            partial(backend.append, np.ones((1, 3), int), missing),
            partial(backend.resize, missing, (1, 1)),
        ):
            with pytest.raises(PathNotFoundError) as absent:
                change()
            self.names(absent.value, missing)
        self.same(backend.load(path), np.ones((2, 3), int))

    def test_appends_that_race_get_places_of_their_own(self, backend: Any, root: str) -> None:
        path = self.path(root, "a")
        backend.save(np.zeros((0, 3), int), path)
        values = [np.full((number + 1, 3), number) for number in range(self.writers)]
        starts = race([partial(backend.append, rows, path) for rows in values])
        loaded = backend.load(path)
        assert len(loaded) == sum(map(len, values))
        for start, rows in zip(starts, values, strict=True):
            self.same(loaded[start : start + len(rows)], rows)

    def test_regions_that_race_lose_nothing(self, backend: Any, root: str) -> None:
        path = self.path(root, "a")
        truth = 1 + np.arange(40 * 30).reshape(40, 30)
        parts = [(slice(None), slice(i, None, self.writers)) for i in range(self.writers)]
        backend.save(np.zeros_like(truth), path)
        race([partial(backend.save, truth[part], path, region=part) for part in parts])
        self.same(backend.load(path), truth)

    def test_regions_and_appends_do_not_disturb_each_other(self, backend: Any, root: str) -> None:
        path = self.path(root, "a")
        backend.save(np.zeros((3, 5), int), path)
        calls = [partial(backend.save, 1, path, region=row) for row in range(3)]
        calls += [partial(backend.append, np.full((2, 5), 2), path) for _ in range(2)]
        assert sorted(filter(None, race(calls))) == [3, 5]
        self.same(backend.load(path), [[1] * 5] * 3 + [[2] * 5] * 4)
