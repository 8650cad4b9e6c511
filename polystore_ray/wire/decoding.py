"""Messages between the processes of a store, as bytes: a closed set of classes, and no code.

They are pickles, which are quick to write and to read. Their reader knows only the names below. So
nothing that a caller put into a request, such as a number of its own class, runs where the request
arrives.
"""

from __future__ import annotations

import builtins
import copyreg
import io
import pickle
from collections.abc import Callable
from typing import IO, Any

from polystore import exceptions
from polystore.exceptions import CorruptDataError, StorageError, UnsupportedOperationError
from polystore_ray import errors
from polystore_ray.wire.messages import (
    ChangeId,
    Found,
    Items,
    Kept,
    Lacking,
    Leased,
    Loss,
    Pin,
    Recipe,
    Record,
    Request,
    Uncounted,
    Wish,
)

__all__ = ["decode", "decode_state", "encode", "encode_state"]


class _Maker:
    """A function that makes one kind of message, and has nothing else that a pickle could use."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a message has no state")


def _items(*columns: Any) -> Items:
    """Return items whose facts are numbers and names, which later readers trust."""
    items = Items(*columns)
    # Similar values share their facts.
    for size, shape, dtype in {id(facts): facts for facts in items.facts}.values():
        plain = type(size) is int and size >= 0 and (dtype is None or type(dtype) is str)
        if not plain or not (shape is None or (type(shape) is tuple and _are_sizes(shape))):
            raise ValueError("the facts of a value are not a size, a shape and a dtype")
    for version, modified in items.moments or ():
        if type(version) is not int or version < 0 or type(modified) is not float:
            raise ValueError("the moment of a value is not a version and a time")
    if items.ttl is not None and type(items.ttl) is not float:
        raise ValueError("the time to live of values is not a number of seconds")
    for recipe in filter(None, items.recipes):
        if type(recipe.code) is not bytes or {*map(type, recipe.inputs)} - {str}:
            raise ValueError("a recipe is not code and the paths of its inputs")
    return items


def _are_sizes(shape: tuple[Any, ...]) -> bool:
    return all(type(side) is int and side >= 0 for side in shape)


_MESSAGES = {
    (cls.__module__, cls.__name__): _Maker(_items if cls is Items else cls)
    for cls in (
        *(ChangeId, Found, Items, Kept, Lacking, Leased, Loss, Pin, Recipe, Record, Request),
        *(Uncounted, Wish),
    )
}

_STATE = frozenset(
    {
        ("collections", "OrderedDict"),
        ("collections", "deque"),
        ("polystore.exceptions", "_rebuild"),  # errors that are the answers to changes
        ("polystore.path_tree", "PathTree"),
        ("polystore.path_nodes", "Link"),
        ("polystore_ray.controller.claims", "Claims"),
        ("polystore_ray.controller.claims", "_Claim"),
        ("polystore_ray.controller.copies", "Copies"),
        ("polystore_ray.controller.entries", "Entry"),
        ("polystore_ray.controller.entries", "Held"),
        ("polystore_ray.controller.eviction", "Evictables"),
        ("polystore_ray.controller.expiry", "Expiry"),
        ("polystore_ray.controller.ledger", "Ledger"),
        ("polystore_ray.controller.makers", "Makers"),
        ("polystore_ray.controller.makers", "_Turn"),
        ("polystore_ray.wire.event_log", "EventLog"),
        ("polystore_ray.wire.sessions", "Answers"),
        ("polystore_ray.wire.sessions", "Refusal"),
        ("polystore_ray.wire.sessions", "_Kept"),
        ("polystore_ray.wire.versions", "ClassVersions"),
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
                f"a message of a store holds a {module}.{name}, which is not a plain value",
                backend="memory",
            )
        return found


class _States(_Messages):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _STATE:
            return pickle.Unpickler.find_class(self, module, name)
        return super().find_class(module, name)


class _Encoder(pickle.Pickler):
    # A reference is valid only where Ray itself has passed it on.
    dispatch_table = {Pin: lambda pin: (Pin, (pin.id, pin.nodes, None, pin.nbytes))}  # noqa: RUF012


def encode(message: Any) -> bytes:
    """Return a message as bytes: plain values, and the tuples of `polystore_ray.wire.messages`.

    The references of its pins are left out.
    """
    file = io.BytesIO()
    _Encoder(file, protocol=5).dump(message)
    return file.getvalue()


class _StateWriter(pickle.Pickler):
    # What other packages register for all classes of errors, as tblib does, no reader knows.
    dispatch_table = {complex: copyreg.dispatch_table[complex]}  # noqa: RUF012 - of pickle


def encode_state(state: Any, file: IO[bytes]) -> None:
    """Write the state of a controller, or an error that is a part of it, into a binary file."""
    _StateWriter(file, protocol=5).dump(state)


def decode(data: bytes) -> Any:
    """Return the message of these bytes.

    Raises `UnsupportedOperationError` if it holds anything except plain values and our tuples; none
    of it has been run; `CorruptDataError` if it is damaged.
    """
    return _read(_Messages, io.BytesIO(data))


def decode_state(file: Any) -> Any:
    """Return the state of a controller, from a binary file; errors as for `decode`."""
    return _read(_States, file)


def _read(reader: type[pickle.Unpickler], file: Any) -> Any:
    try:
        return reader(file).load()
    except StorageError:
        raise
    except Exception as error:  # a damaged pickle may raise any error
        raise CorruptDataError(f"a message of a store is damaged ({error})") from error
