"""Messages between the processes of a store, as bytes: a closed set of classes, and no code.

They are pickles, which are quick to write and to read. What reads them knows no names but those
below, so that nothing that a caller put into a request, such as a number of a class of its own, is
run where the request arrives.
"""

from __future__ import annotations

import builtins
import io
import pickle
from collections.abc import Callable
from typing import Any

from polystore import exceptions
from polystore.exceptions import CorruptDataError, StorageError, UnsupportedOperationError
from polystore_ray import errors
from polystore_ray.wire.messages import ChangeId, Found, Items, Kept, Pin, Request

__all__ = ["decode", "decode_state", "encode"]


class _Maker:
    """What makes one kind of message, and nothing else of which a pickle could make use."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it has no state")


def _items(*columns: Any) -> Items:
    """Return items whose facts are numbers and names, since everybody believes them later."""
    items = Items(*columns)
    # Those of like values are one object, which came once.
    for size, shape, dtype in {id(facts): facts for facts in items.facts}.values():
        plain = type(size) is int and size >= 0 and (dtype is None or type(dtype) is str)
        if not plain or not (shape is None or (type(shape) is tuple and _are_sizes(shape))):
            raise ValueError("what is said of a value is no size, shape and dtype")
    return items


def _are_sizes(shape: tuple[Any, ...]) -> bool:
    return all(type(side) is int and side >= 0 for side in shape)


_MESSAGES = {
    ("polystore_ray.wire.messages", "ChangeId"): _Maker(ChangeId),
    ("polystore_ray.wire.messages", "Found"): _Maker(Found),
    ("polystore_ray.wire.messages", "Items"): _Maker(_items),
    ("polystore_ray.wire.messages", "Kept"): _Maker(Kept),
    ("polystore_ray.wire.messages", "Pin"): _Maker(Pin),
    ("polystore_ray.wire.messages", "Request"): _Maker(Request),
}

_STATE = frozenset(
    {
        ("collections", "OrderedDict"),
        ("collections", "deque"),
        ("polystore.exceptions", "_rebuild"),  # errors that are the answers to changes
        ("polystore.path_tree", "PathTree"),
        ("polystore.path_tree", "_Link"),
        ("polystore_ray.controller.ledger", "Entry"),
        ("polystore_ray.controller.ledger", "Held"),
        ("polystore_ray.controller.ledger", "Ledger"),
        ("polystore_ray.wire.sessions", "Answers"),
        ("polystore_ray.wire.sessions", "Refusal"),
        ("polystore_ray.wire.sessions", "_Kept"),
    }
    | {
        (cls.__module__, cls.__name__)
        for module in (exceptions, errors, builtins)
        for cls in vars(module).values()
        if isinstance(cls, type) and issubclass(cls, Exception)
    }
)


class _Messages(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = _MESSAGES.get((module, name))
        if found is None:
            raise UnsupportedOperationError(
                f"a message of a store holds a {module}.{name}, which is no plain value",
                backend="memory",
            )
        return found


class _States(_Messages):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _STATE:
            return pickle.Unpickler.find_class(self, module, name)
        return super().find_class(module, name)


def encode(message: Any) -> bytes:
    """Return a message as bytes: plain values, and the tuples of `polystore_ray.wire.messages`."""
    return pickle.dumps(message, protocol=5)


def decode(data: bytes) -> Any:
    """Return the message of these bytes.

    Raises
    ------
    UnsupportedOperationError
        If it holds anything but plain values and our tuples; nothing of it has been run.
    CorruptDataError
        If it is damaged.
    """
    return _read(_Messages, io.BytesIO(data))


def decode_state(file: Any) -> Any:
    """Return the state of a controller, from a binary file; errors as of `decode`."""
    return _read(_States, file)


def _read(reader: type[pickle.Unpickler], file: Any) -> Any:
    try:
        return reader(file).load()
    except StorageError:
        raise
    except Exception as error:  # pickles can be damaged in as many ways as there are errors
        raise CorruptDataError(f"a message of a store is damaged ({error})") from error
