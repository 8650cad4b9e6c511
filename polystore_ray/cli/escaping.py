"""Escapes: text as a terminal can show it, whatever characters are in it."""

from __future__ import annotations

__all__ = ["shown"]


def shown(text: str, kept: str = "") -> str:
    r"""Return text in which all that a terminal would obey, or could not show, is escaped.

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
