"""Recipes: how the cluster memory makes values again that were lost or evicted.

A recipe runs in a task, near its inputs. Whoever needs the value first gets the turn to make it and
keeps it while the function runs; the others wait for the value.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as settle
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import Any

from polystore.exceptions import StorageError, VFSTypeError
from polystore.paths import P, as_text, normalize
from polystore.transfer.many import Failure
from polystore_ray.client.batch import Sealing, publish
from polystore_ray.client.lookup import Memory, nodes_if_known, nodes_of
from polystore_ray.errors import CallTimeoutError, RecipeError
from polystore_ray.transport.base import Transport
from polystore_ray.wire.functions import call_from_bytes, call_to_bytes
from polystore_ray.wire.messages import Items, Lacking, Recipe, new_operation_id

__all__ = ["Input", "UserRecipe", "make", "recipes_of", "save_again"]

_TURN = 10.0  # seconds after which another may make the value, if the process is gone
_LONGEST = 2**20  # bytes of a function and its arguments, which the controller keeps
_PAUSE = 0.02  # seconds, where somebody else makes the value
_LONGEST_PAUSE = 0.5

UserRecipe = tuple[Callable[..., Any], Sequence[Any]]
"""A function and its arguments."""

_being_made: ContextVar[tuple[str, ...]] = ContextVar("_being_made", default=())
"""What this task makes, after what it is made for."""


class Input:
    """A part of a recipe's arguments: the value at a path of the same memory, when it runs.

    It may be an argument, or in a list, a dict or any other object among the arguments.

    Parameters
    ----------
    path : str or os.PathLike
        A file. If its value is lost or evicted too, its own recipe runs first.

    Examples
    --------
    >>> from polystore_ray import Input, RayBackendRegistry
    >>> memory = RayBackendRegistry("made", local=True)["memory"]
    >>> memory.save([3, 1, 2], "/raw")
    >>> recipe = sorted, (Input("/raw"),)
    >>> memory.save(sorted([3, 1, 2]), "/sorted", evictable=True, recipe=recipe)
    """

    __slots__ = ("path",)

    def __init__(self, path: P) -> None:
        self.path = normalize(as_text(path, backend="memory"), backend="memory")

    def __repr__(self) -> str:
        return f"Input({self.path!r})"


def recipes_of(recipes: Sequence[Any], paths: Sequence[str]) -> Sequence[Recipe | None]:
    """Return the recipes of a user as they are stored, one for each path.

    Raises `VFSTypeError` if one is no function with its arguments, or they do not pickle, or are
    large.
    """
    if all(recipe is None for recipe in recipes):
        return ()
    if len(recipes) != len(paths):
        raise VFSTypeError(
            f"there are {len(recipes)} recipes for {len(paths)} paths; give one for each, or None",
            backend="memory",
        )
    return [None if recipe is None else _recipe(recipe) for recipe in recipes]


def _recipe(recipe: Any) -> Recipe:
    is_pair = isinstance(recipe, tuple | list) and len(recipe) == 2
    if not is_pair or not callable(recipe[0]) or not isinstance(recipe[1], tuple | list):
        raise VFSTypeError(
            f"recipe must be a tuple (function, arguments), with a tuple of arguments, not "
            f"{recipe!r}",
            backend="memory",
        )
    function, arguments = recipe
    inputs: dict[str, None] = {}

    def name_of(part: Any) -> str | None:
        if type(part) is not Input:
            return None
        inputs[part.path] = None
        return part.path

    code = call_to_bytes(function, tuple(arguments), name_of)
    if len(code) > _LONGEST:
        raise VFSTypeError(
            f"the function of a recipe and its arguments take {len(code)} bytes, more than "
            f"{_LONGEST}; save large arguments, and name their paths as Input(path)",
            backend="memory",
        )
    return Recipe(code, tuple(inputs))


def save_again(transport: Transport, value: Any, lacking: Lacking) -> None:
    """Give a value that is lost or evicted its bytes, unless it has them by now.

    It keeps its version and its settings, and is held by as many nodes as before.
    """
    items = Items([lacking.path], [], [], versions=[lacking.version], refills=True)
    publish(transport, Sealing([value], [lacking.path]), items, lacking.replicas)


def make(memory: Memory, transport: Transport, lacking: Sequence[Lacking]) -> None:
    """Have values made by their recipes, whose inputs are there, by others or in tasks.

    Raises `RecipeError` if a recipe fails; `CallTimeoutError` at the deadline, while the tasks go
    on.
    """
    by, pause = new_operation_id(), _PAUSE
    for each in lacking:
        if each.path in _being_made.get():
            chain = _being_made.get()
            raise RecipeError.of_cycle((*chain[chain.index(each.path) :], each.path))
    while lacking:
        wanted = [each[:2] for each in lacking]
        recipes = transport.change("begin_making", wanted, by, _TURN, path=wanted[0][0])
        pairs = zip(lacking, recipes, strict=True)
        mine = [(each, recipe) for each, recipe in pairs if recipe is not None]
        if mine:
            _make_in_tasks(memory, transport, mine, by)
        else:
            late = CallTimeoutError(
                "another process makes the value from its recipe, and takes longer than this "
                "call may wait; load it again, or give the registry a longer timeout",
                path=wanted[0][0],
                backend="memory",
            )
            transport.deadline.pause_or_raise(late, pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        left = transport.ask("lacking", [path for path, _ in wanted], path=wanted[0][0])
        # What was made here may have been evicted since; it is not made a second time for that.
        missing = {each[:2] for each in left} - {each[:2] for each, _ in mine}
        lacking = [each for each in lacking if each[:2] in missing]


def _make_in_tasks(
    memory: Memory, transport: Transport, mine: Sequence[tuple[Lacking, Recipe]], by: str
) -> None:
    """Make values whose turn is ours; the tasks go on where this returns at the deadline."""
    near = _near(transport, [recipe for _, recipe in mine])
    tasks = [
        (nodes, _make, (memory, each, recipe, _being_made.get()))
        for nodes, (each, recipe) in zip(near, mine, strict=True)
    ]
    done: Future[None] = Future()

    def run() -> None:
        errors: list[BaseException] = []
        try:
            with _keeping_turns(memory, [each.version for each, _ in mine], by):
                # They take no CPU, since whoever waits for them may hold the last one.
                outcomes = transport.attempts(tasks, {"num_cpus": 0})
                for (each, _), outcome in zip(mine, outcomes, strict=True):
                    if isinstance(outcome, Failure):
                        errors.append(outcome.error)
                        memory._connect().change("end_making", [each.version], by)  # noqa: SLF001
        except BaseException as error:  # noqa: BLE001 - whatever it is, the caller gets it
            errors.append(error)
        if errors:
            done.set_exception(errors[0])
        else:
            done.set_result(None)

    threading.Thread(target=run, name="polystore-recipes", daemon=True).start()
    settle([done], transport.deadline.left)
    if not done.done():
        path = mine[0][0].path
        raise CallTimeoutError(
            "the recipe takes longer than this call may wait, and goes on; load the value again, "
            "or give the registry a longer timeout",
            path=path,
            backend="memory",
        )
    done.result()


def _near(transport: Transport, recipes: Sequence[Recipe]) -> list[tuple[str, ...]]:
    """Return, for each recipe, the nodes that hold its first large input; one call asks for all."""
    paths = [*dict.fromkeys(path for recipe in recipes for path in recipe.inputs)]
    found = nodes_if_known(partial(nodes_of, transport), paths) if paths else []
    nodes = dict(zip(paths, found, strict=True))
    return [next(filter(None, map(nodes.get, recipe.inputs)), ()) for recipe in recipes]


def _make(memory: Memory, lacking: Lacking, recipe: Recipe, needed_for: tuple[str, ...]) -> None:
    """Make one value, in a task."""
    token = _being_made.set((*needed_for, lacking.path))
    try:
        value = _made(memory, lacking.path, recipe)
        save_again(memory._connect(), value, lacking)  # noqa: SLF001 - as a method of it
    except VFSTypeError as error:
        raise _failed(error, lacking.path) from None
    finally:
        _being_made.reset(token)


def _made(memory: Memory, path: str, recipe: Recipe) -> Any:
    try:
        values = {needed: memory.load(needed) for needed in recipe.inputs}
        function, arguments = call_from_bytes(recipe.code, values)
        return function(*arguments)
    except (Exception, SystemExit) as error:
        if isinstance(error, ConnectionError | TimeoutError) and isinstance(error, StorageError):
            raise
        raise _failed(error, path) from None


def _failed(error: BaseException, path: str) -> RecipeError:
    """Return the error of a recipe that has failed with another."""
    told = traceback.TracebackException.from_exception(error)  # whose text may fail too
    failed = RecipeError(
        f"the value was lost or evicted, and its recipe failed: {type(error).__name__}: {told}. "
        f"Save the value again",
        path=path,
        backend="memory",
    )
    before = error.chain if isinstance(error, RecipeError) else ()
    failed.chain = (*before, path)
    failed.add_note("raised by the recipe:\n" + "".join(told.format()))
    return failed


@contextmanager
def _keeping_turns(memory: Memory, versions: Sequence[int], by: str) -> Iterator[None]:
    """Keep the turn to make values, for those that have not begun too."""
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(_TURN / 3):
            with suppress(StorageError):  # until the store can be reached again
                memory._connect().change("renew_making", versions, by, _TURN)  # noqa: SLF001

    threading.Thread(target=renew, name="polystore-turn", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
