"""Pickles read as plain data: nothing that they name is run, whatever is in them.

Opening a pickle runs what its author chose. Here an unpickler opens it that knows few operations of
pickles, and only the names below. Each of these makes one kind of value and checks its arguments:
numbers, dates, and arrays of NumPy. A pickle with another name is refused with that name.
"""

from __future__ import annotations

import datetime as dt
import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from polystore.exceptions import CorruptDataError, StorageError, UnsupportedOperationError
from polystore.serialization import _array, _scalar
from polystore_ray.wire.pack import _arrive as _pack

__all__ = ["plain_loads"]

_PACKED: Any = dt  # its classes take what their pickles hold too, which no annotation says


def _date(packed: bytes) -> dt.date:
    made = _PACKED.date(packed)
    return dt.date(made.year, made.month, made.day)  # which checks them


def _time(packed: bytes, zone: dt.timezone | None = None) -> dt.time:
    made = _PACKED.time(packed, zone)
    return dt.time(*_clock(made), tzinfo=zone, fold=made.fold)


def _datetime(packed: bytes, zone: dt.timezone | None = None) -> dt.datetime:
    made = _PACKED.datetime(packed, zone)
    day = made.year, made.month, made.day
    return dt.datetime(*day, *_clock(made), tzinfo=zone, fold=made.fold)


def _clock(made: Any) -> tuple[int, int, int, int]:
    return made.hour, made.minute, made.second, made.microsecond


def _text(text: str) -> np.str_:
    return np.str_(_exactly(str, text))


def _bytes(data: bytes) -> np.bytes_:
    return np.bytes_(_exactly(bytes, data))  # of a number it would make as many zeros


def _exactly(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise ValueError(f"expected a {kind.__name__}, not a {type(value).__name__}")
    return value


_MAKERS: dict[tuple[str, str], Callable[..., Any]] = {
    ("builtins", "complex"): complex,
    ("builtins", "range"): range,
    ("builtins", "slice"): slice,
    ("collections", "OrderedDict"): OrderedDict,
    ("datetime", "date"): _date,
    ("datetime", "datetime"): _datetime,
    ("datetime", "time"): _time,
    ("datetime", "timedelta"): dt.timedelta,
    ("datetime", "timezone"): dt.timezone,
    ("numpy", "bytes_"): _bytes,
    ("numpy", "str_"): _text,
    ("polystore.serialization", "_array"): _array,
    ("polystore.serialization", "_scalar"): _scalar,
    ("polystore_ray.wire.pack", "_arrive"): _pack,
}

# Not BUILD, which sets what it likes on what has been made, nor what makes instances of classes,
# nor the old ones in text.
_OPERATIONS = b"".join(
    getattr(pickle, name)
    for name in (
        *("PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "MEMOIZE", "BINPUT"),
        *("LONG_BINPUT", "BINGET", "LONG_BINGET", "NONE", "NEWTRUE", "NEWFALSE", "BININT"),
        *("BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "SHORT_BINBYTES", "BINBYTES"),
        *("BINBYTES8", "BYTEARRAY8", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
        *("EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "TUPLE", "EMPTY_LIST", "APPEND", "APPENDS"),
        *("EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_SET", "ADDITEMS", "FROZENSET"),
        *("GLOBAL", "STACK_GLOBAL", "REDUCE", "NEXT_BUFFER", "READONLY_BUFFER"),
    )
)


# The one that is written in Python: its operations can be chosen, and none takes memory for what a
# pickle only claims to hold.
class _PlainUnpickler(pickle._Unpickler):  # noqa: SLF001
    dispatch = {code: pickle._Unpickler.dispatch[code] for code in _OPERATIONS}  # noqa: RUF012, SLF001

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _MAKERS[module, name]
        except KeyError:
            raise UnsupportedOperationError(
                f"the value is not plain data: opening it would run {module}.{name}; load it in "
                f"Python if you trust its author"
            ) from None

    def load_bytearray8(self: Any) -> None:
        size = int.from_bytes(self.read(8), "little")
        self.append(bytearray(self.read(size)))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8


def plain_loads(data: Any, buffers: Any = None) -> Any:
    """Do as `pickle.loads` does for plain data, and refuse everything else.

    Raises `UnsupportedOperationError` if the pickle names anything that is not plain data; nothing
    of it has been run; `CorruptDataError` if it is damaged.

    Examples
    --------
    >>> plain_loads(pickle.dumps({"cells": [1, 2.5]}))
    {'cells': [1, 2.5]}
    """
    try:
        return _PlainUnpickler(io.BytesIO(data), buffers=buffers).load()
    except StorageError:
        raise
    except Exception as error:  # a damaged pickle may raise any error
        raise CorruptDataError(
            f"the saved value cannot be opened ({type(error).__name__}: {error})"
        ) from error
