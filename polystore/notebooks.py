"""HTML for notebooks: small, without scripts, and with every text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["entries", "table", "text"]


def text(value: object) -> str:
    """Return a text as HTML; it cannot turn the direction of what is next to it."""
    return f"<bdi>{escape(str(value))}</bdi>"


def table(rows: Iterable[Sequence[object]], names: Sequence[str] = (), caption: object = "") -> str:
    """Return rows of texts as a table.

    Examples
    --------
    >>> table([("a", "<b>")])
    '<table><tr><td><bdi>a</bdi></td><td><bdi>&lt;b&gt;</bdi></td></tr></table>'
    """
    above = f"<caption>{text(caption)}</caption>" if caption else ""
    head = f"<tr>{''.join(f'<th>{text(name)}</th>' for name in names)}</tr>" if names else ""
    lines = (f"<tr>{''.join(f'<td>{text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table>{above}{head}{''.join(lines)}</table>"


def entries(items: Iterable[str]) -> str:
    """Return pieces of HTML as a list."""
    return f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"
