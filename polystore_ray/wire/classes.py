"""Shipping: how the class of a backend reaches processes that did not define it."""

from __future__ import annotations

import copyreg
import itertools
import logging
import os
import pickle
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partialmethod
from operator import is_
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, WeakSet

import cloudpickle

from polystore.exceptions import StorageResolutionError, VFSTypeError, portable
from polystore.hostable import hostable
from polystore.registration import _REGISTRY, BUILTIN_BACKENDS, register_backend
from polystore_ray.wire.fingerprint import OURS, code_of, fingerprint_of
from polystore_ray.wire.versions import ClassVersions

__all__ = [
    "CarriedError",
    "Shipped",
    "carried",
    "class_from_bytes",
    "class_to_bytes",
    "custom_classes",
    "is_newer",
    "opened",
    "pickled_by_value",
]

logger = logging.getLogger(__name__)


class Shipped(NamedTuple):
    """A class as it travels; it can be read without running its code.

    - `code`: the class: by reference where possible, else whole
    - `whole`: the whole class, for processes that cannot import it; empty if `code` is the same, or
      if the class cannot travel whole
    - `why_not`: why it cannot travel whole
    - `fingerprint`: a text that differs if the code does
    - `origin`: the process that defined it
    - `sequence`: its place among the versions that this process has sent
    - `needs`: the options of an actor that its hosts need
    """

    code: bytes
    whole: bytes
    why_not: str
    fingerprint: str
    origin: str
    sequence: int
    needs: dict[str, Any]


class _Sent(NamedTuple):
    shipped: bytes
    code: list[Any] | None  # what the class was made of; None for one that was defined elsewhere


def _partial_method(function: Any, arguments: Sequence[Any], keywords: dict[str, Any]) -> Any:
    return partialmethod(function, *arguments, **keywords)


# Python 3.14 makes one with arguments that it does not pickle.
copyreg.pickle(partialmethod, lambda it: (_partial_method, (it.func, it.args, it.keywords)))

# A class travels on as it arrived: pickled again it would be another.
_sent: WeakKeyDictionary[type, _Sent] = WeakKeyDictionary()
_stay: WeakSet[type] = WeakSet()  # classes that cannot travel, each of which was logged once
_sending = threading.RLock()
_origin = os.urandom(8).hex()
_sequence = itertools.count()
_arrivals = ClassVersions()


def class_to_bytes(cls: Any) -> bytes:
    """Return a backend's class for another process, where `class_from_bytes` reads it.

    The bytes are the same each time, unless the code of the class has changed: IPython's
    ``%autoreload`` changes it in place.

    Raises `VFSTypeError` if the class does not pickle.
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


def custom_classes() -> dict[str, bytes]:
    """Return the classes of this process's custom backends that can travel, by their keys."""
    shipped = {}
    for key, cls in list(_REGISTRY.items()):
        if key in BUILTIN_BACKENDS:
            continue
        try:
            shipped[key] = class_to_bytes(cls)
        except VFSTypeError as error:  # the other classes still travel
            if cls not in _stay:  # a registry may be pickled for each of many tasks
                _stay.add(cls)
                logger.warning("%s", error)
    return shipped


def opened(shipped: bytes) -> Shipped:
    """Return what `class_to_bytes` made, without running any code of a user."""
    found: Shipped = pickle.loads(shipped)
    return found


def class_from_bytes(shipped: bytes) -> Any:
    """Return the class that `class_to_bytes` shipped, registered in this process.

    Raises `StorageResolutionError` if this process lacks the code of the class, and the class could
    not travel whole.
    """
    cls = _class(opened(shipped))
    register_backend(cls)
    with _sending:
        _sent[cls] = _Sent(shipped, None)
    return cls


def is_newer(shipped: bytes, cls: Any) -> bool:
    """Return whether a shipped class is a later version of one that arrived here or was sent."""
    with _sending:
        known = _sent.get(cls)
        if known is None or known.shipped == shipped:
            return False
        here, other = (
            _arrivals.number(cls._backend_type, one.origin, one.sequence, one.fingerprint)
            for one in (opened(known.shipped), opened(shipped))
        )
        return other > here


def _shipped(cls: Any) -> Shipped:
    package = cls.__module__.partition(".")[0]
    try:
        code = cloudpickle.dumps(cls)
    except Exception as error:
        raise VFSTypeError(
            f"the class {cls.__qualname__} cannot travel to other processes ({error}): it refers "
            f"to an object that does not pickle, such as a lock. Create that in __init__, or put "
            f"the class into a module that other processes can import",
            backend=cls._backend_type,
        ) from error
    needs = dict(hostable(cls)._host_options)  # noqa: SLF001 - the contract's
    if package in OURS:
        return Shipped(code, b"", "", "", _origin, 0, needs)
    whole, why_not = b"", ""
    try:
        with pickled_by_value(package):
            whole = cloudpickle.dumps(cls)
    except Exception as error:  # noqa: BLE001 - pickling runs foreign code, and need not succeed
        why_not = f"{type(error).__name__}: {error}"
    whole = b"" if whole == code else whole
    fingerprint = fingerprint_of(cls)
    return Shipped(code, whole, why_not, fingerprint, _origin, next(_sequence), needs)


class CarriedError(Exception):
    """Carry an error whose class arrived here whole: Ray would make another class of it."""

    def __init__(self, pickled: bytes, text: str) -> None:
        super().__init__(pickled, text)

    def open(self) -> BaseException:
        """Return the error, of the class that the process which shipped it knows."""
        pickled, text = self.args
        error: BaseException = pickle.loads(pickled)
        error.add_note(f"raised in another process:\n{text}")
        return error


def carried(error: BaseException) -> BaseException:
    """Return an error in a form that arrives at the caller as itself."""
    cls = type(error)
    found: Any = sys.modules.get(cls.__module__)
    for name in cls.__qualname__.split("."):
        found = getattr(found, name, None)
    sendable = portable(error)
    if found is cls or sendable is not error:
        return sendable
    return CarriedError(cloudpickle.dumps(error), "".join(traceback.format_exception(error)))


def _renew() -> None:
    # Another thread may have held the lock when this process was forked; its versions are new.
    global _sending, _origin
    _sending, _origin = threading.RLock(), os.urandom(8).hex()


os.register_at_fork(after_in_child=_renew)


@contextmanager
def pickled_by_value(package: str) -> Iterator[None]:
    """Have cloudpickle take what is in a package of this process as it is, not by its name."""
    module = sys.modules.get(package)
    if module is None or package in cloudpickle.list_registry_pickle_by_value():
        yield  # it has no module, or is pickled by value already
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
                why_not = f"a part of it travels by name, {missing}"
        raise StorageResolutionError(
            f"the code of the backend is not in this process ({type(error).__name__}: {error}), "
            f"and its class could not travel whole ({why_not or 'all of it travels by name'}); "
            f"install its package on every node, or name it in the runtime_env of the job that "
            f"makes the store"
        ) from error
