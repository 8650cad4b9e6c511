"""Commands for who looks after a store: ``status``, ``why``, ``drain``, ``shutdown``, ``demo``."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import click

from polystore.exceptions import MissingDependencyError
from polystore_ray.cli.failure import Failed
from polystore_ray.cli.output import aligned, fields, human_bytes, print_json, say
from polystore_ray.cli.places import PLACE, Place
from polystore_ray.cli.session import Session, with_session
from polystore_ray.status import NodeStatus, StoreStatus

__all__ = ["demo", "drain", "shutdown", "status", "why"]


@click.command(short_help="Show what a store holds, and where.")
@click.option("--all", "everything", is_flag=True, help="List the stores of the cluster instead.")
@with_session
def status(session: Session, *, everything: bool) -> None:
    """Show what a store holds, and on which nodes."""
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
        say(f"{found.lost} objects are lost; `polystore why` tells how a path was.")
    if found.too_few_replicas:
        say()
        say(f"{found.too_few_replicas} objects are on fewer nodes than was asked for.")
    if found.lost_with_head:
        say()
        say("If Ray's head is lost, so is the store or a part of it:")
        for reason in found.lost_with_head:
            say(f"  {reason}")


def _list_stores(session: Session) -> None:
    if session.local:
        raise click.UsageError("--all asks a cluster, and --local uses none")
    session.connect()
    from polystore_ray.cli.cluster import known_stores

    stores = known_stores()
    if session.as_json:
        print_json([{"store": store.name, "job": store.job} for store in stores])
    else:
        for store in stores:
            say(str(store))


@click.command(short_help="Show where a value is, or how it was lost.")
@click.argument("place", type=PLACE)
@with_session
def why(session: Session, place: Place) -> None:
    """Show where a value of the memory is, or how it was lost."""
    if place.backend != "memory":
        raise click.UsageError(f"only the memory knows where its values are, not {place.backend}")
    facts: dict[str, Any] = session.registry()["memory"].why(place.path)
    if session.as_json:
        print_json(facts)
    else:
        fields(facts)


@click.command(short_help="Have others hold what a node holds.")
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
    """Have the values of a NODE held by others too, before it goes.

    NODE is its id, or the beginning of it, as status shows; by default the node that this runs on.
    Exits with 0 if the node may go, and
    with 1 if it still holds values that no other does.
    """
    registry = session.registry()
    full = "local" if session.local else _full_id(node)
    remaining = registry.drain(full, timeout)
    if session.as_json:
        print_json({"node": full, "held_alone": remaining})
    elif not remaining:
        say(f"{full} may go: others hold all it holds")
    if remaining:
        raise Failed(
            f"{full} still holds {remaining} objects that no other node does; wait longer with "
            f"--timeout, or add a node with room for them"
        )


def _full_id(beginning: str | None) -> str:
    from polystore_ray.rayapi.placement import nodes, this_process

    if beginning is None:
        return this_process()[0]
    found = [node["NodeID"] for node in nodes() if node["NodeID"].startswith(beginning)]
    if len(found) != 1:
        problem = "several nodes' ids begin" if found else "no node's id begins"
        raise Failed(f"{problem} with {beginning!r}; `polystore status` lists them")
    return str(found[0])


@click.command(short_help="End a store.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_session
def shutdown(session: Session, *, yes: bool) -> None:
    """End a store, with everything its memory holds; files and zarr arrays stay."""
    registry = session.registry()
    if not yes:
        ending = f"the store {session.name!r}, with {registry.status().files} files in its memory"
        if not sys.stdin.isatty():
            raise Failed(f"--yes ends {ending}; nobody is here to be asked")
        if not click.confirm(f"End {ending}?", err=True):
            raise Failed("nothing was done")
    registry.shutdown()
    if session.as_json:
        print_json({"ended": session.name})


@click.command(short_help="Segment photographs that tasks share.")
@click.option("--images", type=click.Path(path_type=Path), help="A directory of images.")
@click.option("--out", type=click.Path(path_type=Path), help="Where results go: demo-out.")
@with_session
def demo(session: Session, images: Path | None, out: Path | None) -> None:
    """Segment photographs in Ray tasks that share them through the cluster memory."""
    if session.local or session.as_json:
        raise click.UsageError("the demo knows neither --local nor --json")
    try:
        from polystore_ray.demo.__main__ import main
    except ImportError as error:
        raise MissingDependencyError(
            f"the demo needs the package {error.name!r}: pip install 'polystore-ray[demo]'"
        ) from error
    given = {"--images": images, "--out": out, "--address": session.address}
    arguments = [str(part) for pair in given.items() if pair[1] is not None for part in pair]
    code = main(arguments)
    if code:
        click.get_current_context().exit(code if code == 130 else 1)
