"""A checker of linearizability: whether operations could have happened one after another.

The algorithm is that of Wing and Gong (Journal of Parallel and Distributed Computing, 1993) as
Lowe (Concurrency and Computation, 2017) made it fast: search depth-first for an order that
respects real time and that the model explains, and never try again a set of operations that has
led to a state before.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
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
    left = sum(operation.outcome != UNKNOWN for operation in history)
    seen: set[tuple[int, State]] = set()
    stack: list[tuple[int, State, int]] = [(0, initial, left)]  # the done ones are a set of bits
    while stack:
        done, state, left = stack.pop()
        changes: list[tuple[float, int, State, bool]] = []
        for number, operation in _possible(history, done):
            fits, after = model(state, operation)
            is_known = operation.outcome != UNKNOWN
            if fits and after != state:
                changes.append((operation.end, number, after, is_known))
            elif fits and is_known:
                # What fits and changes nothing may as well come now: it is in nobody's way.
                done |= 1 << number
                left -= 1
                changes = []
                stack.append((done, state, left))
                break
        if left == 0:
            return True
        # The last is tried first: that which ended first, as it most often came first.
        for _, number, after, is_known in sorted(changes, reverse=True, key=lambda c: c[:2]):
            key = (done | 1 << number, after)
            if key not in seen:
                seen.add(key)
                stack.append((*key, left - is_known))
    return False


def _possible(history: Sequence[Operation], done: int) -> Iterator[tuple[int, Operation]]:
    """Give what can come next: what began before everything that is left had ended."""
    first_end = float("inf")
    first_left = (~done & (done + 1)).bit_length() - 1
    for number in range(first_left, len(history)):
        operation = history[number]
        if done >> number & 1:
            continue
        if operation.start > first_end:
            return
        yield number, operation
        first_end = min(first_end, operation.end)


def explain(operations: Iterable[Operation], model: Model, initial: State) -> str:
    """Return the shortest beginning of a history that no order explains, as text, or ""."""
    history = sorted(operations, key=lambda operation: operation.end)
    if is_linearizable(history, model, initial):
        return ""
    # What explains a history explains each beginning of it.
    count = bisect(
        range(len(history)),
        False,
        key=lambda n: not is_linearizable(_cut(history, n), model, initial),
    )
    return "\n".join(map(_line, sorted(history[:count], key=lambda o: o.start)))


def _line(o: Operation) -> str:
    when = f"{o.start:12.6f} to {o.end:12.6f}"
    return f"{when}  {o.client:<10} {o.name}({o.argument!r}) -> {o.outcome!r}"


def _cut(history: Sequence[Operation], count: int) -> list[Operation]:
    """Return the operations that had ended first, and those that were going on then."""
    ended = list(history[:count])
    last = max((o.end for o in ended), default=float("-inf"))
    going_on = [
        Operation(o.client, o.name, o.argument, UNKNOWN, o.start, float("inf"))
        for o in history[count:]
        if o.start < last
    ]
    return ended + going_on
