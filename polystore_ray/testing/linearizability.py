"""A checker of linearizability: whether operations could have happened one after another.

The algorithm is that of Wing and Gong (Journal of Parallel and Distributed Computing, 1993) as
Lowe (Concurrency and Computation, 2017) made it fast: search depth-first for an order that
respects real time and that the model explains, and never try again a set of operations that has
led to a state before. An operation of unknown outcome can come at any time or never, which would
double the work for each; so what was tried without one is not tried again with it, and of those
that do the same the first comes first.
"""

from __future__ import annotations

from bisect import bisect
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Model", "Operation", "UndecidedError", "explain", "is_linearizable"]

State = Hashable
Model = Callable[[Any, "Operation"], "tuple[bool, Any]"]
"""``model(state, operation)``: whether the operation could have had its outcome in this state, and
the state after it."""

UNKNOWN = "unknown"
"""The outcome of an operation whose answer nobody got: it may have happened, at any time since."""


_STEPS = 500_000  # about half a minute


class UndecidedError(RuntimeError):
    """Signal that a history has too many possible orders to try them all."""


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
    looks : bool, default False
        Whether it changes nothing, given its outcome, whenever it comes. To say so makes the check
        faster, and not another.
    """

    client: str
    name: str
    argument: Hashable
    outcome: Hashable
    start: float
    end: float
    looks: bool = False


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

    Raises
    ------
    UndecidedError
        If no order was found in half a million steps, and not all were tried.

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
    unknown = sum(1 << n for n, operation in enumerate(history) if operation.outcome == UNKNOWN)
    wanted = (1 << len(history)) - 1 & ~unknown
    seen: dict[tuple[int, State], list[int]] = defaultdict(list)
    stack: list[tuple[int, State]] = [(0, initial)]  # the done ones are a set of bits
    for _ in range(_STEPS):
        if not stack:
            return False
        done, state = stack.pop()
        if done & wanted == wanted:
            return True
        # The last is tried first: that which ended first, as it most often came first.
        for _, number, after in reversed(_next(history, done, state, model)):
            now = done | 1 << number
            used = seen[now & wanted, after]
            if any(before & now == before for before in used):
                continue
            used.append(now & unknown)
            stack.append((now, after))
    raise UndecidedError(f"no order of {len(history)} operations was found in {_STEPS} steps")


def _next(
    history: Sequence[Operation], done: int, state: State, model: Model
) -> list[tuple[float, int, State]]:
    """Return what can come next, by its end, with the state after it."""
    found: list[tuple[float, int, State]] = []
    doubtful: set[tuple[str, Hashable]] = set()
    for number, operation in _possible(history, done):
        does = operation.name, operation.argument
        is_known = operation.outcome != UNKNOWN
        if not is_known and does in doubtful:
            continue
        fits, after = model(state, operation)
        if fits and operation.looks and is_known:
            # It is in nobody's way.
            return [(operation.end, number, after)]
        if not is_known:
            doubtful.add(does)
        if fits and (is_known or after != state):
            found.append((operation.end, number, after))
    return sorted(found, key=lambda change: change[:2])


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
    """Return the shortest beginning of a history that no order explains, as text, or "".

    Raises
    ------
    UndecidedError
        As `is_linearizable`.
    """
    history = sorted(operations, key=lambda operation: operation.end)
    if is_linearizable(history, model, initial):
        return ""

    def is_wrong(count: int) -> bool:
        try:
            return not is_linearizable(_cut(history, count), model, initial)
        except UndecidedError:
            return False

    # What explains a history explains each beginning of it.
    count = bisect(range(len(history)), False, key=is_wrong)
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
