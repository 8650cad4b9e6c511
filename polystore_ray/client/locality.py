"""Methods of the cluster memory that work where its bytes are: references, tasks and copies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from polystore.exceptions import VFSTypeError
from polystore.paths import P, as_text
from polystore.progress import Progress
from polystore.registration import backend_key
from polystore.serialization import seal
from polystore.transfer.many import Errors, Results, check_errors, collected
from polystore.transfer.mapping import Call, Pair
from polystore.transfer.proxies import portable
from polystore_ray.client.batch import opened
from polystore_ray.client.lookup import Memory, look_up, nodes_if_known, nodes_of, texts_of
from polystore_ray.client.refills import refilling
from polystore_ray.status import LostValue
from polystore_ray.transport.base import Transport
from polystore_ray.wire.messages import WHOLE, Found, Stored

__all__ = [
    "locations",
    "lost",
    "map_values",
    "persist",
    "ref",
    "refs",
    "run_tasks",
    "save_ref",
    "why",
]


def ref(self: Memory, path: P) -> Any:
    """Return an object reference to the value at `path`; see `refs`."""
    return refs(self, [path])[0]


def refs(self: Memory, paths: Sequence[P]) -> list[Any]:
    """Return object references to values, for `ray.get`, task arguments and ``ray.data``.

    They stay valid while the store holds the values or any process holds the references, also
    after the processes that saved the values have ended. Nothing is transferred; a value that is
    still owned by the process that saved it is copied once within its node. A small value is put
    into a new object.

    Raises
    ------
    PathNotFoundError
        If nothing is there.
    UnsupportedOperationError
        In local mode, which has no references.
    """
    transport = self._connect()
    texts = texts_of(paths)

    def attempt() -> list[Any]:
        return look_up(transport, texts, lambda found: _references(transport, found, texts))

    with transport.measured("memory", "refs"):
        return refilling(self, transport, texts, attempt)


def save_ref(
    self: Memory, reference: Any, path: P, *, overwrite: bool = False, parents: bool = False
) -> None:
    """Store the value of an object reference, as a task returned it.

    Its bytes do not pass through the caller: they are copied once, in the object store of the
    node that has them. Waits for the task that makes the value.

    Parameters
    ----------
    reference : ray.ObjectRef
        The value. One that contains references itself is refused.
    path, overwrite, parents
        As for `save`.

    Raises
    ------
    CallTimeoutError
        If the value is not there by the store's deadline.
    StorageError
        As `save`.
    UnsupportedOperationError
        In local mode, which has no references.
    """
    text = as_text(path, backend="memory")

    def save(value: Any) -> None:
        self.save(value, text, overwrite=overwrite, parents=parents)

    transport = self._connect()
    with transport.measured("memory", "save_ref"):
        transport.save_ref(reference, save, text)


def locations(self: Memory, paths: Sequence[P]) -> list[tuple[str, ...]]:
    """Return, for each path, the ids of the nodes that hold its bytes.

    No node holds a small value, which travels inside calls, nor one that is lost or evicted. Copies
    that Ray made for readers on other nodes are not counted, since Ray drops them when it needs the
    room.
    """
    texts = texts_of(paths)
    transport = self._connect()
    with transport.measured("memory", "locations"):
        return nodes_of(transport, texts)


def run_tasks(
    self: Memory, call: Callable[[Pair], Any], pairs: Sequence[Pair], options: Mapping[str, Any]
) -> Iterator[Any]:
    """Yield ``call(pair)`` for each pair of paths, in order, from tasks where the bytes are."""
    texts = [path for path, _ in pairs]
    near = nodes_if_known(partial(locations, self), texts)
    tasks = ((nodes, call, (pair,)) for nodes, pair in zip(near, pairs, strict=True))
    return self._connect().attempts(tasks, dict(options))


def map_values(
    self: Memory,
    function: Callable[[Any], Any],
    paths: Sequence[P],
    *,
    progress: Progress = None,
    errors: Errors = "raise",
    **options: Any,
) -> Results:
    """Return ``function(value)`` for the values at `paths`, in tasks where the bytes are.

    As many tasks run at a time as keep the cluster busy. If a node is gone, or lacks what a task
    needs, Ray chooses another.

    Parameters
    ----------
    function : callable
        Called with the value of one path, in a Ray task; in local mode, here.
    paths : sequence of str or os.PathLike
        Files.
    progress : callable or bool, optional
        Called with the number of values done so far and the number of all; `True` shows a bar.
    errors : {"raise", "skip", "return"}, default "raise"
        Same as for `FileManager.map`, which also takes a directory, and saves results.
    **options
        For the tasks, same as for `ray.remote`, such as ``num_cpus=2``.

    Raises
    ------
    Exception
        What the function raises, with a note that names the path.

    Examples
    --------
    >>> from polystore_ray import RayBackendRegistry
    >>> memory = RayBackendRegistry("mapped", local=True)["memory"]
    >>> memory.save_batch([[1, 2], [3]], ["/a", "/b"])
    >>> memory.map(sum, ["/a", "/b"])
    [3, 3]
    """
    if not callable(function):
        raise VFSTypeError(f"map calls a function, not a {type(function).__name__}")
    check_errors(errors)
    texts = texts_of(paths)
    call = Call(self, function, None, {})  # type: ignore[arg-type] # the protocol says less
    found = run_tasks(self, call, [(text, None) for text in texts], options)
    return collected(found, texts, errors, progress, "map")


def persist(self: Memory, path: P, backend: object, destination: P, **options: Any) -> None:
    """Save a value in another backend too, from the node where its bytes are.

    The copy is remembered as the value's fallback: if the memory loses the value, the next load
    restores it from there.

    Parameters
    ----------
    path : str or os.PathLike
        A file of the memory.
    backend : str or enum.Enum
        The other backend's key, such as ``"zarr"``.
    destination : str or os.PathLike
        Where in that backend; the path must mean the same on every node.
    **options
        For the other backend's ``save``, such as ``overwrite=True``.

    Raises
    ------
    StorageError
        As `load`, and as the other backend's ``save``.
    """
    text, key = as_text(path, backend="memory"), backend_key(backend)
    target = portable(self._registry[key], destination)

    def copy() -> None:
        version = _asked(self, "stat", text)["version"]
        self._registry[key].save(self.load(text), target, **options)
        transport = self._connect()
        with transport.measured("memory", "set_fallback"):
            transport.change("set_fallback", text, version, (key, target), path=text)

    [nodes] = locations(self, [text])
    list(self._connect().run([(nodes, copy, ())], {"num_cpus": 0}))


def why(self: Memory, path: P) -> dict[str, Any]:
    """Describe where a value is, how it was lost, and where else it may be.

    Returns
    -------
    dict
        What `stat` tells, and ``fallback`` (a backend and a path, or None), ``recipe`` (whether it
        has one), ``nodes`` (the ids of those that hold the value; none holds a small or an evicted
        one), ``wanted`` (how many should; None for as many as the store has by default) and
        ``lost`` (how the value was lost, or "").

    Raises
    ------
    PathNotFoundError
        If nothing is there.
    """
    facts: dict[str, Any] = _asked(self, "why", as_text(path, backend="memory"))
    return facts


def lost(self: Memory, path: P = "/") -> list[LostValue]:
    """Return the values at and below `path` whose bytes are lost, by path.

    A value is lost if the only node that held it is lost. To prevent it, use ``replicas=2`` or
    `persist`.

    Raises
    ------
    PathNotFoundError
        If nothing is at `path`.

    Examples
    --------
    >>> from polystore_ray import RayBackendRegistry
    >>> RayBackendRegistry("complete", local=True)["memory"].lost()
    []
    """
    losses = _asked(self, "losses", as_text(path, backend="memory"))
    return [
        LostValue(where, str(loss), loss.node, loss.host, loss.moment, loss.cause, fallback)
        for where, loss, fallback in sorted(losses)
    ]


def _asked(memory: Memory, question: str, path: str) -> Any:
    """Return the answer of the store's controller to a question about a path."""
    transport = memory._connect()  # noqa: SLF001 - as a method of it
    with transport.measured("memory", question):
        return transport.ask(question, path, path=path)


def _references(transport: Transport, found: Found, paths: list[str]) -> list[Any]:
    large = {stored[0] for stored in found.stored if _is_whole(stored)}
    owned = {which: transport.owned(found.pins[int(which)]).ref for which in sorted(large)}
    packs = [i for i in range(len(found.pins)) if i not in owned]
    objects: list[Any] = [None] * len(found.pins)
    for which, pack in zip(packs, transport.get([found.pins[i] for i in packs]), strict=True):
        objects[which] = pack
    values = opened(found, paths, objects, lambda _: None)
    return [
        owned[stored[0]] if _is_whole(stored) else transport.reference(seal(value))
        for stored, value in zip(found.stored, values, strict=True)
    ]


def _is_whole(stored: Stored) -> bool:
    return isinstance(stored, tuple) and stored[1] == WHOLE
