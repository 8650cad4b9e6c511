"""Sealed values: a pickle-5 head and its out-of-band buffers, apart from the value.

A sealed value is a snapshot that can be stored, sent and counted without being rebuilt. Numeric
arrays of every dtype, shape and order travel as plain bytes beside the head, so opening gives
views of those bytes, never copies. Objects that pickle by themselves (object arrays, array
subclasses) travel in the head and come out as fresh copies.

The dtype of an array travels as a description (``"<f8"``, or its fields), of which NumPy makes it
anew: it believes the pickle of a dtype whatever is in it.
"""

from __future__ import annotations

import io
import math
import pickle
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cloudpickle
import numpy as np
import numpy.typing as npt

from polystore.exceptions import (
    CorruptDataError,
    MissingDependencyError,
    StorageError,
    VFSTypeError,
)

__all__ = [
    "Carrier",
    "Description",
    "Sealed",
    "array_size",
    "check_inside",
    "describe_dtype",
    "described_dtype",
    "is_raw",
    "plain_bytes",
    "seal",
    "shape_and_dtype",
    "view_of",
]

_LARGE = 2**20  # bytes
_DEEPEST = 32  # levels of fields within fields
_PARTS = {"names", "formats", "offsets", "titles", "itemsize", "aligned"}
_SIMPLE = re.compile(r"[<>|=]?[biufcSUVMm?][0-9]{0,10}(\[([1-9][0-9]{0,9})?[A-Za-z]{1,7}\])?")

Description = str | tuple[Any, ...] | dict[str, Any]
"""A dtype as its text, as another and a shape, or as its fields: what `numpy.dtype` takes."""

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

        Raises `MissingDependencyError` if its class is missing here; `CorruptDataError` if opening
        it fails otherwise, as the code of its class may.
        """
        try:
            value = loads(self.head, buffers=self.buffers)
        except (StorageError, MemoryError):
            raise
        except Exception as error:  # opening a value runs the code of its class
            raise _unopened(error) from error
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

    Raises `VFSTypeError` if the value, or something in it, cannot be pickled, or is an object of
    Ray (an object reference or an actor handle) that means nothing once its owner is gone.
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
            f"a {type(value).__name__} cannot be saved here, since it does not pickle: {error}; "
            f"save the data in it instead, or leave that part out in its __getstate__"
        ) from error
    # Not their memoryviews: one that ends in a cycle, as the traceback of a failed save is,
    # crashes the garbage collector of Python 3.11.
    return Sealed(stream.getvalue(), tuple(buffers))


def _unopened(error: Exception) -> StorageError:
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, ImportError | AttributeError):
        return MissingDependencyError(
            f"the value's class is missing in this process ({reason}); install its package on "
            f"every node, or name its module in the job's runtime_env"
        )
    return CorruptDataError(f"the saved value cannot be opened ({reason})")


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


def _is_array(value: Any) -> bool:
    return issubclass(type(value), np.ndarray)  # not by `__class__`, which may say anything


def shape_and_dtype(value: Any) -> tuple[tuple[int, ...] | None, str | None]:
    """Return the shape and the dtype's name of an array, and Nones for other values.

    They are what NumPy itself knows: a subclass may say otherwise.
    """
    if not _is_array(value):
        return None, None
    shape: tuple[int, ...] = np.ndarray.shape.__get__(value)
    dtype: np.dtype[Any] = np.ndarray.dtype.__get__(value)
    return shape, str(dtype)


def array_size(value: Any) -> int:
    """Return the bytes of an array, and 0 for other values."""
    if not _is_array(value):
        return 0
    size: int = np.ndarray.nbytes.__get__(value)
    return size


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
        if cls in _SCALARS:
            return _reduce_scalar(obj)
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


def describe_dtype(dtype: np.dtype[Any]) -> Description | np.dtype[Any]:
    """Return the description of a dtype that is its bytes, or itself where none says all."""
    if dtype.metadata is not None or dtype.hasobject:
        return dtype
    return _described(dtype, dtype.isalignedstruct)  # which makes no two dtypes unequal


@lru_cache(maxsize=1024)  # most arrays are like others
def _described(dtype: np.dtype[Any], aligned: bool) -> Description | np.dtype[Any]:
    description = _description(dtype)
    try:
        made = described_dtype(description)
    except CorruptDataError:  # such as the dtype of another package
        return dtype
    return description if made == dtype and made.isalignedstruct == aligned else dtype


def _description(dtype: np.dtype[Any]) -> Description:
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return _description(base), shape
    if dtype.names is None or dtype.fields is None:
        return dtype.str
    fields = [dtype.fields[name] for name in dtype.names]
    return {
        "names": list(dtype.names),
        "formats": [_description(field[0]) for field in fields],
        "offsets": [field[1] for field in fields],
        "titles": [field[2] if len(field) > 2 else None for field in fields],
        "itemsize": dtype.itemsize,
        "aligned": dtype.isalignedstruct,
    }


def described_dtype(description: Any) -> np.dtype[Any]:
    """Return the dtype of a description; one that is a dtype already is itself.

    Raises `CorruptDataError` if it describes none, or one whose values are not their bytes.
    """
    if isinstance(description, np.dtype):
        return description
    try:
        return _dtype(description, 1)
    except (KeyError, TypeError, ValueError, OverflowError, MemoryError) as error:
        raise CorruptDataError(f"the value's dtype is damaged ({error})") from error


def _dtype(description: Any, depth: int) -> np.dtype[Any]:
    """Return what NumPy makes of a description, which is of types only that ours are of."""
    if type(description) is str:
        return _simple(description)
    if depth > _DEEPEST:
        raise ValueError("its fields have too many levels")
    if type(description) is tuple:
        base, shape = description
        return _raw(np.dtype((_dtype(base, depth + 1), _only(int, shape, tuple))))
    if type(description) is not dict or description.keys() != _PARTS:
        raise ValueError("it is no description")
    if len(description["names"]) != len(description["offsets"]):
        raise ValueError("it does not name each field")
    made: Any = {
        "names": _only(str, description["names"], list),
        "formats": [_dtype(part, depth + 1) for part in description["formats"]],
        "offsets": _only(int, description["offsets"], list),
        "titles": _only((str, type(None)), description["titles"], list),
        "itemsize": _only(int, (description["itemsize"],), tuple)[0],
    }
    ends = zip(made["offsets"], made["formats"], strict=True)
    if any(offset + part.itemsize > made["itemsize"] for offset, part in ends):
        raise ValueError("a field ends outside")  # NumPy adds these numbers modulo 2**32
    return _raw(np.dtype(made, align=description["aligned"] is True))


def _only(kind: Any, parts: Any, holder: Any) -> Any:
    if type(parts) is not holder or not all(isinstance(part, kind) for part in parts):
        raise ValueError(f"it is no {holder.__name__} of {kind}")
    return parts


@lru_cache(maxsize=1024)
def _simple(text: str) -> np.dtype[Any]:
    if not _SIMPLE.fullmatch(text):
        raise ValueError(f"{text[:50]!r} describes no dtype")
    return _raw(np.dtype(text))


def _raw(dtype: np.dtype[Any]) -> np.dtype[Any]:
    if dtype.hasobject or dtype.itemsize <= 0:
        raise ValueError("its values are not their bytes")
    return dtype


def _reduce_array(array: npt.NDArray[Any], made_by: Callable[..., Any]) -> Any:
    if not is_raw(array):
        return array.__reduce_ex__(5)
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    flat: Any = np.ascontiguousarray(array.T if fortran else array).reshape(-1).view(np.uint8)
    # The element type travels beside it, because plain buffers know no datetime64 and no records.
    described = describe_dtype(array.dtype)
    return made_by, (pickle.PickleBuffer(flat), described, array.shape, "F" if fortran else "C")


def _array(buffer: Buffer, description: Any, shape: Any, order: Any) -> npt.NDArray[Any]:
    return view_of(buffer, described_dtype(description), shape, order)


def view_of(
    buffer: Buffer, dtype: np.dtype[Any], shape: Any, order: Any, offset: int = 0
) -> npt.NDArray[Any]:
    """Return an array that is a part of a buffer.

    Raises `CorruptDataError` if the buffer has no such part.
    """
    check_inside(_size(buffer), dtype, shape, offset)
    return np.ndarray(shape, dtype, buffer, offset, order=order)


def check_inside(size: int, dtype: np.dtype[Any], shape: Any, offset: int = 0) -> None:
    """Raise unless an array fits into a buffer of this size, as `view_of`.

    Python's numbers have no limit; NumPy multiplies modulo 2**64, and then believes the result.
    """
    if type(shape) is not tuple or min(shape, default=0) < 0:
        raise CorruptDataError("the shape of an array is damaged")
    if not 0 <= offset <= size - math.prod(shape) * dtype.itemsize:
        raise CorruptDataError("an array ends outside the bytes that were saved")


# Without objects, which travel as themselves, and the empty text, whose dtype has no size.
_SCALARS: frozenset[Any] = frozenset(set(np.sctypeDict.values())) - {np.object_}


def _reduce_scalar(scalar: Any) -> Any:
    if isinstance(scalar, str):
        return np.str_, (str.__str__(scalar),)
    if isinstance(scalar, bytes):
        return np.bytes_, (bytes(scalar),)
    described = describe_dtype(scalar.dtype)
    if isinstance(described, np.dtype):
        return scalar.__reduce__()
    return _scalar, (described, scalar.tobytes())


def _scalar(description: Any, data: bytes) -> Any:
    # Of a buffer that nobody else has, since a record is a view of it.
    return view_of(bytearray(data), described_dtype(description), (), "C")[()]


def _copied_array(buffer: Buffer, description: Any, shape: Any, order: Any) -> npt.NDArray[Any]:
    return _array(buffer, description, shape, order).copy(order="K")


def _freeze(array: npt.NDArray[Any]) -> None:
    array.flags.writeable = False
    if isinstance(array, np.ma.MaskedArray) and array.mask is not np.ma.nomask:
        array.mask.flags.writeable = False
