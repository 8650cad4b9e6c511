"""Which node a name means: by id, host name, address, Ray's node name or a label."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from polystore_ray.errors import NodeNotFoundError

__all__ = ["Node", "node_called"]

_SHORTEST_PREFIX = 8  # digits of an id
_OWN = "ray.io/"  # prefix of Ray's own labels, which errors omit


@dataclass(frozen=True, slots=True)
class Node:
    """The names of a node.

    - `names`: its host name, its address, and the name that it was started with
    """

    id: str
    names: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, float] = field(default_factory=dict)

    def is_called(self, name: str) -> bool:
        """Return whether a name fits this node; case does not matter."""
        wanted = name.lower()
        label, is_label, value = wanted.partition("=")
        if is_label:
            return any(
                (known.lower(), has.lower()) == (label, value) for known, has in self.labels.items()
            )
        return (
            wanted == self.id
            or (len(wanted) >= _SHORTEST_PREFIX and self.id.startswith(wanted))
            or wanted in map(str.lower, self.names)
        )

    def lacks(self, needs: Mapping[str, Any]) -> str:
        """Return what an actor with these options needs and this node lacks, or ""."""
        amounts = {"CPU": needs.get("num_cpus"), "GPU": needs.get("num_gpus")}
        amounts |= needs.get("resources", {})
        lacking = [
            f"{amount:g} {name}"
            for name, amount in amounts.items()
            if amount and self.resources.get(name, 0) < amount
        ]
        lacking += [
            f"the label {key}={wanted}"
            for key, wanted in needs.get("label_selector", {}).items()
            if not _selects(wanted, self.labels.get(key))
        ]
        return " and ".join(lacking)

    def __str__(self) -> str:
        labels = [f"{k}={v}" for k, v in self.labels.items() if not k.startswith(_OWN)]
        return f"{self.id} ({', '.join(dict.fromkeys([*self.names, *labels]))})"


def _selects(wanted: str, has: str | None) -> bool:
    """Return whether a label fits Ray's selector: ``a``, ``in(a, b)``, or ``!`` before either."""
    text = wanted.removeprefix("!")
    inside = text[3:-1] if text.startswith("in(") and text.endswith(")") else text
    fits = has is not None and has in [value.strip() for value in inside.split(",")]
    return fits != wanted.startswith("!")


def node_called(name: str, nodes: Iterable[Node]) -> Node:
    """Return the one node that a name fits.

    Raises `NodeNotFoundError` if it fits no node or several nodes; the error lists them.
    """
    known = list(nodes)
    found = [node for node in known if node.is_called(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise NodeNotFoundError(
            f"{name!r} fits several nodes; use a node id or at least {_SHORTEST_PREFIX} digits of "
            f"it: {_listed(found)}"
        )
    raise NodeNotFoundError(
        f"no node of the cluster has the name {name!r}; use a node id or at least "
        f"{_SHORTEST_PREFIX} digits of it, a host name, an address, or a label key=value of: "
        f"{_listed(known)}"
    )


def _listed(nodes: list[Node]) -> str:
    return "; ".join(sorted(map(str, nodes)))
