"""Many values of which some fail: the results of the others, and a table of the failures."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any, Literal

from polystore.exceptions import StorageError, StorageFullError, VFSTypeError, portable
from polystore.paths import P, display
from polystore.progress import Progress, reporting
from polystore.transfer.proxies import Pairs

__all__ = [
    "Errors",
    "Failure",
    "Results",
    "check_errors",
    "collected",
    "copied_apart",
    "loaded_apart",
    "succeeded",
]

Errors = Literal["raise", "skip", "return"]
"""What happens to an error of one of many: the first raises; it is left out; it is returned."""


class Results(list[Any]):
    """A list of results, with a table of the failures.

    Attributes
    ----------
    failures : list of dict
        For each path that failed: the ``path``, the name of the ``error`` and its ``message``. A
        CSV file can hold the table.
    """

    def __init__(self, results: Iterable[Any] = ()) -> None:
        super().__init__(results)
        self.failures: list[dict[str, str]] = []


class Failure:
    """The error that took the place of a result; it pickles with its traceback as a note."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        sent = portable(self.error)
        if not isinstance(self.error, StorageError):
            from traceback import format_exception  # late: only failures need it

            lines = format_exception(self.error)
            sent.add_note("raised in another process:\n" + "".join(lines).rstrip())
        return Failure, (sent,)


def check_errors(errors: object) -> None:
    """Refuse anything but one of the three words."""
    if errors not in ("raise", "skip", "return"):
        raise VFSTypeError(f"errors must be 'raise', 'skip' or 'return', not {errors!r}")


def collected(
    outcomes: Iterable[Any], paths: Sequence[P], errors: Errors, progress: Progress, what: str
) -> Results:
    """Return what is not a `Failure`, in order; treat failures as `errors` says.

    Raises
    ------
    Exception
        The error of the first failure, with its path in a note, if `errors` is "raise".
    """
    results = Results()
    with reporting(progress, len(paths), what) as step:
        for path, outcome in zip(paths, outcomes, strict=True):
            step()
            if not isinstance(outcome, Failure):
                results.append(outcome)
                continue
            error, shown = outcome.error, display(path)
            if errors == "raise":
                if shown not in str(error):
                    error.add_note(f"the path is {shown!r}")
                raise error
            row = {"path": shown, "error": type(error).__name__, "message": str(error)}
            results.failures.append(row)
            if errors == "return":
                results.append(error)
    return results


def copied_apart(
    copy: Callable[[Pairs], None], pairs: Pairs, written: Collection[str] = ()
) -> Iterator[Any]:
    """Yield the path of each copy, or the `Failure`; a batch that fails is copied in halves.

    - `copy`: copies the values of some pairs; its error names in ``written`` what it has copied
    - `pairs`: the paths of the values, and those of their copies
    - `written`: the copies that exist already

    Raises the error if no further copy can succeed, since the store does not answer or is full.
    """
    left = [pair for pair in pairs if pair[1] not in written]
    try:
        if left:
            copy(left)
    except (ConnectionError, TimeoutError, StorageFullError):
        raise
    except Exception as error:  # noqa: BLE001 - a backend may raise anything for a path
        if len(pairs) == 1:
            yield Failure(error)
            return
        written = {*written, *getattr(error, "written", ())}
        middle = len(pairs) // 2
        yield from copied_apart(copy, pairs[:middle], written)
        yield from copied_apart(copy, pairs[middle:], written)
    else:
        yield from (new for _, new in pairs)


def succeeded(outcomes: Iterable[Any]) -> Iterator[Any]:
    """Yield outcomes in order; raise the error of the first `Failure`."""
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            raise outcome.error
        yield outcome


def loaded_apart(load: Callable[[Sequence[P]], list[Any]], paths: Sequence[P]) -> Iterator[Any]:
    """Yield the value of each path, or the `Failure`; a batch that fails is loaded in halves.

    Raises
    ------
    StorageError
        If the store cannot be reached or does not answer, which is no failure of a path.
    """
    try:
        values = load(paths)
    except (ConnectionError, TimeoutError):
        raise
    except Exception as error:  # noqa: BLE001 - a backend may raise anything for a path
        if len(paths) == 1:
            yield Failure(error)
            return
        middle = len(paths) // 2
        yield from loaded_apart(load, paths[:middle])
        yield from loaded_apart(load, paths[middle:])
    else:
        yield from values
