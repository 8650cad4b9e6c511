"""The command ``doctor``: whether a cluster is fit for a store, and what to do where it is not."""

from __future__ import annotations

import platform
from collections.abc import Iterator

import click
import numpy as np

import polystore
from polystore import StorageError
from polystore_ray.cli.failure import Failed, one_line
from polystore_ray.cli.finding import Finding
from polystore_ray.cli.output import aligned, print_json
from polystore_ray.cli.session import Session, with_session

__all__ = ["doctor"]

_ANSWER_WITHIN = 30.0  # seconds


@click.command(short_help="Examine this machine and the cluster.")
@with_session
def doctor(session: Session) -> None:
    """Examine this machine and the cluster, and say what to do about what is not well.

    Looks at versions, the size of each object store and the shared memory it lies in, actors that
    cannot be scheduled, clocks, authentication and encryption. Exits with 1 if something fails.
    """
    findings = [*_here()]
    if not session.local:
        findings += _of_the_cluster(session)
    if session.as_json:
        print_json([finding._asdict() for finding in findings])
    else:
        aligned(
            (found.verdict, found.what, "; ".join(filter(None, (found.seen, found.cure))))
            for found in findings
        )
    failures = [finding.what for finding in findings if finding.verdict == "failure"]
    if failures:
        raise Failed(f"not well: {', '.join(failures)}")


def _here() -> Iterator[Finding]:
    import ray

    versions = f"polystore {polystore.__version__}, Ray {ray.__version__}, NumPy {np.__version__}"
    yield Finding("versions here", "ok", f"Python {platform.python_version()}, {versions}")
    if platform.system() != "Linux":
        yield Finding(
            "system", "failure", platform.system(), "the cluster part is for Linux; use --local"
        )


def _of_the_cluster(session: Session) -> Iterator[Finding]:
    try:
        session.connect()
    except (Failed, StorageError) as error:
        yield Finding("cluster", "failure", one_line(error))
        return
    from polystore_ray.cli.examination import examine

    yield from examine(_ANSWER_WITHIN)
