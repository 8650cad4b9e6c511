"""The command ``ui``: serve a page to look at a store."""

from __future__ import annotations

import click

from polystore_ray.cli.output import print_json, say
from polystore_ray.cli.session import Session, with_session

__all__ = ["ui"]


@click.command(short_help="Serve a page to look at a store.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="The address of this machine at which browsers reach the page.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="The port; by default, any free one.",
)
@click.option(
    "--host-name",
    "host_names",
    metavar="NAME",
    multiple=True,
    help="Another name of this machine that browsers use.",
)
@click.option("--open", "is_opened", is_flag=True, help="Open the page in a browser.")
@with_session
def ui(
    session: Session, *, host: str, port: int, host_names: tuple[str, ...], is_opened: bool
) -> None:
    """Serve a read-only page on a store and its backends, until the command is interrupted.

    The address that is printed is the only key to the page: whoever has it can read all that this
    command can read. The page is not encrypted; to reach it from another machine, use an SSH
    tunnel.
    """
    page = session.registry().ui(host=host, port=port, host_names=host_names)
    if session.as_json:
        print_json({"url": page.url})
    else:
        say(f"The page is at {page.url}")
        say("It ends with Ctrl-C.")
    if is_opened:
        click.launch(page.url)
    try:
        page.wait()
    finally:
        page.stop()
