"""Bundles: arrays of some size in one object, so that a batch of them costs few objects.

Unlike a pack, a bundle is put as it is, each array in a buffer of its own: nothing is joined before
it is copied into the object store. Volumes drop values from one as they do from a pack.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from polystore.exceptions import CorruptDataError
from polystore.serialization import Carrier
from polystore_ray.wire.messages import NotPinnedError

__all__ = ["Bundle"]


class Bundle(Carrier):
    """Some arrays by their numbers, from 0 on; None for what was dropped.

    Parameters
    ----------
    arrays : sequence of array or None
        Arrays that are their bytes (`polystore.serialization.is_raw`).
    """

    __slots__ = ("_arrays",)

    def __init__(self, arrays: Sequence[npt.NDArray[Any] | None]) -> None:
        self._arrays = list(arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, (self._arrays,)

    def values(self, numbers: Sequence[int], loads: Callable[..., Any] | None = None) -> list[Any]:
        """Return the arrays of these numbers, as read-only views; nothing has to be unpickled.

        Raises
        ------
        NotPinnedError
            If one was dropped.
        """
        found = [self._arrays[number] for number in numbers]
        for number, array in zip(numbers, found, strict=True):
            if array is None:
                raise NotPinnedError(f"value {number} was dropped from the bundle")
        return found

    def without(self, numbers: Collection[int]) -> Bundle:
        """Return a bundle in which these take no room; the others keep their numbers."""
        dropped = set(numbers)
        return Bundle([None if i in dropped else array for i, array in enumerate(self._arrays)])


def _arrive(arrays: Any) -> Bundle:
    """Return the bundle of what a pickle holds, which may be anything."""
    if not all(array is None or type(array) is np.ndarray for array in arrays):
        raise CorruptDataError("a bundle holds something else than arrays")
    return Bundle(arrays)
