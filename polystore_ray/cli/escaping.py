"""Escape control characters, so that text is safe to print to a terminal."""

from __future__ import annotations

__all__ = ["shown"]


def shown(text: str, kept: str = "") -> str:
    r"""Return text with control and unprintable characters escaped, except those in `kept`.

    Examples
    --------
    >>> shown("a\x1b[31m\n")
    'a\\x1b[31m\\n'
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text
    )
