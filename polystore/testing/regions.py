"""Regions of arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from polystore.exceptions import PathNotFoundError, VFSTypeError
from polystore.testing.kit import BackendKit, needs
from polystore.testing.writing import Saving

__all__ = ["Regions"]


class Regions(BackendKit):
    """``load(path, region=...)`` and ``save(values, path, region=...)``."""

    @pytest.mark.parametrize(
        "region", [(slice(1, 3),), (slice(None), slice(0, 4, 2)), (1,), (..., 2), slice(0, 1), ...]
    )
    def test_load_returns_the_part_alone(
        self, backend: Any, root: str, plant: Callable[[Any, str], None], region: Any
    ) -> None:
        path = self.path(root, "a")
        plant(self.value(), path)
        self.same(backend.load(path, region=region), self.value()[region])
        self.same(backend.load_batch([path], region=region)[0], self.value()[region])

    def test_a_region_beyond_the_array_is_empty_or_refused(
        self, backend: Any, root: str, plant: Callable[[Any, str], None]
    ) -> None:
        path = self.path(root, "a")
        plant(self.value(), path)
        assert backend.load(path, region=(slice(10, 20),)).size == 0
        for region in ((10,), ("a",), (0, 0, 0)):
            with pytest.raises(VFSTypeError):
                backend.load(path, region=region)

    @needs(Saving)
    def test_save_writes_into_the_array(self, backend: Any, root: str) -> None:
        path = self.path(root, "a")
        backend.save(self.value(), path)
        backend.save(np.full((1, 2), -1, np.int32), path, region=(slice(2, 3), slice(1, 3)))
        expected = self.value().copy()
        expected[2:3, 1:3] = -1
        self.same(backend.load(path), expected)

    @needs(Saving)
    def test_a_region_of_nothing_is_not_saved(self, backend: Any, root: str) -> None:
        path = self.path(root, "a")
        with pytest.raises(PathNotFoundError):
            backend.save(np.int32(1), path, region=(0, 0))
        assert not backend.exists(path)
        backend.save(self.value(), path)
        with pytest.raises(VFSTypeError):
            backend.save(np.int32(1), path, region=(10,))
        self.same(backend.load(path), self.value())
