"""Sealed values: a pickle-5 head and its out-of-band buffers, apart from the value.

A sealed value is a snapshot that can be stored, sent and counted without being rebuilt. Numeric
arrays of every dtype, shape and order travel as plain bytes beside the head, so opening gives
views of those bytes, never copies. Objects that pickle by themselves (object arrays, array
subclasses) travel in the head and come out as fresh copies.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cloudpickle
import numpy as np
import numpy.typing as npt

from polystore.exceptions import VFSTypeError

__all__ = ["Carrier", "Sealed", "is_raw", "plain_bytes", "seal", "shape_and_dtype"]

_LARGE = 2**20  # bytes
Buffer = Any  # anything with the buffer protocol; collections.abc.Buffer is Python 3.12's

# The exact types that plain pickle stores as every process reads them, and quicker.
_PLAIN = frozenset({bool, bytearray, bytes, complex, float, int, str, type(None)})


class Carrier:
    """A value of our own that holds many arrays and gives them out as views."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Sealed:
    """A value as a pickle-5 head and the buffers it refers to, in their order."""

    head: Buffer
    buffers: tuple[Buffer, ...] = ()

    @property
    def nbytes(self) -> int:
        """The size of head and buffers in bytes."""
        return memoryview(self.head).nbytes + sum(map(_size, self.buffers))

    def open(self, loads: Callable[..., Any] = pickle.loads) -> Any:
        """Return the value: arrays as read-only views of the buffers, all else fresh.

        So are arrays in dicts, lists and tuples.
        """
        value = loads(self.head, buffers=self.buffers)
        if isinstance(value, np.ndarray):
            _freeze(value)
        return value

    def copied(self) -> Sealed:
        """Return the same with buffers of its own, which later changes do not reach."""
        return Sealed(self.head, tuple(map(_copy, self.buffers)))


def seal(value: Any) -> Sealed:
    """Seal `value`. Its buffers are still the value's own memory: copy or store them at once.

    An array, also one in dicts, lists and tuples, opens as a view. Arrays inside other objects
    open as copies, so that these objects (a table of pandas) can be changed; in a `Carrier` they
    are views.

    Raises
    ------
    VFSTypeError
        If the value, or something in it, cannot be pickled, or is an object of Ray (an object
        reference or an actor handle) that means nothing once its owner is gone.
    """
    if type(value) in _PLAIN:
        return Sealed(pickle.dumps(value, protocol=5))
    buffers: list[pickle.PickleBuffer] = []
    stream = io.BytesIO()
    try:
        _Pickler(stream, value, buffers.append).dump(value)
    except (VFSTypeError, MemoryError):
        raise
    except Exception as error:
        raise VFSTypeError(
            f"a {type(value).__name__} cannot be saved here, since it does not pickle: {error}"
        ) from error
    # Not their memoryviews: one that ends in a cycle, as the traceback of a failed save is,
    # crashes the garbage collector of Python 3.11.
    return Sealed(stream.getvalue(), tuple(buffers))


def plain_bytes(buffer: Buffer) -> bytes:
    """Return a copy of the memory of a buffer, in the order in which it lies there."""
    return bytes(buffer.raw() if isinstance(buffer, pickle.PickleBuffer) else buffer)


def _copy(buffer: Buffer) -> Buffer:
    size = _size(buffer)
    if size < _LARGE:
        return plain_bytes(buffer)
    # NumPy asks for huge pages, which makes a large copy several times as fast as that of bytes.
    copy = np.empty(size, np.uint8)
    copy[:] = np.frombuffer(
        buffer.raw() if isinstance(buffer, pickle.PickleBuffer) else buffer, np.uint8
    )
    copy.flags.writeable = False
    return copy


def _size(buffer: Buffer) -> int:
    return memoryview(buffer).nbytes


def shape_and_dtype(value: Any) -> tuple[tuple[int, ...] | None, str | None]:
    """Return the shape and the dtype's name of an array, and Nones for other values."""
    if isinstance(value, np.ndarray):
        return value.shape, str(value.dtype)
    return None, None


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle's, with arrays out of band and Ray's handles refused."""

    def __init__(self, stream: io.BytesIO, value: Any, buffer_callback: Callable[..., Any]) -> None:
        super().__init__(stream, protocol=5, buffer_callback=buffer_callback)
        self._value = value
        self._views: set[int] | None = None

    def reducer_override(self, obj: Any) -> Any:
        cls: Any = type(obj)
        if cls is np.ndarray:
            return _reduce_array(obj, _array if self._is_view(obj) else _copied_array)
        if _is_ray_handle(cls):
            raise VFSTypeError(
                f"a value that contains a Ray {cls.__name__} cannot be saved: it would outlive "
                f"what it refers to; save the referenced value instead"
            )
        return super().reducer_override(obj)

    def _is_view(self, array: npt.NDArray[Any]) -> bool:
        if array is self._value or isinstance(self._value, Carrier):
            return True
        if self._views is None:
            self._views = set(map(id, _arrays_in(self._value)))
        return id(array) in self._views


def _arrays_in(value: Any) -> Iterator[npt.NDArray[Any]]:
    """Yield the arrays in dicts, lists and tuples, however deep."""
    waiting, seen = [value], set()
    while waiting:
        found = waiting.pop()
        if isinstance(found, np.ndarray):
            yield found
        elif isinstance(found, dict | list | tuple) and id(found) not in seen:
            seen.add(id(found))
            waiting += found.values() if isinstance(found, dict) else found


@lru_cache(maxsize=4096)
def _is_ray_handle(cls: type) -> bool:
    return any(
        base.__name__ in ("ObjectRef", "ObjectRefGenerator", "ActorHandle")
        and base.__module__.partition(".")[0] == "ray"
        for base in cls.__mro__
    )


def is_raw(array: npt.NDArray[Any]) -> bool:
    """Tell whether the values of an array are its bytes, and refer to nothing outside them."""
    dtype = array.dtype
    return not dtype.hasobject and dtype.kind != "T" and dtype.itemsize > 0


def _reduce_array(array: npt.NDArray[Any], made_by: Callable[..., Any]) -> Any:
    if not is_raw(array):
        return array.__reduce_ex__(5)
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    flat: Any = np.ascontiguousarray(array.T if fortran else array).reshape(-1).view(np.uint8)
    # The element type travels as itself, because plain buffers know no datetime64 and no records.
    return made_by, (pickle.PickleBuffer(flat), array.dtype, array.shape, "F" if fortran else "C")


def _array(
    buffer: Buffer, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any
) -> npt.NDArray[Any]:
    return np.ndarray(shape, dtype, buffer, order=order)


def _copied_array(
    buffer: Buffer, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any
) -> npt.NDArray[Any]:
    return _array(buffer, dtype, shape, order).copy(order="K")


def _freeze(array: npt.NDArray[Any]) -> None:
    array.flags.writeable = False
    if isinstance(array, np.ma.MaskedArray) and array.mask is not np.ma.nomask:
        array.mask.flags.writeable = False
