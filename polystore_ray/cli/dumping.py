"""Commands for dumps: ``dump``, ``restore`` and ``verify``."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from polystore_ray.cli.failure import Failed
from polystore_ray.cli.output import human_bytes, moment, print_json, progress_bar, say
from polystore_ray.cli.session import Session, with_session
from polystore_ray.config.store import StoreOptions
from polystore_ray.dumps import Manifest
from polystore_ray.dumps import dump as write_dump
from polystore_ray.dumps import restore as restore_dump
from polystore_ray.dumps import verify as verify_dump
from polystore_ray.dumps.files import files_at

__all__ = ["dump", "restore", "verify"]

_QUIET = click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
_WHERE = "DIRECTORY-OR-URL"
_OPTIONS = {field.name for field in dataclasses.fields(StoreOptions)} - {"backends"}


@click.command(short_help="Write all that a store's memory holds into files.")
@click.argument("name", metavar="STORE")
@click.argument("destination", metavar=_WHERE)
@_QUIET
@with_session
def dump(session: Session, name: str, destination: str, *, quiet: bool) -> None:
    """Write all that STORE's memory holds into an empty directory, or to a URL.

    All values are of one moment, while jobs go on to use the store. The nodes that hold values
    write them, if they share the directory. Exits with 1 if the store has lost values, which the
    dump lacks; it is whole otherwise.
    """
    registry = dataclasses.replace(session, store=name).registry()
    with progress_bar("dumping", hidden=quiet) as progress:
        manifest = write_dump(registry, destination, progress=progress)
    _show(session, "dumped", manifest)
    if manifest.lost:
        raise Failed(
            f"the dump lacks {manifest.lost} values that the store has lost; "
            f"`polystore --store {name} lost` lists them"
        )


@click.command(short_help="Fill an empty store with a dump.")
@click.argument("source", metavar=_WHERE)
@click.argument("name", metavar="STORE")
@click.option(
    "--replicas",
    type=click.IntRange(min=1),
    help="On how many nodes each value is held; by default as in the dump.",
)
@click.option(
    "--max-bytes",
    type=click.IntRange(min=1),
    help="The limit of a store that is created; by default as in the dump.",
)
@_QUIET
@with_session
def restore(
    session: Session,
    source: str,
    name: str,
    *,
    replicas: int | None,
    max_bytes: int | None,
    quiet: bool,
) -> None:
    """Fill STORE with a dump. All of it appears in one step, or nothing.

    Creates the detached store if it is missing, with the options of the store that was dumped. Its
    memory must be empty. Nothing in the dump is run; loading a value runs what its author chose.
    """
    recorded = Manifest.read(files_at(source)).options
    options = {option: value for option, value in recorded.items() if option in _OPTIONS}
    given = {"replicas": replicas, "max_bytes": max_bytes}
    options |= {option: value for option, value in given.items() if value is not None}
    chosen = dataclasses.replace(session, store=name)
    try:
        registry, is_new = chosen.registry(), False
    except Failed:
        registry, is_new = chosen.registry(create=True, options=options), True
    try:
        with progress_bar("restoring", hidden=quiet) as progress:
            manifest = restore_dump(registry, source, replicas=replicas, progress=progress)
    except BaseException:
        if is_new:
            registry.shutdown()
        raise
    _show(session, "restored", manifest)


@click.command(short_help="Check the checksums of a dump.")
@click.argument("source", metavar=_WHERE)
@_QUIET
@with_session
def verify(session: Session, source: str, *, quiet: bool) -> None:
    """Read a whole dump and compare its checksums. Needs no store; opens no value."""
    with progress_bar("verifying", hidden=quiet) as progress:
        manifest = verify_dump(source, progress=progress)
    _show(session, "verified", manifest)


def _show(session: Session, what: str, manifest: Manifest) -> None:
    facts: dict[str, Any] = dataclasses.asdict(manifest)
    facts["files"], facts["lost_objects"] = len(manifest.files), len(manifest.lost_objects)
    if session.as_json:
        print_json(facts)
    else:
        size, when = human_bytes(manifest.bytes), moment(manifest.moment)
        say(f"{what} {manifest.values} values, {size}, of store {manifest.store} at {when}")
