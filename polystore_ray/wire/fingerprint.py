"""The fingerprint of a class: the same for the same code, in every process that has it."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from functools import cached_property, partial, partialmethod
from types import CodeType, FunctionType
from typing import Any

__all__ = ["OURS", "code_of", "fingerprint_of"]

OURS = frozenset({"polystore", "polystore_ray"})
"""Packages that are installed on every node."""

# What Python adds to the attributes of a class.
_KEPT = frozenset(
    {
        "__abstractmethods__",
        "__annotations__",
        "__dict__",
        "__doc__",
        "__firstlineno__",
        "__module__",
        "__parameters__",
        "__static_attributes__",
        "__weakref__",
        "_abc_impl",
    }
)
_PLAIN = (str, bytes, int, float, complex, bool, type(None), type(Ellipsis))


def fingerprint_of(cls: type) -> str:
    """Return a text that differs when the code of a class does.

    It covers methods, attributes, what is written in the same top-level package as the class and
    its methods use by name, and base classes from there. A pickle would not do: that of one class
    differs from process to process.
    """
    digest = hashlib.sha256()
    for part in _Walk(cls.__module__.partition(".")[0]).of(cls):
        digest.update(part.encode())
        digest.update(b"\0")
    return digest.hexdigest()


def code_of(cls: type) -> list[Any]:
    """Return the parts by whose identity a change of a class's code is noticed at little cost.

    They are those of the class and its bases, and of the functions, classes and values beside them
    in their modules. If all are the same objects as before, so is the fingerprint; if one is not,
    the fingerprint tells.
    """
    package = cls.__module__.partition(".")[0]
    if package in OURS:
        return []
    bases = [base for base in cls.__mro__ if base.__module__.partition(".")[0] == package]
    modules = dict.fromkeys(base.__module__ for base in bases)
    beside: dict[str, Any] = {}
    for module in modules:
        if module in sys.modules:
            beside |= vars(sys.modules[module])
    classes = [thing for thing in beside.values() if isinstance(thing, type)]
    own = dict.fromkeys([*bases, *(one for one in classes if one.__module__ in modules)])
    inside = [thing for one in own for thing in list(vars(one).values())]
    functions = [f for f in map(_function, (*inside, *beside.values())) if f is not None]
    used = set().union(*(function.__code__.co_names for function in functions))
    parts: list[Any] = [thing for thing in inside if _function(thing) is None]
    parts += [thing for name, thing in beside.items() if name in used and _function(thing) is None]
    for function in functions:
        parts += (function.__code__, function.__defaults__, function.__kwdefaults__)
    return parts


def _function(thing: Any) -> FunctionType | None:
    if isinstance(thing, (staticmethod, classmethod)):
        thing = thing.__func__
    elif isinstance(thing, property):
        thing = thing.fget
    return thing if isinstance(thing, FunctionType) else None


class _Walk:
    """Walk through what belongs to one package, each thing once."""

    def __init__(self, package: str) -> None:
        self._package = package
        self._seen: set[int] = set()

    def of(self, thing: Any) -> Iterator[str]:
        if isinstance(thing, _PLAIN):
            yield repr(thing)
        elif isinstance(thing, CodeType):
            yield from self._of_code(thing)
        elif isinstance(thing, (list, tuple)):
            yield f"{type(thing).__name__} of {len(thing)}"
            for item in thing:
                yield from self.of(item)
        elif isinstance(thing, (set, frozenset)):
            yield from sorted(" ".join(self.of(item)) for item in thing)
        elif isinstance(thing, Mapping):
            yield from sorted(" ".join(self.of(item)) for item in thing.items())
        elif isinstance(thing, (staticmethod, classmethod)):
            yield type(thing).__name__
            yield from self.of(thing.__func__)
        elif isinstance(thing, property):
            for function in (thing.fget, thing.fset, thing.fdel):
                yield from self.of(function)
        elif isinstance(thing, (cached_property, partial, partialmethod)):
            yield type(thing).__name__
            yield from self.of(thing.func)
        elif isinstance(thing, (type, FunctionType)):
            yield from self._of_named(thing)
        else:
            yield f"{type(thing).__module__}.{type(thing).__qualname__}"
            wrapped = inspect.unwrap(thing) if callable(thing) else thing
            if wrapped is not thing:  # by functools.cache, say
                yield from self.of(wrapped)

    def _of_named(self, thing: Any) -> Iterator[str]:
        yield f"{thing.__module__}.{thing.__qualname__}"
        if (thing.__module__ or "").partition(".")[0] != self._package or id(thing) in self._seen:
            return
        self._seen.add(id(thing))
        if isinstance(thing, FunctionType):
            yield from self._of_function(thing)
            return
        for base in thing.__bases__:
            yield from self.of(base)
        for name, value in sorted(vars(thing).items()):
            if name not in _KEPT:
                yield name
                yield from self.of(value)

    def _of_function(self, function: FunctionType) -> Iterator[str]:
        yield from self.of(function.__code__)
        yield from self.of(function.__defaults__)
        yield from self.of(function.__kwdefaults__)
        for name in sorted(_names(function.__code__)):
            if name in function.__globals__:
                yield name
                used = function.__globals__[name]
                if not inspect.ismodule(used):
                    yield from self.of(used)
        for cell in function.__closure__ or ():
            try:
                yield from self.of(cell.cell_contents)
            except ValueError:  # it is empty still
                yield "empty"

    def _of_code(self, code: CodeType) -> Iterator[str]:
        yield code.co_code.hex()
        yield repr((code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars))
        yield repr((code.co_argcount, code.co_kwonlyargcount, code.co_posonlyargcount))
        yield from self.of(code.co_consts)


def _names(code: CodeType) -> set[str]:
    """Return the global names that a function uses, those in its inner functions too."""
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*map(_names, inner))
