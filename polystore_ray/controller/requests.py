"""The requests to a controller: which there are, what each does, and which of them change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from polystore.exceptions import StorageError
from polystore.path_tree import PathTree
from polystore_ray.controller import queries
from polystore_ray.controller.claims import Claims
from polystore_ray.controller.copies import Copies
from polystore_ray.controller.events import events_of
from polystore_ray.controller.inventory import losses, pins, records
from polystore_ray.controller.ledger import Ledger
from polystore_ray.controller.makers import Makers
from polystore_ray.controller.replicated import ReplicatedState
from polystore_ray.wire.messages import Request
from polystore_ray.wire.sessions import Refusal
from polystore_ray.wire.versions import ClassVersions

__all__ = ["CHANGES", "QUERIES", "TIMED", "answer", "apply"]


def answer(state: ReplicatedState, request: Request) -> Any:
    """Return the answer to a query; a `StorageError` is returned too, to be raised later."""
    try:
        return QUERIES[request.operation](state, *request.arguments)
    except StorageError as error:
        return error


def apply(state: ReplicatedState, request: Request, now: float) -> Any:
    """Make a change at a moment, in seconds since the epoch; return its answer or `Refusal`."""
    state.now = now
    state.released = []
    made: Any
    happened = events_of(state.tree, request)
    try:
        made = CHANGES[request.operation](state, *request.arguments)
    except StorageError as error:
        made = Refusal.of(error)
    else:
        state.events.note(happened)
    if request.id is not None:
        state.answers.keep(request.id, made, now)
    return made


Operation = Callable[..., Any]
"""What carries out a request: it is called with the state, then with the request's arguments."""


def _of(part: str, method: Operation) -> Operation:
    """Return the operation that is a method of a part of the state."""

    def operation(state: ReplicatedState, *arguments: Any) -> Any:
        return method(vars(state)[part], *arguments)

    return operation


_of_tree, _of_ledger = partial(_of, "tree"), partial(_of, "ledger")


QUERIES: Mapping[str, Operation] = {
    "check": queries.check,
    "exists": _of_tree(PathTree.exists),
    "is_dir": _of_tree(PathTree.is_dir),
    "is_file": _of_tree(PathTree.is_file),
    "is_symlink": _of_tree(PathTree.is_symlink),
    "kept": queries.kept,
    "lacking": queries.lacking,
    "list_dir": _of_tree(PathTree.list_dir),
    "list_files": _of_tree(PathTree.list_files),
    "losses": _of_tree(losses),
    "nodes": queries.nodes,
    "outline": _of_tree(PathTree.outline),
    "pins": _of("copies", pins),
    "places": queries.places,
    "read": queries.read,
    "records": _of_tree(records),
    "stat": _of_tree(PathTree.stat),
    "status": _of_ledger(Ledger.status),
    "versions": queries.versions,
    "why": queries.why,
}
"""The requests that read: they leave the state as it is, and are answered as often as asked."""

CHANGES: Mapping[str, Operation] = {
    "adopted": _of_ledger(Ledger.adopted),
    "begin_making": _of("makers", Makers.begin),
    "claim": ReplicatedState.claim,
    "class_arrived": _of("class_versions", ClassVersions.number),
    "confirm": ReplicatedState.confirm,
    "copy": ReplicatedState.copy,
    "create_symlink": ReplicatedState.create_symlink,
    "delete": ReplicatedState.delete,
    "delete_all": ReplicatedState.delete_all,
    "delete_keys": ReplicatedState.delete_keys,
    "done": ReplicatedState.done,
    "drain": ReplicatedState.drain,
    "ensure_directory": _of_tree(PathTree.ensure_directory),
    "end_making": _of("makers", Makers.end),
    "evict": ReplicatedState.evict,
    "expire": ReplicatedState.expire,
    "graft": ReplicatedState.graft,
    "lost": _of("copies", Copies.lost),
    "move": ReplicatedState.move,
    "packed": ReplicatedState.packed,
    "pinned": ReplicatedState.pinned,
    "publish": ReplicatedState.publish,
    "release_claim": _of("claims", Claims.release),
    "renew_claim": _of("claims", Claims.renew),
    "renew_making": _of("makers", Makers.renew),
    "set_fallback": ReplicatedState.set_fallback,
    "set_pinned": ReplicatedState.set_pinned,
    "snapshot": ReplicatedState.snapshot,
    "took_over": ReplicatedState.took_over,
    "volume_joined": ReplicatedState.volume_joined,
    "volume_lost": ReplicatedState.volume_lost,
    "withdraw": ReplicatedState.withdraw,
}
"""The requests that change: each is made once, and by followers as well."""

TIMED = frozenset({"begin_making", "claim", "renew_claim", "renew_making", "took_over"})
"""Those whose last argument is the time by the controller's clock, which it adds itself."""
