"""Refills: values that were lost or evicted come back, from a fallback or by their recipe.

A refill brings the same value back, with its version and its settings: unlike a save it is no
event.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from polystore.exceptions import StorageError, VFSTypeError
from polystore.paths import as_text
from polystore.registration import backend_key
from polystore.transfer.proxies import portable
from polystore_ray.client.lookup import Memory
from polystore_ray.client.recipes import make, save_again
from polystore_ray.errors import CallTimeoutError, DataLostError, RecipeError
from polystore_ray.transport.base import Transport
from polystore_ray.wire.messages import Lacking

__all__ = ["load_refilled", "portable_fallback", "refilling"]

logger = logging.getLogger(__name__)

_ATTEMPTS = 2  # to bring back all of a batch at once

T = TypeVar("T")


def portable_fallback(memory: Memory, fallback: Any) -> tuple[str, str] | None:
    """Return a fallback, a backend and a path in it, as every process means it."""
    if fallback is None:
        return None
    if not isinstance(fallback, tuple | list) or len(fallback) != 2:
        raise VFSTypeError(
            f"fallback must be a tuple (backend, path), not {fallback!r}", backend="memory"
        )
    key, source = backend_key(fallback[0]), as_text(fallback[1])
    return key, portable(memory._registry[key], source)  # noqa: SLF001 - as a method of it


def refilling(
    memory: Memory, transport: Transport, paths: Sequence[str], attempt: Callable[[], T]
) -> T:
    """Return the result of an attempt to use values, once what they lack has come back."""
    prepare = partial(_refill, memory, transport, paths)
    return transport.deadline.retry(attempt, DataLostError, prepare, pause=0)


Loaded = tuple[list[Any], list[int]]
"""Values, and their versions."""


def load_refilled(
    memory: Memory, transport: Transport, paths: list[str], load: Callable[[list[str]], Loaded]
) -> Loaded:
    """Return what `load` returns for paths, once what these lack has come back.

    If the store has no room for all that is to come back, it does so, and is loaded, in parts; the
    values are of one moment all the same.
    """
    for attempt in itertools.count():
        try:
            return load(paths)
        except DataLostError as error:
            transport.deadline.pause_or_raise(error, 0)
            lacking = _lacking(transport, paths, error)
            most = transport.options.max_bytes or math.inf
            is_much = sum(each.nbytes for each in lacking) > most / 2
            if len(paths) > 1 and (is_much or attempt == _ATTEMPTS):
                break
            _bring_back(memory, transport, lacking)
    half = len(paths) // 2
    while True:
        values, versions = load_refilled(memory, transport, paths[:half], load)
        others, their_versions = load_refilled(memory, transport, paths[half:], load)
        values, versions = values + others, versions + their_versions
        if transport.ask("versions", paths, path=paths[0]) == versions:
            return values, versions
        transport.deadline.pause_or_raise(_overwritten(paths[0]), 0)


def _overwritten(path: str) -> CallTimeoutError:
    return CallTimeoutError(
        "the values were evicted, and others were saved at their paths all the time while they "
        "came back, so that they are not of one moment; load fewer at once",
        path=path,
        backend="memory",
    )


def _refill(
    memory: Memory, transport: Transport, paths: Sequence[str], error: DataLostError
) -> None:
    _bring_back(memory, transport, _lacking(transport, paths, error))


def _lacking(transport: Transport, paths: Sequence[str], error: DataLostError) -> list[Lacking]:
    """Return which values are lost or evicted, after those that their recipes need."""
    lacking: list[Lacking] = transport.ask("lacking", list(paths), path=error.path)
    if not lacking and not error.version:
        raise error  # it is not lost, but cannot be read now
    return lacking


def _bring_back(memory: Memory, transport: Transport, lacking: list[Lacking]) -> None:
    """Have values come back, some at a time: first what is needed by those that come first."""
    while lacking:
        some = _first_ready(lacking, (transport.options.max_bytes or math.inf) / 4)
        try:
            for each in some:
                if each.inputs is None:
                    _restore(memory, transport, each)
            make(memory, transport, [each for each in some if each.inputs is not None])
        except DataLostError as failed:
            raise _with_chain(failed, lacking) from None
        paths = {each.path for each in some}
        lacking = [each for each in lacking if each.path not in paths]


def _first_ready(lacking: Sequence[Lacking], most: float) -> list[Lacking]:
    """Return the first that need no other, of so many bytes together, but one at least.

    In a small store, one made earlier would be evicted before another needs it.
    """
    missing = {each.path for each in lacking}
    ready: list[Lacking] = []
    for each in lacking:
        if missing.isdisjoint(each.inputs or ()):
            most -= each.nbytes
            if ready and most < 0:
                break
            ready.append(each)
    return ready


def _restore(memory: Memory, transport: Transport, lost: Lacking) -> None:
    """Load a value from its fallback, and save it again, or have it made where that fails."""
    if lost.fallback is None:
        transport.ask("read", [lost.path], path=lost.path)  # raises the error, if it still lacks
        return
    key, source = lost.fallback
    try:
        value = memory._registry[key].load(source)  # noqa: SLF001 - as a method of it
    except StorageError as error:
        needed: list[Lacking] = transport.ask("lacking", [lost.path], True, path=lost.path)
        if not needed or needed[-1].inputs is None:
            error.add_note(f"the fallback was to bring {lost.path!r} back, which the memory lacks")
            raise
        logger.warning("%r is made by its recipe, since its fallback fails: %s", lost.path, error)
        _bring_back(memory, transport, needed)
        return
    logger.warning(
        "the memory lacks the value %r; it is restored from %r in %s", lost.path, source, key
    )
    save_again(transport, value, lost)


def _with_chain(failed: DataLostError, lacking: Sequence[Lacking]) -> DataLostError:
    """Return an error that says what was to be made of what could not be."""
    needed_by = {needed: each.path for each in lacking for needed in each.inputs or ()}
    path = failed.path or ""
    chain = [*(failed.chain if isinstance(failed, RecipeError) else [path])]
    while chain[-1] in needed_by and needed_by[chain[-1]] not in chain:
        chain.append(needed_by[chain[-1]])
    if len(chain) == 1 or chain == [*getattr(failed, "chain", ())]:
        return failed
    way = " <- ".join(map(repr, chain))
    error = RecipeError(f"{failed.message} ({way})", path=path, backend="memory")
    error.chain = tuple(chain)
    for note in getattr(failed, "__notes__", ()):
        error.add_note(note)
    return error
