"""Capabilities: what a backend offers beyond the five abstract methods, as types.

A backend has a capability as soon as it implements the methods; it does not derive from the
class. ``isinstance(backend, Resizable)`` therefore answers for every backend.
"""

from __future__ import annotations

import inspect
from abc import ABC
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, ClassVar, TypeVar

__all__ = [
    "Capability",
    "Deletable",
    "HasDirectories",
    "HasLinks",
    "MakesParents",
    "ReportsLoading",
    "ReportsSaving",
    "Resizable",
    "Watchable",
    "accepting",
    "accepts",
    "options_of",
    "unsupported",
]

Method = TypeVar("Method", bound=Callable[..., Any])
_UNSUPPORTED = "is_unsupported"
_ACCEPTED = "accepted_keywords"


def unsupported(method: Method) -> Method:
    """Mark a default method that does nothing but raise `UnsupportedOperationError`."""
    setattr(method, _UNSUPPORTED, True)
    return method


def accepting(*keywords: str) -> Callable[[Method], Method]:
    """Declare keywords that a method takes among its ``**options``.

    Its overrides then need not take them, neither when they are called nor for a type checker.
    The method passes any other option on: that of a batch to each load or save.
    """

    def mark(method: Method) -> Method:
        setattr(method, _ACCEPTED, keywords)
        return method

    return mark


class Capability(ABC):  # noqa: B024 - nothing derives from it to implement it
    """The base of all capabilities.

    Parameters
    ----------
    methods : sequence of str
        The methods that a backend with this capability implements.
    keyword : str, optional
        The keyword argument that each of these methods takes.
    """

    _methods: ClassVar[Sequence[str]] = ()
    _keyword: ClassVar[str | None] = None

    def __init_subclass__(cls, methods: Sequence[str] = (), keyword: str | None = None) -> None:
        super().__init_subclass__()
        cls._methods, cls._keyword = methods, keyword

    @classmethod
    def __subclasshook__(cls, backend: type) -> bool:
        if not cls._methods:
            return NotImplemented  # type: ignore[no-any-return]
        return all(_implements(backend, method, cls._keyword) for method in cls._methods)


class Deletable(Capability, methods=("delete",)):
    """A backend that deletes, and therefore moves."""


class HasDirectories(Capability, methods=("ensure_directory",)):
    """A backend that creates directories."""


class HasLinks(Capability, methods=("create_symlink",)):
    """A backend that creates symbolic links."""


class Resizable(Capability, methods=("append", "resize")):
    """A backend whose stored arrays grow and shrink."""


class Watchable(Capability, methods=("watch",)):
    """A backend that reports its changes as events."""


class MakesParents(Capability, methods=("save",), keyword="parents"):
    """A backend whose ``save`` takes ``parents=True``, to create missing directories."""


class ReportsLoading(Capability, methods=("load_batch",), keyword="progress"):
    """A backend whose ``load_batch`` takes ``progress=``."""


class ReportsSaving(Capability, methods=("save_batch",), keyword="progress"):
    """A backend whose ``save_batch`` takes ``progress=``."""


def _implements(backend: type, name: str, keyword: str | None) -> bool:
    method = getattr(backend, name, None)
    if method is None or hasattr(method, _UNSUPPORTED):
        return False
    return keyword is None or accepts(backend, name, keyword)


@lru_cache(maxsize=256)
def accepts(cls: type, method: str, keyword: str) -> bool:
    """Return whether a method of a class takes a keyword by its name."""
    function = getattr(cls, method, None)
    if function is None or keyword in getattr(function, _ACCEPTED, ()):
        return function is not None
    return keyword in inspect.signature(function).parameters


# The methods of a batch pass their options on to those of one value.
_PASSED_ON = {
    "load_batch": "_load_all",
    "_load_all": "load",
    "save_batch": "_save_all",
    "_save_all": "save",
}
# How many values and paths come first in the arguments of a method.
_LEADING = {"watch": 1, "load": 1, "load_batch": 1, "_load_all": 1, "_save_all": 3}
_BY_NAME = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@lru_cache(maxsize=256)
def options_of(cls: type, method: str) -> frozenset[str] | None:
    """Return the options that a method of a class takes by name; None if it takes any.

    A class without the method refuses the call, and not its options.
    """
    function = getattr(cls, method, None)
    if function is None:
        return None
    parameters = list(inspect.signature(function).parameters.values())
    optional = parameters[1 + _LEADING.get(method, 2) :]
    known = frozenset(each.name for each in optional if each.kind in _BY_NAME)
    known |= frozenset(getattr(function, _ACCEPTED, ()))
    if all(each.kind is not inspect.Parameter.VAR_KEYWORD for each in optional):
        return known
    if not (method.startswith("_") or hasattr(function, _ACCEPTED)):
        return None
    further = _PASSED_ON.get(method)
    passed_on = frozenset[str]() if further is None else options_of(cls, further)
    return None if passed_on is None else passed_on | known
