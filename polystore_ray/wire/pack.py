"""Packs: many values in one object, so that a batch costs few objects and few calls.

Small arrays lie in a pack as raw bytes, aligned, next to a table of their dtypes, shapes and
orders; a large array lies in a buffer of its own, which is put as it is. Both come out as views.
Every other value lies there as the message that `as_message` makes of it. A volume drops values
from a pack without opening any.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from polystore.exceptions import CorruptDataError
from polystore.serialization import Carrier, check_inside, describe_dtype, described_dtype, view_of
from polystore_ray.wire.envelope import SMALL, open_message
from polystore_ray.wire.messages import NotPinnedError

__all__ = ["Member", "Pack"]

Array = npt.NDArray[Any]
Member = Array | bytes
"""What a pack is made of: an array that is its bytes (`is_raw`), or a small value's message."""

_ALIGNED = 16  # bytes, which suits every dtype
_DROPPED, _OWN = 2**32 - 1, 2**32 - 2  # instead of the number of a kind
_PADDING = [bytes(count) for count in range(_ALIGNED)]

Kind = tuple[np.dtype[Any], tuple[int, ...], str] | None


class Pack(Carrier):
    """Some values by their numbers, from 0 on.

    - `kinds`: the distinct dtypes, shapes and orders of arrays; None for messages
    - `codes`: for each value the number of its kind
    - `offsets`: where each value begins in `data`, and where the last one ends
    - `data`: the bytes of all values but these:
    - `own`: the arrays that lie in buffers of their own, by their numbers
    """

    __slots__ = ("_codes", "_data", "_kinds", "_offsets", "_own")

    def __init__(
        self, kinds: list[Kind], codes: Array, offsets: Array, data: Array, own: dict[int, Array]
    ) -> None:
        self._kinds = kinds
        self._codes = codes
        self._offsets = offsets
        self._data = data
        self._own = own

    @classmethod
    def of(cls, members: Sequence[Member]) -> Pack:
        """Return a pack of these members; the bytes of those of up to `SMALL` bytes are copied."""
        known: dict[Kind, tuple[int, int]] = {}  # the number of a kind, and its size
        codes: list[int] = []
        parts: list[Any] = []
        sizes: list[int] = []
        own: dict[int, Array] = {}
        for number, member in enumerate(members):
            kind: Kind = None
            part: Any = member
            if not isinstance(member, bytes):
                if member.nbytes > SMALL:
                    own[number] = member
                    codes.append(_OWN)
                    sizes.append(0)
                    continue
                kind, part = _as_bytes(member)
            found = known.get(kind)
            if found is None:
                found = known[kind] = (len(known), part.nbytes if kind else 0)
            code, size = found
            if kind is None:
                size = len(part)
            codes.append(code)
            parts.append(part)
            padding = -size % _ALIGNED
            if padding:
                parts.append(_PADDING[padding])
            sizes.append(size + padding)
        data = np.frombuffer(b"".join(parts), np.uint8)
        offsets = np.fromiter(accumulate(sizes, initial=0), np.int64, len(sizes) + 1)
        return cls(list(known), np.array(codes, np.uint32), offsets, data, own)

    def __len__(self) -> int:
        return len(self._codes)

    def __reduce__(self) -> tuple[Any, ...]:
        kinds = [kind and (describe_dtype(kind[0]), *kind[1:]) for kind in self._kinds]
        return _arrive, (kinds, self._codes, self._offsets, self._data, self._own)

    def values(self, numbers: Sequence[int], loads: Callable[..., Any] = pickle.loads) -> list[Any]:
        """Return the values of these numbers: arrays as read-only views, all else fresh.

        Raises `NotPinnedError` if one was dropped.
        """
        found: list[Any] = []
        for first, count in self._runs(numbers):
            code = self._codes[first]
            if code == _DROPPED:
                raise NotPinnedError(f"value {first} was dropped from the pack")
            if code == _OWN:
                found.extend(self._own[number] for number in range(first, first + count))
                continue
            kind = self._kinds[code]
            if kind is None:
                for number in range(first, first + count):
                    start, end = self._offsets[number : number + 2]
                    found.append(open_message(self._data[start:end].tobytes(), loads))
            else:
                found.extend(self._arrays(kind, first, count))
        return found

    def _runs(self, numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Yield the first of consecutive numbers of one kind, and how many they are."""
        if not len(numbers):
            return
        wanted = np.asarray(numbers, np.int64)
        codes = self._codes[wanted]
        breaks = np.flatnonzero((np.diff(wanted) != 1) | (codes[1:] != codes[:-1])) + 1
        edges = [0, *breaks.tolist(), len(wanted)]
        for first, end in pairwise(edges):
            yield int(wanted[first]), end - first

    def _arrays(self, kind: tuple[Any, ...], first: int, count: int) -> list[Array]:
        dtype, shape, order = kind
        start, *others = self._offsets[first : first + count].tolist()
        one = view_of(self._data, dtype, shape, order, start)
        if not others or not shape:
            return [one, *(view_of(self._data, dtype, shape, order, at) for at in others)]
        # Those of one kind lie at equal distances: one array of them all is taken apart at once.
        step = one.nbytes + -one.nbytes % _ALIGNED
        check_inside(len(self._data), dtype, shape, start + step * len(others))
        strides = (step, *one.strides)
        return list(np.ndarray((count, *shape), dtype, self._data, start, strides))

    def without(self, numbers: Collection[int]) -> Pack:
        """Return a copy without these values; the others keep their numbers."""
        kept = self._codes != _DROPPED
        kept[list(numbers)] = False
        sizes = np.where(kept, np.diff(self._offsets), 0)
        offsets = np.concatenate(([0], np.cumsum(sizes)))
        parts = [
            self._data[self._offsets[first] : self._offsets[first + count]]
            for first, count in _true_runs(kept)
        ]
        codes = np.where(kept, self._codes, np.uint32(_DROPPED))
        data = np.concatenate(parts) if parts else np.empty(0, np.uint8)
        own = {number: array for number, array in self._own.items() if kept[number]}
        return Pack(self._kinds, codes, offsets, data, own)


def _arrive(kinds: Any, codes: Any, offsets: Any, data: Any, own: Any) -> Pack:
    """Return the pack that a pickle describes, after checking it."""
    for array, dtype in ((codes, np.uint32), (offsets, np.int64), (data, np.uint8)):
        if type(array) is not np.ndarray or array.dtype != dtype or array.ndim != 1:
            raise CorruptDataError("the table of a pack is damaged")
    if type(own) is not dict or any(type(array) is not np.ndarray for array in own.values()):
        raise CorruptDataError("a pack holds something else than an array where an array belongs")
    known = [kind and (described_dtype(kind[0]), *kind[1:]) for kind in kinds]
    return Pack(known, codes, offsets, data, own)


def _as_bytes(array: Array) -> tuple[Kind, Any]:
    """Return the kind of an array, and what `bytes.join` takes for its memory."""
    flat = array
    order = "C"
    if not array.flags.c_contiguous:
        if array.flags.f_contiguous:
            flat, order = array.T, "F"
        else:
            flat = np.ascontiguousarray(array)
    dtype = array.dtype
    if dtype.kind not in "biufc":
        flat = flat.reshape(-1).view(np.uint8)
    return (dtype, array.shape, order), flat


def _true_runs(flags: Array) -> Iterator[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False]))))
    for first, end in edges.reshape(-1, 2).tolist():
        yield first, end - first
