"""Shipping: how the class of a backend gets into processes that did not define it."""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from operator import is_
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import cloudpickle

from polystore.exceptions import StorageResolutionError, portable
from polystore.registration import register_backend
from polystore_ray.wire.fingerprint import OURS, code_of, fingerprint_of

__all__ = [
    "CarriedError",
    "Shipped",
    "carried",
    "class_from_bytes",
    "class_to_bytes",
    "is_newer",
    "opened",
]


class Shipped(NamedTuple):
    """A class on its way; it can be read without the code that it brings.

    Attributes
    ----------
    code : bytes
        The class: by reference where that can be, else whole.
    whole : bytes
        The whole class, for processes that cannot import it; empty where `code` is that, and
        where it cannot be had.
    why_not : str
        Why it cannot be had.
    fingerprint : str
        What differs when the code does.
    since : float
        When it was sent first, by the clock of the process that defined it.
    needs : dict
        What its hosts need, as options of an actor.
    """

    code: bytes
    whole: bytes
    why_not: str
    fingerprint: str
    since: float
    needs: dict[str, Any]


class _Sent(NamedTuple):
    shipped: bytes
    code: list[Any] | None  # what the class was made of; None for one that was defined elsewhere


# A class travels on as it came: pickled again it would be another.
_sent: WeakKeyDictionary[type, _Sent] = WeakKeyDictionary()
_sending = threading.RLock()


def class_to_bytes(cls: Any) -> bytes:
    """Return a backend's class for another process, which `class_from_bytes` takes there.

    The same bytes as before, unless the code of the class has changed: it may be changed in place,
    as IPython's ``%autoreload`` does.
    """
    known = _sent.get(cls)
    if known is not None and known.code is None:
        return known.shipped
    code = code_of(cls)
    if known is not None and _are_same(known.code or [], code):
        return known.shipped
    with _sending:
        if known is None or opened(known.shipped).fingerprint != fingerprint_of(cls):
            known = _Sent(pickle.dumps(_shipped(cls), protocol=5), code)
        _sent[cls] = _Sent(known.shipped, code)
        return known.shipped


def _are_same(before: list[Any], after: list[Any]) -> bool:
    return len(before) == len(after) and all(map(is_, before, after))


def opened(shipped: bytes) -> Shipped:
    """Return what `class_to_bytes` made, without running any code of a user."""
    found: Shipped = pickle.loads(shipped)
    return found


def class_from_bytes(shipped: bytes) -> Any:
    """Return the class that `class_to_bytes` shipped, registered in this process.

    Raises
    ------
    StorageResolutionError
        If this process has not the code of the class, and it could not travel.
    """
    cls = _class(opened(shipped))
    register_backend(cls)
    with _sending:
        _sent[cls] = _Sent(shipped, None)
    return cls


def is_newer(shipped: bytes, cls: Any) -> bool:
    """Tell whether a class that was shipped is a later version of one that came here earlier."""
    with _sending:
        known = _sent.get(cls)
    if known is None or known.shipped == shipped:
        return False
    one, other = opened(shipped), opened(known.shipped)
    return one.fingerprint != other.fingerprint and one.since > other.since


def _shipped(cls: Any) -> Shipped:
    package = cls.__module__.partition(".")[0]
    code, now, needs = cloudpickle.dumps(cls), time.time(), dict(cls._host_options)
    if package in OURS:
        return Shipped(code, b"", "", "", now, needs)
    whole, why_not = b"", ""
    try:
        with _pickled_by_value(package):
            whole = cloudpickle.dumps(cls)
    except Exception as error:  # noqa: BLE001 - pickling runs foreign code, and need not succeed
        why_not = f"{type(error).__name__}: {error}"
    return Shipped(code, b"" if whole == code else whole, why_not, fingerprint_of(cls), now, needs)


class CarriedError(Exception):
    """Carry an error whose class came here whole: Ray would make another class of it."""

    def __init__(self, pickled: bytes, text: str) -> None:
        super().__init__(pickled, text)

    def open(self) -> BaseException:
        """Return the error, of the class that the process which shipped it knows."""
        pickled, text = self.args
        error: BaseException = pickle.loads(pickled)
        error.add_note(f"raised in another process:\n{text}")
        return error


def carried(error: BaseException) -> BaseException:
    """Return an error as it can be raised in a host, so that it arrives as itself."""
    cls = type(error)
    found: Any = sys.modules.get(cls.__module__)
    for name in cls.__qualname__.split("."):
        found = getattr(found, name, None)
    sendable = portable(error)
    if found is cls or sendable is not error:
        return sendable
    return CarriedError(cloudpickle.dumps(error), "".join(traceback.format_exception(error)))


def _renew() -> None:
    global _sending  # noqa: PLW0603 - another thread may have held it when this process was forked
    _sending = threading.RLock()


os.register_at_fork(after_in_child=_renew)


@contextmanager
def _pickled_by_value(package: str) -> Iterator[None]:
    module = sys.modules.get(package)
    if module is None or package in cloudpickle.list_registry_pickle_by_value():
        yield  # it has no module, or is so already
        return
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def _class(shipped: Shipped) -> Any:
    why_not = shipped.why_not
    try:
        return pickle.loads(shipped.code)
    except (ImportError, AttributeError) as error:
        if shipped.whole:
            try:
                return pickle.loads(shipped.whole)
            except (ImportError, AttributeError) as missing:
                why_not = f"a part of it went by name, {missing}"
        raise StorageResolutionError(
            f"the code of the backend is not in this process ({type(error).__name__}: {error}), "
            f"and its class could not travel whole ({why_not or 'all of it went by name'}); "
            f"install its package on every node, or name it in the runtime_env of the job that "
            f"makes the store"
        ) from error
