"""Commands for operators: ``status``, ``lost``, ``why``, ``drain``, ``shutdown`` and ``demo``."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import click

from polystore.exceptions import missing_dependency
from polystore_ray.cli.failure import Failed
from polystore_ray.cli.output import aligned, fields, human_bytes, moment, print_json, say
from polystore_ray.cli.places import PLACE, Place
from polystore_ray.cli.session import Session, with_session
from polystore_ray.status import LostValue, NodeStatus, StoreStatus

__all__ = ["demo", "drain", "lost", "shutdown", "status", "why"]


@click.command(short_help="Show what a store holds on each node.")
@click.option("--all", "everything", is_flag=True, help="List the stores of the cluster instead.")
@with_session
def status(session: Session, *, everything: bool) -> None:
    """Show what a store holds on each node."""
    if everything:
        _list_stores(session)
        return
    found = session.registry().status()
    if session.as_json:
        print_json(found)
        return
    facts = dataclasses.asdict(found)
    del facts["nodes"], facts["lost_with_head"]
    fields(facts | {"answered_in": f"{1000 * found.answered_in:.1f} ms"})
    say()
    aligned([_HEADINGS, *map(_node_row, found.nodes)])
    _warn(found)


_HEADINGS = ("NODE", "HOST", "CAPACITY", "PINNED", "ADOPTED", "SPILLED", "BACKENDS")


def _node_row(node: NodeStatus) -> tuple[str, ...]:
    return (
        node.node,
        node.host,
        human_bytes(node.capacity),
        f"{human_bytes(node.pinned_bytes)} in {node.pinned}",
        f"{human_bytes(node.adopted_bytes)} in {node.adopted}",
        human_bytes(node.spilled_bytes),
        ", ".join(node.backends),
    )


def _warn(found: StoreStatus) -> None:
    if found.lost:
        say()
        say(f"{found.lost} values are lost; `polystore lost` lists them.")
    if found.too_few_replicas:
        say()
        say(f"{found.too_few_replicas} objects have fewer replicas than requested.")
    if found.lost_with_head:
        say()
        say("Losing Ray's head loses the store or a part of it:")
        for reason in found.lost_with_head:
            say(f"  {reason}")


def _list_stores(session: Session) -> None:
    if session.local:
        raise click.UsageError("--all lists the stores of a cluster; remove --local")
    session.connect()
    from polystore_ray.cli.cluster import known_stores

    stores = known_stores()
    if session.as_json:
        print_json([{"store": store.name, "job": store.job} for store in stores])
    else:
        for store in stores:
            say(str(store))


@click.command(short_help="List the values that are lost.")
@click.argument("place", type=PLACE, default="memory:/")
@with_session
def lost(session: Session, place: Place) -> None:
    """List the values at and below a path whose bytes are lost: when, where and how.

    A value with a fallback is restored by its next load. Exits with 1 if any value is lost.
    """
    if place.backend != "memory":
        raise click.UsageError(f"lost works for memory:PATH only, not for {place.backend}")
    memory: Any = session.registry()["memory"]
    found: list[LostValue] = memory.lost(place.path)
    if session.as_json:
        print_json(found)
    else:
        aligned(
            (value.path, moment(value.time), _lost_node(value), _lost_how(value)) for value in found
        )
    if found:
        raise Failed(f"{len(found)} values are lost; load or compute them again, and save them")


def _lost_node(value: LostValue) -> str:
    return f"{value.host} {value.node[:8]}".strip() or "-"


def _lost_how(value: LostValue) -> str:
    if value.fallback is None:
        return value.reason
    return f"{value.reason}; the next load restores it from {':'.join(value.fallback)}"


@click.command(short_help="Show where a value is, or why it was lost.")
@click.argument("place", type=PLACE)
@with_session
def why(session: Session, place: Place) -> None:
    """Show which nodes hold a value of the memory, or why it was lost."""
    if place.backend != "memory":
        raise click.UsageError(f"why works for memory:PATH only, not for {place.backend}")
    facts: dict[str, Any] = session.registry()["memory"].why(place.path)
    if session.as_json:
        print_json(facts)
    else:
        fields(facts)


@click.command(short_help="Copy a node's values to other nodes.")
@click.argument("node", required=False)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    help="Seconds to wait.",
)
@with_session
def drain(session: Session, node: str | None, timeout: float) -> None:
    """Copy the values that only NODE holds to other nodes, before NODE is removed.

    NODE is an id, or the beginning of an id, as status shows it; by default the node that runs this
    command. Exits with 0 if the node can be removed, and with 1 if it still holds values that no
    other node holds.
    """
    registry = session.registry()
    full = "local" if session.local else _full_id(node)
    remaining = registry.drain(full, timeout)
    if session.as_json:
        print_json({"node": full, "held_alone": remaining})
    elif not remaining:
        say(f"{full} can be removed: other nodes hold all its values")
    if remaining:
        raise Failed(
            f"{full} still holds {remaining} objects that no other node holds; raise --timeout, or "
            f"add a node with enough memory"
        )


def _full_id(beginning: str | None) -> str:
    from polystore_ray.rayapi.placement import nodes, this_process

    if beginning is None:
        return this_process()[0]
    found = [node["NodeID"] for node in nodes() if node["NodeID"].startswith(beginning)]
    if len(found) != 1:
        problem = "several node ids begin" if found else "no node id begins"
        raise Failed(f"{problem} with {beginning!r}; `polystore status` lists the nodes")
    return str(found[0])


@click.command(short_help="End a store.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_session
def shutdown(session: Session, *, yes: bool) -> None:
    """End a store and delete everything in its memory; files and zarr arrays stay."""
    registry = session.registry()
    if not yes:
        ending = f"the store {session.name!r} and the {registry.status().files} files in its memory"
        if not sys.stdin.isatty():
            raise Failed(f"this deletes {ending}; confirm with --yes")
        if not click.confirm(f"Delete {ending}?", err=True):
            raise Failed("cancelled; nothing was deleted")
    registry.shutdown()
    if session.as_json:
        print_json({"ended": session.name})


@click.command(short_help="Run the demo: segment photographs.")
@click.option("--images", type=click.Path(path_type=Path), help="A directory of images.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="The directory for results; by default demo-out."
)
@with_session
def demo(session: Session, images: Path | None, out: Path | None) -> None:
    """Segment photographs in Ray tasks that share them through the cluster memory."""
    if session.local or session.as_json:
        raise click.UsageError("the demo takes neither --local nor --json")
    try:
        from polystore_ray.demo.__main__ import main
    except ImportError as error:
        raise missing_dependency("the demo", error, "demo") from error
    given = {"--images": images, "--out": out, "--address": session.address}
    arguments = [str(part) for pair in given.items() if pair[1] is not None for part in pair]
    code = main(arguments)
    if code:
        click.get_current_context().exit(code if code == 130 else 1)
