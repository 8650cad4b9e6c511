"""Refuse options that a method does not take, with an error that lists those that it takes."""

from __future__ import annotations

from collections.abc import Iterable

from polystore.arguments import did_you_mean
from polystore.capabilities import options_of
from polystore.exceptions import VFSTypeError

__all__ = ["check_options", "listed", "not_taken"]


def check_options(cls: type, method: str, options: Iterable[str]) -> None:
    """Raise `VFSTypeError` if a method of a backend's class does not take all the options."""
    taken = options_of(cls, method)
    if taken is not None and not taken.issuperset(options):
        raise not_taken(cls, method, sorted(set(options) - taken), sorted(taken))


def not_taken(cls: type, method: str, others: list[str], taken: list[str]) -> VFSTypeError:
    """Return the error for options that a method does not take."""
    message = f"{cls.__name__}.{method} takes no {listed(others)}"
    message += did_you_mean(others[0], taken)
    options = f"its options are {', '.join(taken)}" if taken else "it takes no options"
    return VFSTypeError(f"{message}; {options}")


def listed(names: list[str]) -> str:
    """Return the names of options as a call would write them."""
    return ", ".join(f"{name}=" for name in names)
