"""The shape of the sources."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import polystore

# A suite of the kit is made of the parts that a backend has; torch may be missing.
APART = ("polystore.testing", "polystore.formats.torch")


def test_no_class_derives_from_more_than_four_others_of_ours() -> None:
    deep = {}
    for module in pkgutil.walk_packages(polystore.__path__, "polystore."):
        if module.name.startswith(APART):
            continue
        for name, cls in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            ours = [each for each in cls.__mro__ if each.__module__.startswith("polystore")]
            if cls.__module__ == module.name and len(ours) > 5:
                deep[f"{module.name}.{name}"] = [each.__name__ for each in ours]
    assert deep == {}
