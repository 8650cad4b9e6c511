"""Modules and classes stay small enough to be read at once."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

import polystore
import polystore_ray
from tests.architecture.drawing import ROOT

MOST_LINES = 400
MOST_CLASSES = 5
NEEDS_TORCH = "polystore.formats.torch"  # it is not always installed, and this defines no class


def test_no_module_has_more_than_400_lines() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for package in ("polystore", "polystore_ray")
        for path in (ROOT / package).rglob("*.py")
    }
    assert {path: n for path, n in lengths.items() if n > MOST_LINES} == {}


def modules(package: ModuleType) -> Iterator[ModuleType]:
    yield package
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not found.name.endswith("__main__") and found.name != NEEDS_TORCH:
            yield importlib.import_module(found.name)


def ours(cls: type) -> list[type]:
    """Return the classes of these packages that a class consists of."""
    return [
        base for base in cls.__mro__ if base.__module__.startswith(("polystore.", "polystore_ray."))
    ]


def test_no_class_consists_of_more_than_five_of_ours() -> None:
    classes = {
        value
        for package in (polystore, polystore_ray)
        for module in modules(package)
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == module.__name__
        if not issubclass(value, BaseException)  # an error is all that its callers may expect
    }
    assert len(classes) > 100
    assert {cls: found for cls in classes if len(found := ours(cls)) > MOST_CLASSES} == {}
