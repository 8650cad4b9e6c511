"""A checker of linearizability: whether operations could have happened one after another.

The algorithm is that of Wing and Gong (Journal of Parallel and Distributed Computing, 1993) as
Lowe (Concurrency and Computation, 2017) made it fast: search depth-first for an order that
respects real time and that the model explains, and never try again a set of operations that has
led to a state before.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Model", "Operation", "explain", "is_linearizable"]

State = Hashable
Model = Callable[[Any, "Operation"], "tuple[bool, Any]"]
"""``model(state, operation)``: whether the operation could have had its outcome in this state, and
the state after it."""

UNKNOWN = "unknown"
"""The outcome of an operation whose answer nobody got: it may have happened, at any time since."""


@dataclass(frozen=True, slots=True)
class Operation:
    """Something that a client did.

    Attributes
    ----------
    client : str
        Who did it.
    name : str
        What, such as ``"save"``.
    argument : object
        With what.
    outcome : object
        What came of it; `UNKNOWN` if no answer came.
    start, end : float
        When it was begun and answered, in seconds of one clock; infinity without an answer.
    """

    client: str
    name: str
    argument: Hashable
    outcome: Hashable
    start: float
    end: float


def is_linearizable(operations: Iterable[Operation], model: Model, initial: State) -> bool:
    """Tell whether some order of the operations explains them all.

    Parameters
    ----------
    operations : iterable of Operation
        A history of one object.
    model : callable
        What the object does; see `Model`.
    initial : hashable
        The object's state before.

    Examples
    --------
    >>> def register(state, operation):
    ...     if operation.name == "write":
    ...         return True, operation.argument
    ...     return operation.outcome == state, state
    >>> write = Operation("a", "write", 1, None, 0.0, 2.0)
    >>> is_linearizable([write, Operation("b", "read", None, 1, 1.0, 3.0)], register, 0)
    True
    >>> is_linearizable([write, Operation("b", "read", None, 0, 2.5, 3.0)], register, 0)
    False
    """
    history = sorted(operations, key=lambda operation: operation.start)
    known = sum(operation.outcome != UNKNOWN for operation in history)
    if not known:
        return True
    seen: set[tuple[int, State]] = set()
    # What has been put in order is a set of bits; those that need an answer are counted down.
    stack: list[tuple[int, State, int]] = [(0, initial, known)]
    while stack:
        done, state, left = stack.pop()
        for number, operation in _possible(history, done):
            fits, after = model(state, operation)
            if not fits:
                continue
            is_known = operation.outcome != UNKNOWN
            if left - is_known == 0:
                return True
            key = (done | 1 << number, after)
            if key not in seen:
                seen.add(key)
                stack.append((*key, left - is_known))
    return False


def _possible(history: Sequence[Operation], done: int) -> list[tuple[int, Operation]]:
    """Return what can come next: what began before everything that is left had ended."""
    found: list[tuple[int, Operation]] = []
    first_end = float("inf")
    for number, operation in enumerate(history):
        if done >> number & 1:
            continue
        if operation.start > first_end:
            break
        found.append((number, operation))
        first_end = min(first_end, operation.end)
    return found


def explain(operations: Iterable[Operation], model: Model, initial: State) -> str:
    """Return the shortest beginning of a history that no order explains, as text, or ""."""
    history = sorted(operations, key=lambda operation: operation.end)
    for count in range(1, len(history) + 1):
        if is_linearizable(_cut(history, count), model, initial):
            continue
        lines = [
            f"{o.start:12.6f} to {o.end:12.6f}  {o.client:<10} {o.name}({o.argument!r})"
            f" -> {o.outcome!r}"
            for o in sorted(history[:count], key=lambda o: o.start)
        ]
        return "\n".join(lines)
    return ""


def _cut(history: Sequence[Operation], count: int) -> list[Operation]:
    """Return the operations that had ended first, and those that were going on then."""
    ended = list(history[:count])
    last = ended[-1].end
    going_on = [
        Operation(o.client, o.name, o.argument, UNKNOWN, o.start, float("inf"))
        for o in history[count:]
        if o.start < last
    ]
    return ended + going_on
