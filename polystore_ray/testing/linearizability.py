"""A linearizability checker: find an order in which the operations could have happened.

The algorithm is that of Wing and Gong (Journal of Parallel and Distributed Computing, 1993) with
the speed-up of Lowe (Concurrency and Computation, 2017): a depth-first search for an order that
respects real time and that the model allows, which never repeats a pair of a set of operations and
the state after it. An operation of unknown outcome may happen at any later time or never, which
would double the work for each. So what failed without such an operation is not tried again with it,
and of several equal ones the first is always tried first.
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
"""``model(state, operation)`` returns whether the operation can have its outcome in this state, and
the next state."""

UNKNOWN = "unknown"
"""The outcome of an operation without an answer: it may happen at any time after its start."""


_STEPS = 500_000  # about half a minute


class UndecidedError(RuntimeError):
    """Signal that a history has too many possible orders to try them all."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a client.

    Attributes
    ----------
    client : str
        The name of the client.
    name : str
        The name of the operation, such as ``"save"``.
    argument : object
        The argument of the operation.
    outcome : object
        The result; `UNKNOWN` if there was no answer.
    start, end : float
        The times of the call and of the answer, in seconds of one clock; `end` is infinity
        without an answer.
    looks : bool, default False
        Whether an operation with this outcome never changes the state. It makes the check faster
        and does not change its result.
    """

    client: str
    name: str
    argument: Hashable
    outcome: Hashable
    start: float
    end: float
    looks: bool = False


def is_linearizable(operations: Iterable[Operation], model: Model, initial: State) -> bool:
    """Return whether an order of the operations exists that explains all outcomes.

    Parameters
    ----------
    operations : iterable of Operation
        The history of one object.
    model : callable
        The behaviour of the object; see `Model`.
    initial : hashable
        The state of the object before the history.

    Raises
    ------
    UndecidedError
        If half a million steps neither found an order nor tried all of them.

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
    stack: list[tuple[int, State]] = [(0, initial)]  # bit n: operation n is done
    for _ in range(_STEPS):
        if not stack:
            return False
        done, state = stack.pop()
        if done & wanted == wanted:
            return True
        # Pushed in reverse, so that the operation that ended first is tried first: it often is.
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
    """Return the operations that can be next, sorted by their end, each with the state after it."""
    found: list[tuple[float, int, State]] = []
    doubtful: set[tuple[str, Hashable]] = set()
    for number, operation in _possible(history, done):
        does = operation.name, operation.argument
        is_known = operation.outcome != UNKNOWN
        if not is_known and does in doubtful:
            continue
        fits, after = model(state, operation)
        if fits and operation.looks and is_known:
            # It changes nothing, so it can be next in every order that explains the rest.
            return [(operation.end, number, after)]
        if not is_known:
            doubtful.add(does)
        if fits and (is_known or after != state):
            found.append((operation.end, number, after))
    return sorted(found, key=lambda change: change[:2])


def _possible(history: Sequence[Operation], done: int) -> Iterator[tuple[int, Operation]]:
    """Yield the operations that can be next: they started before any remaining one ended."""
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
    """Return, as text, the shortest prefix of a history that no order explains; "" if none.

    Raises
    ------
    UndecidedError
        Same as for `is_linearizable`.
    """
    history = sorted(operations, key=lambda operation: operation.end)
    if is_linearizable(history, model, initial):
        return ""

    def is_wrong(count: int) -> bool:
        try:
            return not is_linearizable(_cut(history, count), model, initial)
        except UndecidedError:
            return False

    # An order that explains a history explains each of its prefixes.
    count = bisect(range(len(history)), False, key=is_wrong)
    return "\n".join(map(_line, sorted(history[:count], key=lambda o: o.start)))


def _line(o: Operation) -> str:
    when = f"{o.start:12.6f} to {o.end:12.6f}"
    return f"{when}  {o.client:<10} {o.name}({o.argument!r}) -> {o.outcome!r}"


def _cut(history: Sequence[Operation], count: int) -> list[Operation]:
    """Return the operations that ended first, and the ones that were running at that time."""
    ended = list(history[:count])
    last = max((o.end for o in ended), default=float("-inf"))
    going_on = [
        Operation(o.client, o.name, o.argument, UNKNOWN, o.start, float("inf"))
        for o in history[count:]
        if o.start < last
    ]
    return ended + going_on
