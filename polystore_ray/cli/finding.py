"""What an examination finds."""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = ["Finding"]


class Finding(NamedTuple):
    """What was looked at, whether it is well, what was seen, and the cure."""

    what: str
    verdict: Literal["ok", "warning", "failure"]
    seen: str
    cure: str = ""
